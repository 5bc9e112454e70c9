"""`qtuning status`: real files and locks of the mini experiment, as jobs leave them and as kills and errors do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cell_folders import Folders
from command_line import invoke

from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import ResultPaths, cell_id, evaluation_id
from qtuning.files import write_json, write_text
from qtuning.locks import exclusive
from qtuning.progress import Progress, beside
from qtuning.status.failures import logged_reason
from qtuning.status.look import WORKFLOW

HOLDER = """
import sys, time
from pathlib import Path
from qtuning.locks import exclusive
from qtuning.progress import Reporter, beside
lock = Path(sys.argv[1])
with exclusive(lock, "x"), Reporter(beside(lock)) as reporter, reporter.doing("update", 100):
    time.sleep(0.1)
    reporter._write_at = 0.0
    reporter.at(40, 100, {"loss": 1.5})
    print("ready", flush=True)
    time.sleep(600)
"""


class Ground:
    def __init__(self, folders: Folders) -> None:
        self.folders, self.paths = folders, ResultPaths(folders.results)
        self.cells = folders.grid.cells
        self.cell: Cell = folders.find("q-tuning-25x50-s0")
        self.name = cell_id(self.cell)
        self.lock = self.paths.root / "state" / f"{self.name}.lock"
        self.failure = self.paths.cell(self.cell) / "failed.json"

    def status(self, *options: Any) -> tuple[int, list[str]]:
        configs = self.folders.results.parent / "configs"
        result = invoke("status", "mini", "--results", self.folders.results, "--configs", configs, *options)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert all(line.isprintable() for line in result.output.splitlines())
        return result.exit_code, result.output.splitlines()

    def log(self, rule: str, text: str, cell: Cell | None = None) -> Path:
        cell = cell or self.cell
        name = cell_id(cell)
        path = self.paths.root / "logs" / rule
        path /= f"{name}.log" if rule == "train" else f"{name}/{evaluation_id(self.folders.grid.evaluation)}.log"
        write_text(path, text)
        return path

    def follow(self, started: float) -> None:
        """As a workflow that began then leaves it."""
        write_json(beside(self.paths.lock(WORKFLOW)), {"started": started, "experiments": ["mini"]})


@pytest.fixture
def ground(folders: Folders) -> Ground:
    source = Path(__file__).parents[2] / "configs" / "planning.yaml"
    (folders.results.parent / "configs" / "planning.yaml").symlink_to(source)
    return Ground(folders)


@pytest.fixture
def at_work(ground: Ground) -> Any:
    """A process that trains the cell, as far as anyone can see."""
    command = [sys.executable, "-c", HOLDER, str(ground.lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_nothing_was_ever_run(ground: Ground) -> None:
    code, lines = ground.status()
    total = len(ground.cells)
    counts = f"0 of {total} cells done, 0 running, 0 failed, {total} to do"
    assert code == 4 and len(lines) == 1
    assert lines[0].startswith(f"mini: {counts}; nothing is at work; about ")
    assert lines[0].endswith(" left once it goes on, by the plan alone")
    assert not ground.paths.root.exists(), "it only looks"


def test_all_is_done(ground: Ground) -> None:
    for cell in ground.cells:
        ground.folders.finish(cell)
    assert ground.status() == (0, [f"mini: all {len(ground.cells)} cells done"])


def test_a_training_at_work_and_then_killed(ground: Ground, at_work: Any) -> None:
    ground.folders.finish(ground.folders.find("zero-shot"))
    code, lines = ground.status()
    assert code == 3
    assert lines[0].startswith(f"mini: 1 of {len(ground.cells)} cells done, 1 running, 0 failed, ")
    assert "by the plan" not in lines[0], "its own speed is a measurement"
    assert lines[1].startswith(f"  train {ground.name}: update 40/100 (40%), loss 1.5, ") and len(lines) == 2
    at_work.send_signal(signal.SIGKILL)
    at_work.wait()
    code, lines = ground.status()
    assert code == 4 and "; nothing is at work; " in lines[0]
    assert lines[1] == f"  train {ground.name}: stopped at update 40/100 (40%), loss 1.5"


def test_progress_of_an_earlier_attempt_is_not_that_of_the_next(ground: Ground) -> None:
    old = Progress("update", 5, 10, 0, 3.0, time.time() - 99)
    write_json(beside(ground.lock), vars(old))
    os.utime(beside(ground.lock), (1, 1))
    with exclusive(ground.lock, "test"):
        code, lines = ground.status()
    assert (code, lines[1:]) == (3, [f"  train {ground.name}: at work"])


def test_results_of_another_user_whose_locks_cannot_be_opened(ground: Ground) -> None:
    """A link in the place of a lock is refused in the same way, also to root, who runs some tests."""
    write_json(beside(ground.lock), vars(Progress("update", 5, 10, 0, 3.0, time.time())))
    ground.lock.symlink_to("elsewhere")
    os.utime(ground.lock, (1, 1), follow_symlinks=False)
    assert ground.status()[0] == 3, "what is told now is at work"
    os.utime(beside(ground.lock), (1, 1))
    assert ground.status()[0] == 4


def test_reasons_of_failed_cells(ground: Ground) -> None:
    ground.folders.fail(ground.cell, "failed", "ValueError: the\nrows\x1b[31m are gone")
    other = ground.folders.find("full-s0")
    ground.folders.train(other)
    (ground.paths.cell(other) / "weights").mkdir()
    log = ground.log("evaluate", "Loading\nerror: no file of GSM8K; give --config data_dir=DIR\n", other)
    code, lines = ground.status()
    assert code == 1 and ", 2 failed, " in lines[0]
    assert f"  failed: train {ground.name}: ValueError: the rows [31m are gone" in lines
    assert f"  failed: evaluate {cell_id(other)}: no file of GSM8K; give --config data_dir=DIR ({log})" in lines


def test_a_job_that_failed_before_its_training_began(ground: Ground) -> None:
    ground.log("train", "error: processes on this machine = 4: this machine has 1 GPU(s) for us\n")
    code, lines = ground.status()
    assert code == 1 and f"failed: train {ground.name}: processes on this machine = 4: " in lines[1]


def test_a_train_set_that_cannot_be_prepared_is_told(ground: Ground) -> None:
    write_text(
        ground.paths.root / "logs/prepare" / f"{ground.paths.samples(ground.cell).name}.log", "error: 3 bad rows"
    )
    code, lines = ground.status()
    assert code == 1 and ", 0 failed, " in lines[0] and ": 3 bad rows (" in lines[1]


def test_while_the_workflow_runs_old_failures_are_about_to_be_tried_again(ground: Ground) -> None:
    ground.folders.fail(ground.cell, "failed", "ValueError: old")
    ground.follow(time.time() + 5)
    with exclusive(ground.paths.lock(WORKFLOW), "test"):
        code, lines = ground.status()
        assert (code, len(lines)) == (3, 1) and "nothing is at work" not in lines[0]
        ground.follow(time.time() - 60)
        for cell in ground.cells:
            if cell != ground.cell:
                ground.folders.finish(cell)
        code, lines = ground.status()
        assert code == 1 and " left" not in lines[0], "this run comes back to no failed cell"
    ground.follow(time.time() + 5)
    assert ground.status()[0] == 1, "nobody tries it again"


def test_a_job_that_imports_is_at_work_and_one_that_was_killed_is_not(ground: Ground) -> None:
    ground.follow(time.time() - 60)
    with exclusive(ground.paths.lock(WORKFLOW), "test"):
        ground.log("train", "")
        assert ground.status()[1][1:] == [f"  train {ground.name}: at work"]
        write_json(beside(ground.lock), vars(Progress("update", 5, 10, 0, 3.0, time.time())))
        code, lines = ground.status()
        assert code == 3 and lines[1].startswith(f"  train {ground.name}: stopped at update 5/10 (50%)")


def test_what_vllm_answered_and_nobody_marked_yet_is_no_stopped_job(make_folders: Any, tmp_path: Path) -> None:
    evaluation = {"benchmarks": ["gsm8k"], "source": "mini-world", "backend": "vllm"}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "planning.yaml").symlink_to(Path(__file__).parents[2] / "configs" / "planning.yaml")
    ground = Ground(make_folders(evaluation=evaluation))
    log = ground.log("ask", "")
    assert ground.status()[1][1:] == [f"  evaluate {ground.name}: stopped before it began ({log})"]
    write_text(ground.paths.asked(ground.cell, ground.folders.grid.evaluation), "{}")
    assert len(ground.status()[1]) == 1


def test_a_workflow_of_another_experiment_is_no_work_on_this_one(ground: Ground) -> None:
    write_json(beside(ground.paths.lock(WORKFLOW)), {"started": 1.0, "experiments": ["other"]})
    with exclusive(ground.paths.lock(WORKFLOW), "test"):
        assert ground.status()[0] == 4


def test_full_weights_that_are_gone_before_evaluation_are_trained_again(ground: Ground) -> None:
    for cell in ground.cells:
        ground.folders.finish(cell)
    scores = ground.paths.evaluation(ground.cell, ground.folders.grid.evaluation) / "scores.json"
    scores.unlink()
    code, lines = ground.status()
    assert code == 4 and ", 1 to do; " in lines[0]


def test_watch_ends_when_nothing_is_at_work(ground: Ground, at_work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(_: float) -> None:
        at_work.kill()
        at_work.wait()

    monkeypatch.setattr("qtuning.cli.status.time.sleep", kill)
    code, lines = ground.status("--watch")
    assert code == 4
    assert [line for line in lines if line.startswith("mini: ")] == [lines[0], lines[2]]


TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    f()\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("all is well\n", None),
        ("error: first\nmore\n", "first"),
        (f"{TRACEBACK}torch.cuda.OutOfMemoryError: too large\nexit\n", "torch.cuda.OutOfMemoryError: too large"),
        (f"{TRACEBACK}KeyError: 'x'\n\nDuring handling ...\n\n{TRACEBACK}ValueError: no x\n", "ValueError: no x"),
        (f"{TRACEBACK}KeyboardInterrupt\n", None),
        (f"{TRACEBACK}RuntimeError: {'long ' * 100}\n", f"RuntimeError: {'long ' * 36}..."),
        ("x" * 40_000 + "\nerror: at the end of much\n", "at the end of much"),
        ("warning: error: is no beginning\n", None),
    ],
)
def test_the_last_word_of_a_log(tmp_path: Path, text: str, reason: str | None) -> None:
    (tmp_path / "log").write_text(text)
    assert logged_reason(tmp_path / "log") == reason
    assert logged_reason(tmp_path / "none") is None
