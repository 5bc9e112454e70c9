"""How far a job is: its lines, its file, and what becomes of the file however the job ends."""

import contextlib
import fcntl
import json
import math
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning import progress
from qtuning.progress import Progress, Reporter, beside, duration, read_progress

FIGURES = {"loss": 1.2345, "samples_kept": 12, "samples_asked": 10, "tokens_kept": 1234, "tokens_asked": 1200}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "state" / "gemma-3.1b-s0.lock"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is printed and written at once."""
    for name in ("FIRST_SECONDS", "MOST_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(progress, name, 0.0)


@pytest.mark.usefixtures("eager")
def test_a_log_gets_plain_lines_and_the_file_the_same(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(beside(lock)) as reporter, reporter.doing("update", 300, first=100):
        reporter.at(150, 200, FIGURES | {"tokens_per_second": 850.4})
        found = read_progress(lock)
        lines = capsys.readouterr().err.splitlines()
    assert found.text() == lines[-1]
    known, left = lines[-1].rsplit(", ", 1)
    assert known == "update 150/200 (75%), loss 1.23, kept 12/10 samples and 1,234/1,200 tokens, 850 tokens/s"
    assert left.endswith(" left") and found.share == 0.75
    assert beside(lock).name == "gemma-3.1b-s0.progress"
    assert all(line.isprintable() for line in lines)


def test_lines_become_rarer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = 1000.0
    monkeypatch.setattr("qtuning.progress.time.monotonic", lambda: clock)
    reporter, printed = Reporter(), []
    with reporter.doing("update", 1000):
        for second in range(301):
            clock = 1000.0 + second
            reporter.at(second, 1000)
            if capsys.readouterr().err:
                printed.append(second)
    assert printed == [5, 15, 35, 75, 135, 195, 255]


def test_what_is_done_inside_something_else_goes_back_to_it(lock: Path) -> None:
    with Reporter(beside(lock)) as reporter, reporter.doing("update", 10, first=4):
        with reporter.doing("scoring sample", 60):
            reporter.advance(8)
            assert read_progress(lock).doing == "scoring sample"
        reporter.advance(1)
        assert (reporter._progress.doing, reporter._progress.done, reporter._progress.first) == ("update", 5, 4)


@pytest.mark.parametrize(
    ("error", "stays"), [(None, False), (ValueError("x"), False), (KeyboardInterrupt(), True), (SystemExit(1), True)]
)
def test_the_file_goes_unless_the_job_was_stopped(lock: Path, error: BaseException | None, stays: bool) -> None:
    with (
        contextlib.nullcontext() if error is None else pytest.raises(type(error)),
        Reporter(beside(lock)) as reporter,
        reporter.doing("update", 10),
    ):
        assert read_progress(lock).total == 10
        if error is not None:
            raise error
    assert (read_progress(lock) is not None) == stays


def test_a_folder_that_cannot_be_written_to_stops_no_job(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Reporter(tmp_path / "file" / "x.progress") as reporter, reporter.doing("update", 10):
        reporter.at(3, 10, {"loss": math.nan})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"doing": "update"}', json.dumps({"other": 1})])
def test_what_cannot_be_read_is_unknown(lock: Path, text: str) -> None:
    lock.parent.mkdir()
    beside(lock).write_text(text)
    assert read_progress(lock) is None


@settings(deadline=None)  # of a busy machine
@given(
    total=st.integers(1, 10**6),
    first=st.integers(0, 10**6),
    made=st.integers(1, 10**6),
    seconds=st.floats(0.001, 1e6),
)
def test_the_time_left_is_that_of_what_is_left_at_the_speed_so_far(
    total: int, first: int, made: int, seconds: float
) -> None:
    found = Progress("update", first + made, first + made + total, first, seconds, 0.0)
    assert found.seconds_left == pytest.approx(total / (made / seconds))
    assert Progress("update", first, total, first, seconds, 0.0).seconds_left is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5340, "89 min"), (5400, "1 h 30 min"), (3 * 86400, "3.0 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


PROGRAM = """
import qtuning.progress as p
p.FIRST_SECONDS = 0.0
r = p.Reporter()
with r.doing("update", 3):
    for n in range(4):
        r.at(n, 3, {"loss": 2.5})
"""


def test_a_terminal_gets_a_bar_and_a_pipe_none() -> None:
    command = [sys.executable, "-c", PROGRAM]
    piped = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "update 3/3 (100%), loss 2.5" in piped and all(line.isprintable() for line in piped.splitlines())
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    with subprocess.Popen(command, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # how Linux ends a terminal
            pass
    os.close(ours)
    assert process.returncode == 0
    assert b"\r" in shown and b"3/3" in shown and b"loss 2.5" in shown
