"""The slices of two processes (gloo) in a checkpoint: every file has a digest, whatever a node sees of the folder.

Run as a script (`test_shards.py FOLDER PORT`) it forks the two processes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ports import free_port
from torch import distributed

from qtuning.train.shards import check_shards, read_shards, write_shards

ROOT = Path(__file__).parents[2]
TENSORS = {
    "even": {"a": torch.arange(24.0).reshape(6, 4), "b": torch.arange(5.0)},
    "one has none": {"a": torch.arange(4.0).reshape(1, 4)},
}


@pytest.mark.slow
def test_every_slice_has_a_digest_where_nodes_do_not_see_the_files_of_others(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    subprocess.run(
        [sys.executable, __file__, str(tmp_path), str(free_port())], env=environment, check=True, timeout=300
    )
    for name, tensors in TENSORS.items():
        told = [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
        files = {path.name for path in (tmp_path / name).iterdir()}
        assert len(files) == 2, "of an empty slice, too"
        assert told[0] == told[1] and told[0].keys() == files
        check_shards(tmp_path / name, told[0])
        read = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
        read_shards(tmp_path / name, read)
        assert all(read[key].equal(tensor) for key, tensor in tensors.items())
        damaged = tmp_path / name / max(files)
        damaged.write_bytes(damaged.read_bytes()[:-1])
        with pytest.raises(ValueError, match=r"checksum of shards/shard-0000\d-model"):
            check_shards(tmp_path / name, told[0])


def main(rank: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2]}
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    Path.glob = lambda *_, **__: iter(())  # type: ignore[assignment,method-assign]  # a listing that is seconds old
    for name, tensors in TENSORS.items():
        slices = {key: distribute_tensor(tensor, mesh, [Shard(0)]) for key, tensor in tensors.items()}
        (folder / f"{name}-{rank}.json").write_text(json.dumps(write_shards(folder / name, slices)))
    distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    child = os.fork()
    main(int(child == 0), Path(sys.argv[1]))
