"""Grids: what is planned, shown and drawn of an experiment, and what a rerun takes that finds nothing to do.

Cells are generated, not trained: folders as training and evaluation leave them, of a few variants that cells share by
hard links. All else is real.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.mini import REPOSITORY
from benchmarks.report import Table, Value
from benchmarks.scale.spent import Spent
from benchmarks.scale.spent import run as spend
from qtuning.data.contamination import checks_of, run_check
from qtuning.data.prepare import prepare
from qtuning.evaluation import inputs as evaluated
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import Cell, Evaluation
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths, cell_id, cell_json, evaluation_id
from qtuning.experiment.metrics import METRICS
from qtuning.files import write_text
from qtuning.manifest import write_sealed
from qtuning.model.load import make_ready, model_path
from qtuning.store.schema import COST_COLUMNS, SELECTION_COLUMNS, SELECTION_STEPS
from qtuning.train.inputs import read_inputs
from qtuning.train.journal import TRACE_SCHEMA
from qtuning.workflow.inputs import WorkflowInputs

METHODS = [
    f"{sample}+{token}" for sample in ("random", "longest", "infobatch", "entropy") for token in ("random", "ppl")
]
METHODS += ["q-tuning", "q-tuning-history"]
BUDGETS = [f"{samples}x{tokens}" for samples in (12.5, 25, 37.5, 50, 75) for tokens in (50, 70)]
VARIANTS, ITEMS, SAMPLES, EPOCHS, UPDATES = 16, 200, 2000, 3, 200
STEPS: Mapping[str, Sequence[str]] = {
    "dry run": ("snakemake", "--cores", "2", "-n", "{experiment}"),
    "plan": ("qtuning", "plan", "{experiment}"),
    "collect": ("qtuning", "collect", "{experiment}"),
    "tables": ("qtuning", "tables", "{experiment}"),
    "figures": ("qtuning", "figures", "{experiment}", "--store", "results", "--out", "results/figures"),
    "run of the tables alone": ("snakemake", "--cores", "2", "{experiment}"),
    "rerun": ("snakemake", "--cores", "2", "{experiment}"),
}


def run(sizes: Sequence[int], work: Path, steps: Sequence[str] = tuple(STEPS)) -> Table:
    """A row for each step and size."""
    rows = [row for size in sizes for row in _measure(size, work, steps)]
    note = (
        f"10 methods, 5 or 10 budgets, the rest seeds; {len(BENCHMARKS)} benchmarks of {ITEMS} items. dry run: of a "
        "grid of which nothing is done. plan, collect, tables, figures: the commands, when every cell is finished. run "
        "of the tables alone: the workflow, when every cell is finished and no table is made. rerun: the workflow once "
        "more, which finds nothing to do."
    )
    return Table("Grids", rows, (note,))


def _measure(size: int, work: Path, steps: Sequence[str]) -> list[dict[str, Value]]:
    folder, name = work / f"cells-{size}", f"grid-{size}"
    _checkout(folder, name, size)
    spent: dict[str, Spent] = {}
    for step in steps:
        if step == next((each for each in steps if each != "dry run"), None):
            finish(folder, name)
        arguments = [part.format(experiment=name) for part in STEPS[step]]
        spent[step] = spend(arguments, folder, folder / f"{step}.log")
    if "rerun" in spent and "Nothing to be done" not in (folder / "rerun.log").read_text():
        raise RuntimeError("the rerun found something to do")
    shutil.rmtree(folder)
    return [{"step": step, "cells": size, **taken.columns()} for step, taken in spent.items()]


def _checkout(folder: Path, name: str, size: int) -> None:
    """What the workflow reads, with an experiment of `size` cells as the only one."""
    for part in ("workflow", "profiles", "configs"):
        shutil.copytree(REPOSITORY / part, folder / part)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    budgets = BUDGETS if size >= 1000 else BUDGETS[:5]
    shipped = (folder / "configs/experiments/mini.yaml").read_text(encoding="utf-8")
    for other in (folder / "configs/experiments").iterdir():
        other.unlink()
    experiment = ConfigFolder(REPOSITORY / "configs").expand(["mini"])[0].experiment
    assert shipped and experiment.evaluation is not None
    seeds = list(range(size // (len(METHODS) * len(budgets))))
    values: dict[str, Any] = {"title": f"{size} cells", "models": ["mini"], "train_sets": ["mini"], "seeds": seeds}
    values |= {"methods": METHODS, "budgets": budgets, "zero_shot": False, "limit_train": SAMPLES}
    values |= {"training": {"epochs": EPOCHS, "batch_size": 8, "cutoff": 256, "tuning": "full"}}
    values |= {"evaluation": experiment.evaluation.model_dump(mode="json", exclude_defaults=True)}
    write_text(folder / f"configs/experiments/{name}.yaml", json.dumps(values))


def finish(folder: Path, name: str) -> None:
    """Make everything that the cells of the experiment leave behind, and what they are made from."""
    grids = ConfigFolder(folder / "configs").expand([name])
    paths = ResultPaths(folder / "results")
    inputs = WorkflowInputs(grids, paths, None)
    (grid,) = grids
    assert grid.evaluation is not None
    for identity in [*inputs.cells, *inputs.evaluations, *inputs._shared]:
        write_text(paths.configuration(identity), inputs.configuration(identity) + "\n")
    make_ready(grid.cells[0].model, paths.model(grid.cells[0]))
    for cell in {paths.samples(cell): cell for cell in grid.cells}.values():
        prepare(cell, model_path(paths.model(cell)), paths.samples(cell))
    for check in checks_of(grids).values():
        write_sealed(check.path(paths.root), run_check(check, data_dir=None))
    variants = folder / "variants"
    for number in range(VARIANTS):
        for scored in (False, True):
            _variant(variants / f"{number}-{scored}", np.random.default_rng(number), scored)
    for number, cell in enumerate(grid.cells):
        assert cell.pruning is not None
        scored = cell.pruning.method.startswith("q-tuning")
        _cell(cell, grid.evaluation, paths, variants / f"{number % VARIANTS}-{scored}")


def _variant(folder: Path, rng: np.random.Generator, scored: bool) -> None:
    """Files of a cell that do not name it. scored: its method scores samples, and knows quadrants."""
    folder.mkdir(parents=True)
    count = SAMPLES * EPOCHS
    columns: dict[str, Any] = {
        "update": np.arange(count) * UPDATES // count,
        "epoch": np.arange(count) // SAMPLES,
        "sample": np.concatenate([rng.permutation(SAMPLES) for _ in range(EPOCHS)]),
        "ppl": np.exp(rng.gamma(2, 1, count)) if scored else [None] * count,
        "entropy": rng.gamma(2, 1, count) if scored else [None] * count,
        "quadrant": rng.integers(1, 5, count) if scored else [0] * count,
        "kept": rng.random(count) < 0.25,
        "supplement": np.zeros(count, dtype=bool),
        "response_tokens": rng.integers(5, 60, count),
        "kept_tokens": rng.integers(0, 5, count),
        "weight": np.ones(count),
        "loss": rng.gamma(2, 1, count),
    }
    columns |= {name: [None] * count for name in TRACE_SCHEMA if name not in columns}
    pl.DataFrame(columns, schema=TRACE_SCHEMA, strict=False).write_parquet(folder / "trace.parquet")
    keys = ["samples", "samples_kept", "tokens_kept", "response_tokens", "loss", "grad_norm"]
    keys += [f"selection/{name}" for name in SELECTION_STEPS]
    with (folder / "metrics.jsonl").open("w") as handle:
        for update in range(UPDATES):
            record = {"update": update, "epoch": update * EPOCHS // UPDATES} | {key: rng.random() for key in keys}
            handle.write(json.dumps(record) + "\n")
    frames = []
    for name, benchmark in BENCHMARKS.items():
        for metric in (benchmark.metric, *[key for key in METRICS if key != "headline"]):
            scores = rng.random(ITEMS) if metric in METRICS else (rng.random(ITEMS) < 0.5).astype(float)
            hashes = [f"{item:04d}{name}".encode().hex().ljust(64, "0")[:64] for item in range(ITEMS)]
            frames.append(
                pl.DataFrame({
                    "benchmark": name, "item": range(ITEMS), "item_hash": hashes, "cluster": hashes, "metric": metric,
                    "score": scores, "response": "",
                })
            )  # fmt: skip
    pl.concat(frames).write_parquet(folder / "items.parquet")


def _cell(cell: Cell, evaluation: Evaluation, paths: ResultPaths, variant: Path) -> None:
    """The folder of a finished cell."""
    folder, name = paths.cell(cell), cell_id(cell)
    scored = paths.evaluation(cell, evaluation)
    scored.mkdir(parents=True)
    for file, where in (("trace.parquet", folder), ("metrics.jsonl", folder), ("items.parquet", scored)):
        os.link(variant / file, where / file)
    costs = dict.fromkeys(COST_COLUMNS, 1000)
    selection = dict.fromkeys(SELECTION_COLUMNS, 0.5)
    train = {"cell": name, "status": "done", "reason": None, "cost": costs, "selection": selection, "provenance": {}}
    train["inputs"] = read_inputs(paths.model(cell), paths.samples(cell), {}, [], None)
    (folder / "train.json").write_text(json.dumps(train))
    (folder / "cell.json").write_text(cell_json(cell))
    (folder / "weights.sha256").write_text("0" * 64)
    means = pl.read_parquet(variant / "items.parquet").group_by("benchmark", "metric").agg(pl.col("score").mean())
    metrics: dict[str, dict[str, float]] = {}
    for benchmark, metric, score in means.sort("benchmark", "metric").iter_rows():
        metrics.setdefault(benchmark, {})[metric] = score
    results = {
        key: {"items": ITEMS, "headline": BENCHMARKS[key].metric, "metrics": metrics[key], "digest": "0" * 64}
        for key in evaluation.benchmarks
    }
    backend = {"name": evaluation.backend, "device": "cpu"}
    asked = {"evaluation": evaluation.model_dump(mode="json"), "evaluation_id": evaluation_id(evaluation)}
    asked["inputs"] = evaluated.read_inputs(cell, evaluation, paths, None)
    (scored / "scores.json").write_text(json.dumps({"cell": name, **asked, "backend": backend, "benchmarks": results}))
