"""Two of a kind at once: the same command twice, two experiments that share a cell, two trainings of one cell."""

import time
from collections.abc import Mapping
from pathlib import Path
from random import Random

from benchmarks.soak.micro import EXPERIMENT, Run, checkout, command, differences, finish, quiet, start

TWICE, SHARED, ONE_CELL = "one experiment twice", "two experiments that share a cell", "two trainings of one cell"
RACES = (TWICE, SHARED, ONE_CELL)
APART = 8.0
"""Most seconds between the two."""


def race(folder: Path, kind: str, random: Random, expected: Mapping[str, Mapping[str, str]]) -> str:
    """Start two at about the same time; "" if both succeed, and the results are as expected, else what is wrong.

    expected: of both experiments.
    """
    checkout(folder)
    targets = list(expected) if kind == SHARED else [EXPERIMENT, EXPERIMENT]
    commands = [command(target) for target in targets]
    if kind == ONE_CELL:
        finish(Run(folder, options=("--until", "prepare")))
        start(["-m", "qtuning", "cells", EXPERIMENT, "--write"], folder, folder.with_name(f"{folder.name}.log")).wait()
        cell = random.choice(sorted(folder.glob("results/configurations/*25x50*.json")))
        commands = [["-m", "qtuning", "train", str(cell), "--tracking", "disabled", "--checkpoint-seconds", "0"]] * 2
    logs = [folder.with_name(f"{folder.name}.{name}.log") for name in ("one", "other")]
    one = start(commands[0], folder, logs[0])
    time.sleep(random.uniform(0, APART))
    other = start(commands[1], folder, logs[1])
    failed = [log.read_text()[-1500:] for log, process in zip(logs, (one, other), strict=True) if process.wait()]
    quiet(folder)
    if kind == ONE_CELL:
        finish(Run(folder))
    wrong = [differences(folder, expected[target], target) for target in dict.fromkeys(targets)]
    return "; ".join(filter(None, [*wrong, *(f"one of the two fails: {said}" for said in failed)]))
