"""Who holds a lock and whether it runs: here by its process; what Slurm says is in tests/test_slurm.py."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qtuning.holders import current, parse


def test_a_holder_is_what_its_file_says() -> None:
    assert parse(current().text()) == current()
    for text in ("", "123", "{", "[1]", '{"process": 1}'):
        assert parse(text) is None


def test_a_process_here_runs_until_it_ends() -> None:
    assert current().runs() is True
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        other = replace(current(), process=process.pid, started=started)
        assert other.runs() is True
        assert replace(other, started=started - 1).runs() is False, "a later process of the same number"
        process.kill()
    assert other.runs() is False


def test_without_proc_the_kernels_lock_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS a holder that was killed seemed to run for ever, since no process has a start there."""
    killed = current()
    monkeypatch.setattr("qtuning.holders.Path", lambda name: tmp_path / name.lstrip("/"))
    assert killed.runs() is False


def test_a_process_on_another_node_is_unknown_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    assert replace(current(), host="another-node").runs() is None
    assert replace(current(), host="another-node", slurm="42").runs() is None
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert replace(current(), host="another-node", slurm="42").runs() is False, "our own job, which Slurm started again"
