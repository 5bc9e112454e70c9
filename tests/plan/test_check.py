"""Predictions against cells that were really trained."""

from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from accelerate import Accelerator
from test_work import a_cell

from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths
from qtuning.files import write_json
from qtuning.model.load import load_model
from qtuning.model.packed import PackedModel
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.check import check_predictions
from qtuning.plan.jobs import Jobs
from qtuning.plan.lengths import Lengths
from qtuning.plan.machines import MACHINES
from qtuning.plan.shapes import from_config
from qtuning.plan.work import TrainingWork, training_work
from qtuning.pruners.base import Ratings
from qtuning.pruners.method import method_of
from qtuning.train.candidates import CellSamples
from qtuning.train.step import TrainingLoop

CONFIGS = Path(__file__).parents[2] / "configs"
MINI = Path(__file__).parents[2] / "qtuning" / "assets" / "mini"
SIZES = [(5 + 7 * n % 40, 3 + 11 * n % 50) for n in range(60)]
# what is exact needs no tolerance; elsewhere the chosen samples are longer or shorter than the average one
METHODS = {
    "full": 1e-9,
    "longest+none": 1e-9,
    "random+random": 0.15,
    "random+fastv": 0.15,
    "deita+random": 0.15,
    "q-tuning-budget": 0.15,
}


SCHEDULES: dict[str, dict[str, Any]] = {
    "q-tuning-budget, reuse-graph": {"schedule": "reuse-graph"},
    "q-tuning-budget, pool": {"schedule": "pool", "batches": 3},
}


def trained(method: str, options: Any = None) -> tuple[TrainingWork, Any]:
    """What is predicted and what is measured: the mini model, 60 samples, two epochs, by the loop that trains cells."""
    cell, model = a_cell(method, 0.25, 0.5, options, batch_size=8), load_model(MINI, "float32")
    samples = oracles.random_samples(SIZES, seed=0)
    wrapped, accelerator = PackedModel(model), Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-3)
    assert cell.pruning is not None
    prepared = accelerator.prepare(wrapped, optimizer)
    ratings = Ratings(*(torch.arange(60.0).double() % 6,) * 3)
    loop = TrainingLoop(cell, method_of(cell.pruning), CellSamples(samples, ratings=ratings), accelerator, *prepared)
    for window in loop.windows():
        loop.step(window)
    prompts, responses = np.array(SIZES, dtype=np.float64).T
    lengths = Lengths(prompts, responses, 1.0, "tokens")
    return training_work(cell, from_config(model.config.to_dict(), "mini"), lengths), loop.cost.summary()


@pytest.mark.parametrize("method", [*METHODS, *SCHEDULES])
def test_flops_are_those_that_training_measures(method: str) -> None:
    options = {"scoring": SCHEDULES[method]} if method in SCHEDULES else {}
    method = method.partition(",")[0]
    work, cost = trained(method, options)
    tolerance = METHODS[method]
    assert work.flops == pytest.approx(cost["flops_total"], rel=tolerance)
    if method != "q-tuning-budget":  # which, here, keeps samples that are shorter than the average one
        assert work.training_tokens == pytest.approx(cost["tokens_forwarded"], rel=tolerance)
    assert (work.updates, work.samples_kept) == (cost["updates"], pytest.approx(cost["samples_kept"]))
    if method in ("full", "longest+none", "q-tuning-budget", "deita+random"):  # all samples are scored, or none
        assert work.scoring_flops == pytest.approx(cost["flops_scoring"])
        assert (work.samples_scored, work.scoring_tokens) == (cost["samples_scored"], cost["tokens_scored"])


def test_a_surplus_is_not_predicted() -> None:
    """Q-Tuning's own defaults keep some more samples than K."""
    work, cost = trained("q-tuning")
    assert work.samples_kept <= cost["samples_kept"] <= 1.25 * work.samples_kept
    assert work.scoring_flops == pytest.approx(cost["flops_scoring"])


def planned(results: Path) -> Jobs:
    """Jobs of the mini experiment."""
    return Jobs(ConfigFolder(CONFIGS).expand(["mini"]), ResultPaths(results), read_assumptions(CONFIGS))


def test_finished_cells_are_compared_where_they_ran(tmp_path: Path) -> None:
    jobs = planned(tmp_path)
    cpu, h100 = MACHINES["cpu"], MACHINES["h100"]
    assert check_predictions(jobs, tmp_path, cpu).flops is None
    here, there, diverged = list(jobs.trainings.values())[:3]
    seconds = here.scoring_seconds(MACHINES["cpu"]) + here.training_seconds(MACHINES["cpu"])
    for job, device, factor in ((here, "cpu", 2.0), (there, "cuda:0", 0.5), (diverged, "cpu", 9.0)):
        cost = {"flops_total": job.work.flops * factor, "seconds_scoring": 0.0, "seconds_training": seconds * 4}
        marker: dict[str, Any] = {"status": "diverged" if job is diverged else "done", "provenance": {"device": device}}
        marker["cost"] = cost | {"peak_memory_bytes": 1e9}
        write_json(tmp_path / "cells" / job.identity / "train.json", marker)
    found = check_predictions(jobs, tmp_path, cpu)
    assert found.flops is not None and found.training_seconds is not None
    assert (found.flops.low, found.flops.high, found.flops.cells) == (0.5, 2.0, 2)
    assert found.flops.median == 1.25
    assert (found.training_seconds.median, found.training_seconds.cells, found.elsewhere) == (0.25, 1, 1)
    both = check_predictions(jobs, tmp_path, h100)
    assert both.elsewhere == 0 and both.training_seconds is not None and both.training_seconds.cells == 2
    assert both.training_seconds.high == pytest.approx(0.25)  # what ran on the CPU is compared with the CPU
    # of a process all that is resident was measured, of a GPU what torch allocates there
    reserve = MACHINES["cpu"].reserve
    assert both.memory is not None and reserve > 1e8
    bytes_of = [(here.memory.total + reserve) / 1e9, there.memory.total / 1e9]
    assert [both.memory.low, both.memory.high] == pytest.approx(sorted(bytes_of))
