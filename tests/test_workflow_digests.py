"""Work is not done twice: whatever the times of files say, whoever is killed, and however many workflows run."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from test_workflow import checkout, command, jobs, snakemake

pytestmark = pytest.mark.slow
EXPERIMENT = """
title: Digests
models: [mini]
train_sets: [big]
methods: [full]
budgets: [25x50]
seeds: [0]
zero_shot: false
limit_train: 24
training: {tuning: full, epochs: 1, batch_size: 8, learning_rate: 1.0e-3, cutoff: 128}
evaluation: {benchmarks: [triviaqa], source: mini-world, batch_size: 8, max_length: 128, fewshot: 0, limit: 8}
"""
OTHER = EXPERIMENT.replace("limit: 8", "limit: 6").replace("title: Digests", "title: Other")


def rows(count: int) -> str:
    """A train set of more than the megabyte up to which Snakemake compares the bytes of inputs itself."""
    row = '{{"instruction": "What is the colour of thing number {0}?", "output": "The colour of thing {0} is blue."}}\n'
    return "".join(row.format(number) for number in range(count))


def prepared(folder: Path) -> Path:
    folder = checkout(folder)
    (folder / "big.jsonl").write_text(rows(12_000))
    assert (folder / "big.jsonl").stat().st_size > 1_000_000
    (folder / "configs/train_sets/big.yaml").write_text("label: big\nsource: {kind: path, file: big.jsonl}\n")
    (folder / "configs/experiments/digests.yaml").write_text(EXPERIMENT)
    (folder / "configs/experiments/other.yaml").write_text(OTHER)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepared(tmp_path_factory.mktemp("digests"))
    snakemake(folder, target="digests")
    assert not list(folder.glob("results/cells/*/weights"))
    return folder


@pytest.mark.parametrize("when", [None, 2_000_000_000.0])
def test_touched_files_do_nothing(finished: Path, when: float | None) -> None:
    """Now, or by a clock that is years ahead."""
    for path in [finished / "big.jsonl", *(finished / "configs").rglob("*.yaml")]:
        os.utime(path, None if when is None else (when, when))
    assert "Nothing to be done" in snakemake(finished, "--dry-run", target="digests")


@pytest.mark.parametrize("kept", [True, False])
def test_a_copy_trains_nothing(finished: Path, tmp_path: Path, kept: bool) -> None:
    """`cp -r` dates files in the order of the copy. kept: with what Snakemake knows of its jobs, or without."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, copy_function=shutil.copyfile)
    for number, path in enumerate(sorted(copy.rglob("*"), reverse=True)):
        os.utime(path, (10.0**9 + number, 10.0**9 + number))
    if not kept:
        shutil.rmtree(copy / ".snakemake")
    planned = jobs(snakemake(copy, "--dry-run", target="digests"))
    slow = {"base_model", "prepare", "train", "evaluate"}
    assert not slow & planned.keys(), planned


def test_changed_data_train_what_reads_them(finished: Path, tmp_path: Path) -> None:
    """Though the changed file is older; and what a killed workflow has prepared of it is trained on by the next."""
    folder = tmp_path / "changed"
    shutil.copytree(finished, folder)
    (folder / "big.jsonl").write_text(rows(11_000))
    os.utime(folder / "big.jsonl", (10.0**9, 10.0**9))
    planned = jobs(snakemake(folder, "--dry-run", target="digests"))
    expected = {"prepare": 1, "contamination": 1, "train": 1, "evaluate": 1, "tables": 1, "figures": 1}
    assert planned.items() >= expected.items(), planned
    snakemake(folder, "--until", "prepare", target="digests")
    planned = jobs(snakemake(folder, "--dry-run", target="digests"))
    assert planned.items() >= {"train": 1, "evaluate": 1, "tables": 1}.items() and "prepare" not in planned
    snakemake(folder, target="digests")
    assert "done after 3 updates" in next(folder.glob("results/logs/train/*.log")).read_text()
    assert "Nothing to be done" in snakemake(folder, "--dry-run", target="digests")
    assert not list(folder.glob("results/cells/*/weights"))


def test_a_training_that_finished_when_its_workflow_was_killed(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    with subprocess.Popen(command(target="digests"), cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(folder, "results/logs/train/*.log", process)
            process.send_signal(signal.SIGSTOP)  # it must not see the end of the training
            found = _wait_for(folder, "results/cells/*/train.json", process)
        finally:
            process.send_signal(signal.SIGKILL)
    written = found[0].stat().st_ino, found[0].read_bytes()
    assert list(folder.glob(".snakemake/incomplete/*")), "for Snakemake, its outputs are half made"
    snakemake(folder, target="digests")
    assert (found[0].stat().st_ino, found[0].read_bytes()) == written
    assert "already done" in next(folder.glob("results/logs/train/*.log")).read_text()
    assert (folder / "results/tables/digests.md").exists() and not list(folder.glob("results/cells/*/weights"))


def _wait_for(folder: Path, pattern: str, process: "subprocess.Popen[bytes]") -> list[Path]:
    """The files of a pattern, once there are some."""
    deadline = time.monotonic() + 600
    while not (found := list(folder.glob(pattern))):
        assert process.poll() is None and time.monotonic() < deadline, pattern
        time.sleep(0.005)
    return found


def test_two_experiments_that_share_a_cell_run_at_once(tmp_path: Path) -> None:
    """It is trained once, and its weights go after the last evaluation of both."""
    folder, trained = prepared(tmp_path), set[int]()
    running = [subprocess.Popen(command(target=name), cwd=folder) for name in ("digests", "other")]
    while any(process.poll() is None for process in running):
        trained |= {path.stat().st_ino for path in folder.glob("results/cells/*/train.json")}
        time.sleep(0.01)
    assert [process.returncode for process in running] == [0, 0]
    assert len(trained) == 1
    assert len(list(folder.glob("results/cells/*/evaluation-*/scores.json"))) == 2
    assert not list(folder.glob("results/cells/*/weights"))
    for name in ("digests", "other"):
        assert re.search(r"Full data *\|", (folder / f"results/tables/{name}.md").read_text())
        assert "Nothing to be done" in snakemake(folder, "--dry-run", target=name)
