"""What finished runs say of the spread of scores: measured on the best known experiment, and told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from cell_folders import METRICS, Folders

from qtuning.experiment.ids import evaluation_id
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.effect import effects_of
from qtuning.plan.spread import FinishedRuns
from qtuning.statistics.answers import answer_sets
from qtuning.statistics.components import components
from qtuning.statistics.instrument import budgets_of
from qtuning.statistics.power import detectable_difference
from qtuning.statistics.summary import summarise
from qtuning.store.store import Store, write_store

CONFIGS = Path(__file__).parents[2] / "configs"
EVALUATION: dict[str, Any] = {"benchmarks": ["gsm8k", "squad"], "source": "mini-world", "max_length": 256}
METHODS = ["random+random", "q-tuning", "ppl-high+random", "longest+random", "random+ppl"]


def finish(folders: Folders, items: int = 50) -> Folders:
    """Every cell answers at random."""
    for cell in folders.grid.cells:
        folders.finish(cell)
        rng = np.random.default_rng(list(folders.folder(cell).name.encode()))
        frames = [
            pl.DataFrame({
                "benchmark": name, "item": range(items), "item_hash": [f"{item:064d}" for item in range(items)],
                "cluster": [f"{item:016d}" for item in range(items)],
                "metric": METRICS[name][0], "score": rng.integers(0, 2, items).astype(float), "response": "",
            })
            for name in EVALUATION["benchmarks"]
        ]  # fmt: skip
        pl.concat(frames).write_parquet(folders.folder(cell) / evaluation_id(folders.grid.evaluation) / "items.parquet")
    return folders


def test_the_experiments_own_cells_are_measured(make_folders: Callable[..., Folders]) -> None:
    given: dict[str, Any] = {"budgets": ["25x50"], "seeds": [0, 1, 2], "evaluation": EVALUATION, "methods": METHODS}
    folders = make_folders(**given)
    assert FinishedRuns(folders.results).spread_of(folders.grid) is None, "nothing is finished"
    finish(folders)
    found = FinishedRuns(folders.results).spread_of(folders.grid)
    write_store([folders.grid], folders.results)
    store = Store(folders.results)
    (known,) = answer_sets(summarise(store.experiment("mini")), store.items)
    parts = components([known.arrays(block, "avg") for block in budgets_of(known, "avg")])
    assert found is not None and parts is not None
    assert found.basis == "measured on mini, 8 degrees of freedom"
    assert (found.own, found.common, found.correlation) == (parts.own, parts.common, parts.correlation)
    assert tuple(found.spreads.values()) == parts.spreads
    assert found.seed_sd({"gsm8k": 50, "squad": 50}) == pytest.approx(parts.seed)
    (effect,) = effects_of([folders.grid], folders.results, read_assumptions(CONFIGS))
    items = {"gsm8k": 240, "squad": 240}  # all that planning.yaml knows of, not the 50 that were answered
    detects = effect.detects[0]
    expected = detectable_difference(
        found.spreads, items, 3, 5, seed_of_average=np.sqrt(2) * found.own, comparisons=detects.comparisons
    )
    assert detects.against == "random+random" and detects.points == pytest.approx(expected)


def test_another_experiment_stands_in_where_it_knows_more(make_folders: Callable[..., Folders]) -> None:
    given: dict[str, Any] = {"budgets": ["25x50"], "evaluation": EVALUATION}
    rich = finish(make_folders(**given, name="rich", seeds=[0, 1, 2, 3], methods=METHODS))
    write_store([rich.grid], rich.results)
    poor = make_folders(**given, name="poor", seeds=[0, 1], methods=["random+random", "entropy+random"])
    for same in (poor, finish(poor)):  # before and after it ran
        found = FinishedRuns(rich.results).spread_of(same.grid)
        assert found is not None and found.basis == "measured on rich, 12 degrees of freedom"
    other = make_folders(**given | {"evaluation": EVALUATION | {"benchmarks": ["gsm8k", "math"]}}, name="other")
    assert FinishedRuns(rich.results).spread_of(other.grid) is None, "it asked no MATH"
    elsewhere = make_folders(budgets=["25x50"], name="elsewhere", models=["smollm2-135m"], evaluation=EVALUATION)
    assert FinishedRuns(rich.results).spread_of(elsewhere.grid) is None, "another model"
