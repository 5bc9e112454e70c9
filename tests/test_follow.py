"""What Snakemake's output gets of a run: the thread itself, on real files of the mini experiment."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cell_folders import CONFIGS, Folders
from command_line import invoke

from qtuning.experiment.ids import ResultPaths, cell_id
from qtuning.workflow import follow
from qtuning.workflow.follow import Follower
from qtuning.workflow.inputs import WorkflowInputs


@pytest.fixture
def follower(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Follower]:
    """A follower that looks all the time."""
    for name in ("LOOK_SECONDS", "LAZINESS", "LEAST_SECONDS"):
        monkeypatch.setattr(follow, name, 0.01)
    inputs = WorkflowInputs([folders.grid], ResultPaths(folders.results), None)

    def make(targets: list[str] | None, quiet: Any = None) -> Follower:
        return Follower(inputs, targets, {"machine": "a100"}, CONFIGS, quiet)

    return make


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("targets", [[], ["results/tables/mini.md", "mini"]])
def test_a_line_whenever_a_cell_ends(
    targets: list[str], folders: Folders, follower: Callable[..., Follower], capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [target.replace("results", str(folders.results), 1) for target in targets]
    printed = ""

    def told(text: str) -> bool:
        nonlocal printed
        printed += capsys.readouterr().err
        return text in printed

    running = follower(targets)
    running.start()
    wait_until(lambda: told(" 0 running, 0 failed, "))
    folders.finish(folders.find("zero-shot"))
    wait_until(lambda: told("mini: 1 of "))
    broken = folders.find("q-tuning-25x50-s0")
    folders.fail(broken, "failed", "ValueError: no rows")
    wait_until(lambda: told(", 1 failed, "))
    for cell in folders.grid.cells:
        folders.finish(cell)
    running.stop()
    assert told("")
    printed += capsys.readouterr().err
    lines = printed.splitlines()
    assert lines[-1] == f"mini: all {len(folders.grid.cells)} cells done"
    assert lines.count(f"  failed: train {cell_id(broken)}: ValueError: no rows") == 1
    assert all(line.isprintable() for line in lines) and len(set(lines)) == len(lines)


def test_another_terminal_sees_that_it_runs(folders: Folders, follower: Callable[..., Follower]) -> None:
    class Progress:
        name = "PROGRESS"

    def status() -> int:
        configs = Path(folders.results.parent / "configs")
        return invoke("status", "mini", "--results", folders.results, "--configs", configs).exit_code

    (folders.results.parent / "configs" / "planning.yaml").symlink_to(CONFIGS / "planning.yaml")
    assert status() == 4
    running = follower(["mini"], quiet={Progress})
    running.start()
    wait_until(lambda: (folders.results / "locks/workflow.progress").exists())
    assert status() == 3
    running.stop()
    assert status() == 4


def test_quiet_says_nothing_and_a_job_of_snakemake_follows_nothing(
    folders: Folders, follower: Callable[..., Follower], capsys: pytest.CaptureFixture[str]
) -> None:
    class All:
        name = "ALL"

    for running in (follower(["mini"], quiet={All}), follower(None), follower(["some/file"])):
        running.start()
        running.stop()
    assert capsys.readouterr().err == ""


def test_what_goes_wrong_is_told_once_and_the_run_goes_on(
    folders: Folders, follower: Callable[..., Follower], capsys: pytest.CaptureFixture[str]
) -> None:
    folders.results.parent.mkdir(exist_ok=True)
    folders.results.touch()
    running = follower(["mini"])
    running.start()
    running.stop()
    assert capsys.readouterr().err.startswith("no progress is shown any more: ")
