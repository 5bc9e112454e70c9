"""What processes tell each other from the host: whole, in order, over gloo, and with an end to waiting.

Run as a script (`test_exchange.py FOLDER`) it forks the two processes.
"""

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from ports import free_port
from torch import distributed

from qtuning.train.exchange import (
    DEVICE_WAIT,
    HOST_WAIT,
    LOCK_WAIT,
    gather_objects,
    host_group,
    sum_over_processes,
    wait_for_everyone,
)

ROOT = Path(__file__).parents[2]


def test_one_process_has_what_it_gives() -> None:
    value = torch.tensor([1.0, 2.0])
    assert sum_over_processes(value) is value and gather_objects([1, "a"]) == [1, "a"]
    wait_for_everyone()
    assert host_group() is None


def test_a_lost_gpu_is_noticed_in_minutes() -> None:
    """A hang used to cost seven days of GPUs; only the lock, for which the host waits alone, may take so long."""
    assert timedelta(minutes=1) <= DEVICE_WAIT < timedelta(minutes=30) < HOST_WAIT < timedelta(hours=12) < LOCK_WAIT


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    subprocess.run(
        [sys.executable, __file__, str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        check=True,
        timeout=300,
    )
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_know_the_same(two: list[dict[str, Any]]) -> None:
    for told in two:
        assert told["gathered"] == ["of 0", "of 1", "also of 1"], "in the order of the processes"
        assert told["sum"] == [3.0, 30.0]


def test_the_groups_end_their_waits(two: list[dict[str, Any]]) -> None:
    for told in two:
        assert told["backend"] == "gloo"
        assert told["device_wait"] == DEVICE_WAIT.total_seconds(), "of the group that GPUs wait in"


def test_who_waits_for_the_dead_learns_of_it(two: list[dict[str, Any]]) -> None:
    """Process 1 has gone without a word."""
    assert two[0]["error"] and two[0]["waited"] < 60


def main(rank: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2]}
    from qtuning.train.accelerator import make_accelerator

    accelerator = make_accelerator("no", sharded=False)
    default = distributed.distributed_c10d._get_default_group()
    told: dict[str, Any] = {
        "gathered": gather_objects(["of 0"] if rank == 0 else ["of 1", "also of 1"]),
        "sum": sum_over_processes(torch.tensor([1.0, 10.0]) * (rank + 1)).tolist(),
        "backend": distributed.get_backend(host_group()),
        "device_wait": default._get_backend(accelerator.device).options._timeout.total_seconds(),
    }
    if rank == 0:
        began = time.monotonic()
        try:
            gather_objects([rank])
        except RuntimeError as error:
            told |= {"error": str(error), "waited": time.monotonic() - began}
    (folder / f"{rank}.json").write_text(json.dumps(told))
    os._exit(0)


if __name__ == "__main__":
    sys.argv.append(str(free_port()))
    child = os.fork()
    main(int(child == 0), Path(sys.argv[1]))
