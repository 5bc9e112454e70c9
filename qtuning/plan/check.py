"""How far predictions were off: of finished cells, the same model of cost against what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from qtuning.files import read_json
from qtuning.plan.jobs import Jobs
from qtuning.plan.machines import Machine, machines


@dataclass(frozen=True)
class Ratio:
    """Predicted over measured. worst: the cell that is furthest from 1."""

    median: float
    low: float
    high: float
    cells: int
    worst: str


@dataclass(frozen=True)
class Check:
    """Finished cells against their predictions; None where there are none, or where they ran on another kind of device.

    elsewhere: how many finished trainings ran on a device that has no prediction here.
    """

    flops: Ratio | None
    training_seconds: Ratio | None
    evaluation_seconds: Ratio | None
    memory: Ratio | None
    elsewhere: int


def check(jobs: Jobs, results: Path, planned: Machine) -> Check:
    """Compare what finished cells cost (train.json, scores.json) with what the plan would have said.

    Seconds and memory are compared where a cell ran on the kind of device that is planned for; cells that ran on a CPU
    otherwise with the prediction for one CPU thread.
    """
    flops: dict[str, float] = {}
    seconds: dict[str, float] = {}
    memory: dict[str, float] = {}
    answered: dict[str, float] = {}
    elsewhere = 0
    for training in jobs.trainings.values():
        marker = _read(results / "cells" / training.identity / "train.json")
        if marker is None or marker.get("status") != "done":
            continue
        cost = marker["cost"]
        _compare(flops, training.identity, training.work.flops, cost["flops_total"])
        machine = _ran_on(str(marker.get("provenance", {}).get("device", "cpu")), planned)
        if machine is None:
            elsewhere += 1
            continue
        predicted = training.scoring_seconds(machine) + training.training_seconds(machine)
        _compare(seconds, training.identity, predicted, cost["seconds_scoring"] + cost["seconds_training"])
        # the resident size of a process holds its runtime, too; what torch allocates on a GPU does not
        runtime = machine.reserve if machine.device == "cpu" else 0.0
        _compare(memory, training.identity, training.memory.total + runtime, cost["peak_memory_bytes"])
    for (identity, evaluation), job in jobs.evaluations.items():
        found = _read(results / "cells" / identity / evaluation / "scores.json")
        if found is None or "seconds" not in found:
            continue
        machine = _ran_on(str(found.get("backend", {}).get("device", "cpu")), planned)
        if machine is not None:
            predicted = sum(job.seconds(machine).values()) + machine.start_seconds
            _compare(answered, identity, predicted, found["seconds"])
    return Check(_ratio(flops), _ratio(seconds), _ratio(answered), _ratio(memory), elsewhere)


def _ran_on(device: str, planned: Machine) -> Machine | None:
    """The machine that stands for where a cell ran; None for a GPU while the plan is for a CPU."""
    kind = device.split(":")[0]
    if kind == planned.device:
        return planned
    return machines()["cpu"] if kind == "cpu" else None


def _compare(ratios: dict[str, float], identity: str, predicted: float, measured: float) -> None:
    if measured > 0:
        ratios[identity] = predicted / measured


def _ratio(ratios: dict[str, float]) -> Ratio | None:
    if not ratios:
        return None
    values: Sequence[float] = list(ratios.values())
    worst = max(ratios, key=lambda name: max(ratios[name], 1 / ratios[name]) if ratios[name] > 0 else float("inf"))
    return Ratio(median(values), min(values), max(values), len(values), worst)


def _read(path: Path) -> dict[str, Any] | None:
    return dict(read_json(path)) if path.is_file() else None
