"""The micro experiment, a run of its workflow with all its processes, and what its results must be equal in."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.mini import REPOSITORY
from qtuning.files import canonical_json, file_digest, read_json

EXPERIMENT, SHARING = "soak", "sharing"
YAML = """
title: Soak
models: [mini]
train_sets: [mini]
methods: [random+random, q-tuning]
budgets: [25x50]
seeds: [0]
limit_train: 96
training: {tuning: full, epochs: 2, batch_size: 8, update_samples: 16, learning_rate: 5.0e-4, cutoff: 256}
evaluation: {benchmarks: [arc_easy, gsm8k], source: mini-world, batch_size: 8, max_length: 256, limit: 4, fewshot: 0}
"""
SETTINGS = ("checkpoint_seconds=0", "tracking=disabled")  # a checkpoint after every update
JOBS = {"train": "training", "evaluat": "evaluation", "prepare": "preparation", "base-mo": "base model"}
"""What the warm server calls its jobs, cut by the kernel."""
PATIENCE = 900.0
"""Seconds after which a run counts as hanging."""


def checkout(folder: Path) -> Path:
    """A copy of what the workflow reads, with the micro experiment and another that shares a cell with it."""
    for name in ("workflow", "profiles", "configs"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    for name, text in ((EXPERIMENT, YAML), (SHARING, YAML.replace("random+random, ", ""))):
        (folder / f"configs/experiments/{name}.yaml").write_text(text)
    return folder


@dataclass(frozen=True)
class Process:
    """A process of a run. role: what it does there, in the words of the table."""

    pid: int
    role: str


class Run:
    """The command of the workflow, as a user types it in `folder`; it starts at once."""

    def __init__(
        self, folder: Path, settings: Sequence[str] = (), options: Sequence[str] = (), target: str = EXPERIMENT
    ) -> None:
        self.folder = folder
        self.log = folder.with_name(f"{folder.name}.{target}.{time.monotonic_ns()}.log")  # not on a disk that is full
        self.process = start(command(target, settings, options), folder, self.log)

    @property
    def running(self) -> bool:
        """Whether the command itself still runs; jobs may outlive it."""
        return self.process.poll() is None

    def wait(self) -> bool:
        """Wait for its end; whether it succeeded. TimeoutError where it hangs, after everything was killed."""
        try:
            return self.process.wait(PATIENCE) == 0
        except subprocess.TimeoutExpired:
            kill_all(self.folder)
            self.process.wait()
            raise TimeoutError(f"hangs after {PATIENCE:.0f} seconds") from None

    def said(self) -> str:
        """What it printed; Snakemake prints the logs of jobs that fail."""
        return self.log.read_text(errors="replace")


def command(target: str, settings: Sequence[str] = (), options: Sequence[str] = ()) -> list[str]:
    """What a user types, behind `python`."""
    # the target before options that take several words
    return ["-m", "snakemake", "--cores", "2", target, *options, "--config", *SETTINGS, *settings]


def start(words: Sequence[str], folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Python with these arguments, in `folder` and in a session of its own."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with log.open("wb") as printed:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path, "PATH": programs},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def processes(folder: Path) -> Iterator[Process]:
    """All processes that work in `folder`, their roles found by how they were started."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile
            if entry.name.isdecimal() and os.readlink(entry / "cwd") == str(folder):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[0]:  # else it has ended, and nobody has asked how
                    yield Process(int(entry.name), _role(words, (entry / "comm").read_text().strip()))


def _role(words: list[str], name: str) -> str:
    if name.startswith("qtuning-"):
        return JOBS.get(name.removeprefix("qtuning-"), name)
    if "serve-warm" in words:
        return "warm server"
    if "snakemake" in words:
        return "Snakemake"
    if "qtuning.train" in words:
        return "rank"
    if words[0].endswith("sh"):
        return "shell"
    command = next((after for word, after in pairwise(words) if Path(word).name == "qtuning"), "")
    return "launcher" if command in ("train", "evaluate", "prepare", "base-model") else command or Path(words[0]).name


def kill_all(folder: Path) -> None:
    """End everything that works in `folder`."""
    while found := list(processes(folder)):
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.05)


def quiet(folder: Path) -> None:
    """Wait until nothing works in `folder`: jobs may outlive the command."""
    until = time.monotonic() + PATIENCE
    while any(True for _ in processes(folder)):
        if time.monotonic() > until:
            kill_all(folder)
            raise TimeoutError(f"jobs hang after {PATIENCE:.0f} seconds")
        time.sleep(0.1)


def finish(run: Run) -> None:
    """Wait until the run and all its jobs have ended. RuntimeError with what it said where it fails."""
    ended = run.wait()
    quiet(run.folder)
    if not ended:
        raise RuntimeError(f"the last run fails: {run.said()[-2000:]}")


def fingerprint(folder: Path, experiment: str = EXPERIMENT) -> dict[str, str]:
    """What must be equal, by name: weights, decisions and metrics of trainings, scores and items, tables.

    Left out is what rightly differs between two runs: times, memory, versions.
    """
    found = {}
    results = folder / "results"
    for file in sorted(results.glob("cells/*/**/*")):
        name = str(file.relative_to(results))
        if file.name in ("weights.sha256", "trace.parquet", "items.parquet"):
            found[name] = file_digest(file)
        elif file.name == "metrics.jsonl":
            records = map(json.loads, file.read_text().splitlines())
            found[name] = canonical_json([_timeless(record) for record in records])
        elif file.name == "scores.json":
            found[name] = canonical_json(read_json(file)["benchmarks"])
        elif file.name == "train.json":
            marker = read_json(file)
            found[name] = canonical_json([marker[key] for key in ("cell", "inputs", "status", "updates")])
    table = (results / f"tables/{experiment}.md").read_text()
    return found | {f"tables/{experiment}.md": table.partition("## What it cost")[0]}


def differences(folder: Path, expected: Mapping[str, str], experiment: str = EXPERIMENT) -> str:
    """The names under which the results in `folder` are not as expected; "" if there are none."""
    try:
        found = fingerprint(folder, experiment)
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return ", ".join(sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name)))


def _timeless(record: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in record.items() if not key.startswith("seconds")}
