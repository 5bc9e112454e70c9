"""Start-up: wall seconds from a command to its first update, or its first request; and whole short cells an hour."""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from benchmarks.mini import REPOSITORY, Mini, mini_world
from benchmarks.report import Checked, Table, Value
from benchmarks.shapes import Setting
from qtuning.experiment.ids import cell_id, cell_json, evaluation_id
from qtuning.files import write_text
from qtuning.progress import beside
from qtuning.warm.client import VARIABLE

Job = Literal["train", "evaluate"]
TARGETS: dict[Job, float] = {"train": 5.0, "evaluate": 7.0}
ENDS: dict[Job, str] = {"train": "the first update", "evaluate": "the first request"}
REST: dict[Job, str] = {"train": "command line", "evaluate": "command line"}
ITEMS = 20  # of each benchmark, in the evaluation of a short cell
LONGEST = 120.0  # seconds to wait for one start


def run(setting: Setting) -> list[Table]:
    """The commands as the workflow gives them, and their parts from a process that takes notes."""
    with mini_world() as mini:
        starts = range(setting.sizes.starts)
        alone, warm = dict(os.environ), os.environ | {VARIABLE: str(os.getpid())}
        whole = {job: [_command(job, mini, alone) for _ in starts] for job in TARGETS}
        notes = {job: [_noted(job, mini) for _ in starts] for job in TARGETS}
        first = _command("train", mini, warm)
        forked = {job: [_command(job, mini, warm) for _ in starts] for job in TARGETS}
        cells = {name: _cell(mini, env) for name, env in (("by itself", alone), ("warm", warm))}
    rows: list[dict[str, Value]] = []
    for job, bound in TARGETS.items():
        total, inside = statistics.median(whole[job]), 0.0
        rows.append({"part": f"qtuning {job}: up to {ENDS[job]}", "seconds": Checked(total, bound)})
        for part in notes[job][0]:
            seconds, processor = (statistics.median(taken[part][clock] for taken in notes[job]) for clock in (0, 1))
            inside += seconds
            rows.append({"part": f"- {part}", "seconds": seconds, "processor seconds": processor})
        rows.append({"part": f"- the rest: {REST[job]}", "seconds": max(0.0, total - inside)})
    rows.append({"part": "warm server: its first job, qtuning train", "seconds": first})
    for job in TARGETS:
        rows.append(
            {"part": f"warm server: qtuning {job}: up to {ENDS[job]}", "seconds": statistics.median(forked[job])}
        )
    note = (
        f"Mini model and its samples, warm disk cache, median of {setting.sizes.starts}. Wall time, so that "
        "neighbours count; processor time beside it. The parts come from processes of their own, without launcher."
    )
    hourly: list[dict[str, Value]] = []
    for name, seconds in cells.items():
        hourly.append({"short cell, trained and evaluated": name, "seconds": seconds, "cells an hour": 3600 / seconds})
    short = (
        f"Q-Tuning, one epoch of the mini train set, {ITEMS} items of each of six benchmarks, one thread, one after "
        "the other, each once. The workflow runs as many side by side as there are cores."
    )
    return [Table("Start-up", rows, (note,)), Table("Whole cells", hourly, (short,))]


def _cell(mini: Mini, environment: Mapping[str, str]) -> float:
    """Seconds to train and evaluate a short cell with the two commands of the workflow."""
    assert mini.cell.training is not None
    training = mini.cell.training.model_copy(update={"epochs": 1})
    cell, evaluation = mini.cell.model_copy(update={"training": training}), mini.evaluation
    evaluation = evaluation.model_copy(update={"limit": ITEMS})
    shutil.rmtree(mini.paths.cell(cell), ignore_errors=True)
    write_text(mini.configuration(cell), cell_json(cell) + "\n")
    write_text(mini.configuration(evaluation), evaluation.model_dump_json() + "\n")
    common = ["--results", str(mini.paths.root), "--threads", "1", "--tracking", "disabled"]
    start = time.monotonic()
    for job in (["train"], ["evaluate", str(mini.configuration(evaluation))]):
        command = [sys.executable, "-m", "qtuning", job[0], str(mini.configuration(cell)), *job[1:], *common]
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    return time.monotonic() - start


def _command(job: Job, mini: Mini, environment: Mapping[str, str]) -> float:
    """Seconds from giving the command to what it ends in; then it is killed."""
    paths = mini.paths
    folders = [paths.cell(mini.cell), paths.state(mini.cell), paths.cell(mini.zero_shot)]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    arguments = [str(mini.configuration(mini.cell))]
    if job == "train":
        arguments += ["--tracking", "disabled"]
    else:
        arguments = [str(mini.configuration(mini.zero_shot)), str(mini.configuration(mini.evaluation))]
    output = paths.root / f"{job}.log"
    asked = f"{cell_id(mini.zero_shot)}-{evaluation_id(mini.evaluation)}"
    progress = beside(paths.lock(asked))
    progress.unlink(missing_ok=True)  # of the one that was killed before
    begun = (
        (lambda: _has_text(paths.state(mini.cell) / "metrics.jsonl", "{"))
        if job == "train"
        else (lambda: _has_text(progress, "generated answer"))
    )
    command = [sys.executable, "-m", "qtuning", job, *arguments, "--results", str(paths.root), "--threads", "1"]
    with output.open("w") as handle:
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(begun, process, output)
            return time.monotonic() - start
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(begun: Callable[[], bool], process: "subprocess.Popen[bytes]", output: Path) -> None:
    deadline = time.monotonic() + LONGEST
    while not begun():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"did not come to its start:\n{output.read_text()[-2000:]}")
        time.sleep(0.01)


def _has_text(path: Path, text: str) -> bool:
    return path.exists() and text in path.read_text(errors="replace")


def _noted(job: Job, mini: Mini) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds of each part, as `noting.py` saw them."""
    paths = mini.paths
    if job == "train":
        shutil.rmtree(paths.state(mini.cell), ignore_errors=True)
        arguments: Sequence[Path] = (
            mini.configuration(mini.cell),
            paths.model(mini.cell),
            paths.samples(mini.cell),
            paths.cell(mini.cell),
            paths.state(mini.cell),
        )
    else:
        arguments = (mini.configuration(mini.zero_shot), mini.configuration(mini.evaluation), paths.root)
    command = [sys.executable, "-m", "benchmarks.noting", str(time.time()), job, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return {part: tuple(spent) for part, spent in json.loads(done.stdout.splitlines()[-1]).items()}
