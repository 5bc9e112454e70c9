"""How far predictions were off: what the plan says of finished cells, beside what was measured."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from qtuning.files import read_json
from qtuning.plan.jobs import Jobs
from qtuning.plan.machines import MACHINES, Machine


@dataclass(frozen=True)
class Ratio:
    """Predicted over measured. worst: the cell that is furthest from 1."""

    median: float
    low: float
    high: float
    cells: int
    worst: str


@dataclass(frozen=True)
class PredictionCheck:
    """Finished cells against their predictions; None where nothing can be compared.

    elsewhere: how many finished trainings ran on a kind of device that has no prediction here.
    """

    flops: Ratio | None
    training_seconds: Ratio | None
    evaluation_seconds: Ratio | None
    memory: Ratio | None
    elsewhere: int


def check_predictions(jobs: Jobs, results: Path, planned: Machine) -> PredictionCheck:
    """Compare what finished cells took (train.json, scores.json) with what the plan would have said.

    Seconds and memory are compared with the planned machine where a cell ran on its kind of device, and with one CPU
    thread where a cell ran on a CPU.
    """
    found: defaultdict[str, dict[str, tuple[float, float]]] = defaultdict(dict)  # predicted and measured, by cell
    elsewhere = 0
    for name, training in jobs.trainings.items():
        marker = _read(results / "cells" / name / "train.json")
        if marker.get("status") != "done":
            continue
        cost, training = marker["cost"], training.as_trained(marker.get("decided", {}))
        found["flops"][name] = training.work.flops, cost["flops_total"] - cost.get("flops_references", 0.0)
        machine = _machine_of(marker.get("provenance", {}), planned)
        if machine is None:
            elsewhere += 1
            continue
        seconds = training.scoring_seconds(machine) + training.training_seconds(machine)
        found["training_seconds"][name] = seconds, cost["seconds_scoring"] + cost["seconds_training"]
        # the resident size of a process holds its runtime, too; what torch allocates on a GPU does not
        runtime = machine.reserve if machine.device == "cpu" else 0.0
        found["memory"][name] = training.memory.total + runtime, cost["peak_memory_bytes"]
    for (name, evaluation), job in jobs.evaluations.items():
        scores = _read(results / "cells" / name / evaluation / "scores.json")
        machine = _machine_of(scores.get("backend", {}), planned)
        if "seconds" in scores and machine is not None:
            seconds = sum(job.seconds(machine).values())
            if job.settings.backend == "hf":  # an engine of vLLM starts for many cells
                seconds += machine.start_seconds
            found["evaluation_seconds"][name] = seconds, scores["seconds"]
    seconds_of = _ratio(found["training_seconds"]), _ratio(found["evaluation_seconds"])
    return PredictionCheck(_ratio(found["flops"]), *seconds_of, _ratio(found["memory"]), elsewhere)


def _machine_of(ran: dict[str, Any], planned: Machine) -> Machine | None:
    """The machine that stands for the device a job ran on; None for a GPU while the plan is for a CPU."""
    kind = str(ran.get("device", "cpu")).split(":")[0]
    if kind == planned.device:
        return planned
    return MACHINES["cpu"] if kind == "cpu" else None


def _ratio(pairs: dict[str, tuple[float, float]]) -> Ratio | None:
    ratios = {name: predicted / measured for name, (predicted, measured) in pairs.items() if measured and predicted}
    if not ratios:
        return None
    worst = max(ratios, key=lambda name: max(ratios[name], 1 / ratios[name]))
    return Ratio(median(ratios.values()), min(ratios.values()), max(ratios.values()), len(ratios), worst)


def _read(path: Path) -> dict[str, Any]:
    """Empty where there is no such file."""
    return dict(read_json(path)) if path.is_file() else {}
