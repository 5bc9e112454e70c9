"""Who holds a lock and whether it runs: here by its process; what Slurm says is in tests/test_slurm.py."""

import errno
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from qtuning import files
from qtuning.files import exclusive
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


def test_a_process_on_another_node_is_unknown_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    assert replace(current(), host="another-node").runs() is None
    assert replace(current(), host="another-node", slurm="42").runs() is None
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert replace(current(), host="another-node", slurm="42").runs() is False, "our own job, which Slurm started again"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """Lustre mounted without `flock` refuses it. The job says so, and still waits for a holder that runs."""

    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("qtuning.files.fcntl.flock", refused)
    monkeypatch.setattr(files, "POLL_SECONDS", 0.05)
    lock = tmp_path / "cell.lock"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        lock.write_text(replace(current(), process=process.pid, started=started).text())
        ending = threading.Timer(0.5, process.kill)
        ending.start()
        before = time.monotonic()
        with exclusive(lock, "the test"):
            assert time.monotonic() - before > 0.4
            assert parse(lock.read_text()) == current()
        assert lock.read_text() == ""
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"{lock}: this file system has no locks (docs/cluster.md)"
    assert said[1].startswith(f"waiting for process {process.pid} on ") and said[1].endswith("busy with the test")
    assert len(said) == 2


def test_other_errors_of_a_lock_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("qtuning.files.fcntl.flock", broken)
    with pytest.raises(OSError, match="broken"), exclusive(tmp_path / "cell.lock", "the test"):
        raise AssertionError("must not be reached")


def test_a_lock_that_another_node_left_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr("qtuning.holders.socket.gethostname", lambda: "node-1")
    lock = tmp_path / "cell.lock"
    lock.write_text(current().text())
    monkeypatch.setattr("qtuning.holders.socket.gethostname", lambda: "node-2")
    with exclusive(lock, "the test"):
        pass
    assert "left by process" in capsys.readouterr().err
