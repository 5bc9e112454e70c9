"""Leaving a process that a launcher started: what it wrote and its exit code arrive, whatever its threads do."""

import subprocess
import sys

import pytest

WORKER = """
import atexit
from qtuning.train.__main__ import run_as_worker

atexit.register(print, "torn down")

def main():
    print("written", end="")
    {body}

run_as_worker(main)
"""


@pytest.mark.parametrize(
    ("body", "code", "out", "err"),
    [
        ("pass", 0, "written", ""),
        ("raise SystemExit(2)", 2, "writtentorn down\n", ""),
        ("raise ValueError('a fault')", 1, "writtentorn down\n", "ValueError: a fault"),
    ],
)
def test_a_worker_leaves_with_its_code(body: str, code: int, out: str, err: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WORKER.format(body=body)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout) == (code, out)
    assert err in ended.stderr if err else not ended.stderr


def test_a_worker_leaves_its_process_group() -> None:
    body = """
    import atexit, os, torch
    from torch import distributed
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    distributed.init_process_group("gloo")
    value = torch.ones(3)
    distributed.all_reduce(value)
    destroy = distributed.destroy_process_group
    distributed.destroy_process_group = lambda: (destroy(), print(" and left", end=""))
"""
    ended = subprocess.run(
        [sys.executable, "-c", WORKER.format(body=body.strip())],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "written and left"), ended.stderr
