"""One holder at a time, on this machine and where the kernel's locks do not reach."""

import errno
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qtuning import locks
from qtuning.holders import current, parse
from qtuning.locks import exclusive

HOLD = (
    "import sys, time; from pathlib import Path; from qtuning.locks import exclusive\n"
    "with exclusive(Path(sys.argv[1]), 'the test'):\n    print('held', flush=True); sys.stdin.readline()"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """start() -> a process that takes the lock, says so, and holds it until it reads a line."""
    processes: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLD, str(tmp_path / "sub" / "x.lock")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def name(process: "subprocess.Popen[str]") -> str:
    return f"process {process.pid} on {socket.gethostname()}"


def named(lock: Path) -> int:
    """The number of the process that a lock file names."""
    holder = parse(lock.read_text())
    assert holder is not None
    return holder.process


@pytest.mark.parametrize("ending", ["exit", "kill"])
def test_one_holder_at_a_time(tmp_path: Path, start: Callable[[], "subprocess.Popen[str]"], ending: str) -> None:
    """The second waits, says for whom, and goes on however the first ends."""
    lock = tmp_path / "sub" / "x.lock"
    first = start()
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    second = start()
    assert second.stdout is not None and second.stderr is not None
    assert second.stderr.readline() == f"waiting for {name(first)}, which is busy with the test\n"
    assert select.select([second.stdout], [], [], 0.3)[0] == [], "it does not hold the lock yet"
    if ending == "kill":
        first.kill()
    else:
        first.communicate("\n", timeout=60)
    assert second.stdout.readline() == "held\n"
    assert named(lock) == second.pid
    second.communicate("\n", timeout=60)
    assert second.returncode == 0
    with locks.exclusive(lock, "the test"):
        assert named(lock) == os.getpid()


def test_who_waits_for_a_lock_that_is_removed_takes_the_new_one(
    tmp_path: Path, start: Callable[[], "subprocess.Popen[str]"]
) -> None:
    """`qtuning doctor --repair` removes locks that nobody holds. Two jobs must never hold an old one and a new one."""
    lock = tmp_path / "sub" / "x.lock"
    first = start()
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    assert locks.is_held(lock) and not locks.remove_lock(lock)
    second = start()
    assert second.stderr is not None and "waiting for process" in second.stderr.readline()
    lock.unlink()  # as if it had been idle when it was looked at
    first.communicate("\n", timeout=60)
    assert second.stdout is not None and second.stdout.readline() == "held\n"
    assert named(lock) == second.pid, "it holds the file that others will find"
    second.communicate("\n", timeout=60)
    assert locks.remove_lock(lock) and not lock.exists()
    assert not locks.is_held(lock) and not locks.remove_lock(lock)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """Lustre mounted without `flock` refuses it. The job says so, and still waits for a holder that runs."""

    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("qtuning.locks.fcntl.flock", refused)
    lock = tmp_path / "cell.lock"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        lock.write_text(replace(current(), process=process.pid, started=started).text())
        looks: list[float] = []

        def look_again(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                process.kill()
                process.wait()

        monkeypatch.setattr("qtuning.locks.time.sleep", look_again)
        with exclusive(lock, "the test"):
            assert looks == [locks.POLL_SECONDS] * 3, "as long as the holder ran"
            assert parse(lock.read_text()) == current()
        assert lock.read_text() == ""
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"{lock}: this file system has no locks (docs/cluster.md)"
    assert said[1].startswith(f"waiting for process {process.pid} on ") and said[1].endswith("busy with the test")
    assert len(said) == 2


def test_other_errors_of_a_lock_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("qtuning.locks.fcntl.flock", broken)
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


def test_a_lock_that_another_node_left_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel grants its lock, so who held it has ended; `doctor --repair` could not remove such a file."""
    monkeypatch.setattr("qtuning.holders.socket.gethostname", lambda: "node-1")
    lock = tmp_path / "cell.lock"
    lock.write_text(current().text())
    monkeypatch.setattr("qtuning.holders.socket.gethostname", lambda: "node-2")
    assert not locks.is_held(lock)
    with locks.exclusive_if_free(lock) as free:
        assert free
    assert locks.remove_lock(lock)
