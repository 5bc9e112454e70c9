"""A disk that is full, a folder that takes nothing, a memory that is short: one line, and exit status 2."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qtuning.cli import app as command_line
from qtuning.errors import UserError, memory_problem, storage_problem
from qtuning.files import atomic_path, write_text
from qtuning.train.__main__ import _note
from qtuning.train.lines import LineFile


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, which can be remounted read-only."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if os.geteuid() or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(small: Path) -> None:
    with pytest.raises(UserError) as caught:
        write_text(small / "trace.json", "x" * 100_000)
    assert str(caught.value) == (
        f"{small / 'trace.json'}: No space left on device; free some space, then the same command goes on"
    )
    assert not list(small.iterdir()), "nothing half-made is left"


@pytest.mark.parametrize("library", ["safetensors", "polars", "pyarrow"])
def test_a_full_disk_by_libraries(small: Path, library: str) -> None:
    import numpy as np
    import polars as pl
    from safetensors.numpy import save_file

    values = np.random.default_rng(0).random(50_000)
    write: dict[str, Callable[[Path], object]] = {
        "safetensors": lambda path: save_file({"x": values}, path),
        "polars": lambda path: pl.DataFrame({"x": values}).lazy().sink_parquet(path),
        "pyarrow": lambda path: pl.DataFrame({"x": values}).write_parquet(path, use_pyarrow=True),
    }

    def fill() -> None:
        with atomic_path(small / "weights") as temporary:
            write[library](temporary)

    with pytest.raises(UserError, match=rf"{small}/weights: No space left on device; free some space"):
        fill()


def test_metrics_that_find_no_room(small: Path) -> None:
    lines = LineFile(small / "metrics.jsonl", b"")
    for _ in range(7):
        lines.add("x" * 8000)
    with pytest.raises(UserError, match=r"metrics\.jsonl: No space left on device; free"):
        lines.add("x" * 16384)


def test_a_failure_that_cannot_be_noted(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "rest").write_bytes(b"x" * 65536)
    _note(small / "failed.json", {"status": "failed", "reason": "UserError: the cause"})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"not noted in failed.json: {small / 'failed.json'}: No space left on device")


def test_a_read_only_folder(small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with pytest.raises(UserError, match=rf"{small}.*: Read-only file system; make it writable, or give another folder"):
        write_text(small / "cells" / "cell.json", "{}")


def test_a_limit_of_file_sizes(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from qtuning.files import write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); write_text(Path(sys.argv[1]), 'x' * 5000)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert f"UserError: {tmp_path / 'a'}: File too large; raise the limit of file sizes" in ended.stderr


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (UserError("config: key = 1: must be 2"), 2, "error: config: key = 1: must be 2\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: a file: No space left on device; free some"),
        (PermissionError(errno.EACCES, "no", "results/x"), 2, "error: results/x: Permission denied; make it writable"),
        (RuntimeError("IoError(Os { code: 28, kind: StorageFull })"), 2, "error: a file: No space left"),
        (MemoryError("Unable to allocate 3 GiB"), 2, "error: out of memory (Unable to allocate 3 GiB); run fewer"),
        (ValueError("exit code: 28"), 1, "ValueError: exit code: 28"),
    ],
)
def test_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: Exception, status: int, said: str
) -> None:
    def run() -> None:
        raise raised

    monkeypatch.setattr(command_line, "app", run)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == status
    told = capsys.readouterr().err
    assert said in told and (status == 1 or len(told.splitlines()) == 1)


def test_what_is_no_matter_of_storage() -> None:
    missing, process = FileNotFoundError(errno.ENOENT, "no such file"), PermissionError(errno.EPERM, "kill")
    for error in (missing, process, ValueError("28")):
        assert storage_problem(error) is None and memory_problem(error) is None
