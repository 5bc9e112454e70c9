"""The soak: its faults do what they say, a lost result is seen, and its fast part loses none."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
WRITER = """
import os, sys
handle = os.open("file", os.O_WRONLY | os.O_CREAT)
print("ready", flush=True)
sys.stdin.readline()
print(os.write(handle, b"x" * 2**25))
print(os.write(handle, b"x" * 2**25))
"""
EATER = """
import sys
print("ready", flush=True)
sys.stdin.readline()
print(len(b"x" * 2**30))
"""


@pytest.fixture(scope="module")
def soak() -> Iterator[Any]:
    """The modules of `benchmarks/soak`, which is no part of the package."""
    sys.path.insert(0, str(REPOSITORY))
    from benchmarks.soak import command, damage, micro, strikes, tally

    yield SimpleNamespace(command=command, damage=damage, micro=micro, strikes=strikes, tally=tally)
    sys.path.remove(str(REPOSITORY))


def begin(program: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=folder, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("act", "program", "printed", "error"),
    [
        ("out of memory", EATER, "", "MemoryError"),
        ("a short write, then none", WRITER, r"\d+\n", "File too large"),
        ("killed", EATER, "", ""),
    ],
)
def test_a_process_is_struck(soak: Any, tmp_path: Path, act: str, program: str, printed: str, error: str) -> None:
    with begin(program, tmp_path) as process:
        assert process.stdout.readline() == "ready\n", "no limit strikes the start of Python"
        (found,) = soak.micro.processes(tmp_path)
        assert found.pid == process.pid
        soak.strikes.ACTS[act](found, tmp_path, Random(0))
        said, complaint = process.communicate("go\n" if act != "killed" else None)
    assert process.returncode != 0 and error in complaint
    assert (tmp_path / "file").exists() == (program == WRITER)
    if program == WRITER:
        assert int(said) == (tmp_path / "file").stat().st_size < 2**25
    assert not list(soak.micro.processes(tmp_path))


def test_files_are_damaged(soak: Any, tmp_path: Path) -> None:
    file, random = tmp_path / "file", Random(0)
    for _ in range(20):
        file.write_bytes(before := random.randbytes(9))
        soak.damage.flip(file, random)
        changed = [one ^ other for one, other in zip(before, file.read_bytes(), strict=True) if one != other]
        assert len(changed) == 1 and changed[0].bit_count() == 1
        soak.damage.cut(file, random)
        assert file.stat().st_size < 9


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("error: a/b.json: damaged (x); delete a/c: it is made again", "a/c"),
        ("error: a/b.json: damaged (x); make it again (delete a/c)", "a/c"),
        ("error: a/b.json: damaged (x); delete it, and run again", "a/b.json"),
        ("error: a/b.json: damaged (x); delete the folder and run again", "a"),
        ("error: a/b.json: damaged (x)", None),
        ("note: delete a/c", None),
    ],
)
def test_what_a_message_asks_to_delete_is_found(soak: Any, tmp_path: Path, said: str, asked: str | None) -> None:
    (tmp_path / "a").mkdir()
    for name in ("b.json", "c"):
        (tmp_path / "a" / name).touch()
    found = soak.damage._asked(f"before\n{said}\nafter", tmp_path)
    assert found == (None if asked is None else tmp_path / asked)


def test_a_lost_result_is_seen(soak: Any, tmp_path: Path) -> None:
    """Times may differ, results may not; a table is not compared by what it cost."""
    cell = tmp_path / "results/cells/a"
    (cell / "evaluation").mkdir(parents=True)
    (tmp_path / "results/tables").mkdir()
    files = {
        cell / "weights.sha256": "00  model.safetensors\n",
        cell / "metrics.jsonl": '{"update": 0, "loss": 1.5, "seconds": 3.25}\n',
        cell / "evaluation/scores.json": '{"benchmarks": {"arc_easy": 0.25}, "provenance": {"host": "a"}}',
        tmp_path / "results/tables/soak.md": "| 25.00 |\n## What it cost\n7 seconds\n",
    }
    for file, text in files.items():
        file.write_text(text)
    expected = soak.micro.fingerprint(tmp_path)
    assert len(expected) == len(files)
    for old, new, seen in (
        ("00  ", "01  ", "weights.sha256"),
        ("1.5", "1.6", "metrics.jsonl"),
        ("3.25", "3.5", ""),
        ("0.25", "0.5", "scores.json"),
        ('"a"', '"b"', ""),
        ("25.00", "26.00", "soak.md"),
        ("7 sec", "8 sec", ""),
        ('{"benchmarks"', "{", "JSONDecodeError"),
    ):
        for file, text in files.items():
            file.write_text(text.replace(old, new))
        found = soak.micro.differences(tmp_path, expected)
        assert (seen in found) if seen else not found
    for file in files:
        file.unlink()
        assert soak.micro.differences(tmp_path, expected)
        file.write_text(files[file])


def test_the_table_counts_and_stands_in_the_page(soak: Any, tmp_path: Path) -> None:
    tally = soak.tally.Tally()
    tally.add(soak.tally.Struck({"training killed": 2, "shell killed": 1}), 6.0, "")
    tally.add(soak.tally.Struck({"shell killed": 1, "disk full": 1}), 4.0, "another table")
    rows = {row["fault"]: [row[key] for key in list(row)[1:]] for row in tally.table("Soak").rows}
    assert rows == {
        "disk full": [1, 0, 1, 2],
        "shell killed": [2, 1, 1, 4],
        "training killed": [2, 2, 0, 4],
        "all kills": [4, 3, 1, 8],
        "all faults": [5, 3, 2, 10],
    }
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- soak -->\nold\n<!-- end of soak -->\nAfter.\n")
    tally.write(tally.table("Soak"), page)
    text = page.read_text()
    assert "| shell killed | 2 | 1 | 1 | 4 |" in text and "old" not in text and text.endswith("After.\n")


@pytest.mark.slow
def test_the_fast_part_loses_nothing(soak: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soak.command.main(["--fast", "--work", str(tmp_path)])  # which exits with 1 where something is lost
    # a process that has ended before its moment cannot be struck, on a machine whose load changes
    assert re.search(r"all kills +│ +([12]) │ +\1 │ +0 ", capsys.readouterr().out)
