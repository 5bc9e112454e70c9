"""How scores will vary, for the smallest detectable difference: measured on finished runs, or assumed.

Measured is what `qtuning instrument` measures (statistics/components.py), on the experiment's own finished cells or on
another experiment of the store with the same models and questions from the same source, whichever knows the spread
between seeds best (most degrees of freedom).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import polars as pl

from qtuning.errors import UserError
from qtuning.experiment.benchmarks import averaged
from qtuning.experiment.grid import Grid
from qtuning.plan.assumptions import Assumptions
from qtuning.statistics.answers import answer_sets
from qtuning.statistics.components import Components, components
from qtuning.statistics.instrument import budgets_of
from qtuning.statistics.power import Spread
from qtuning.statistics.summary import summarise
from qtuning.store.collect import collect, collect_items
from qtuning.store.store import Store


@dataclass(frozen=True)
class ScoreSpread:
    """Standard deviations in percentage points.

    own: of one method's average from seed to seed, of the model itself. common: of what a seed does to all methods,
    which cancels in a difference. spreads: of the paired difference of two methods, by benchmark; their `seed` is
    not used, and where items come in clusters, `item` and `rest` are those of as many independent items.
    correlation: of two methods' answers to one item. basis: where this comes from.
    """

    own: float
    common: float
    spreads: Mapping[str, Spread]
    correlation: float
    basis: str

    def seed_sd(self, items: Mapping[str, int]) -> float:
        """Of one method's average over seeds, with the part that so many items add; without `common`."""
        rest = sum(self.spreads[name].rest ** 2 / 2 / count for name, count in items.items())
        return sqrt(self.own**2 + rest / len(items) ** 2)


def assumed_spread(grid: Grid, assumptions: Assumptions) -> ScoreSpread:
    """As configs/planning.yaml has it: the seed spread holds what items add, and benchmarks move together."""
    assert grid.evaluation is not None
    of_answer = 100 * sqrt(2 * 0.25 * (1 - assumptions.effect.correlation))
    spreads = dict.fromkeys(averaged(grid.evaluation.benchmarks), Spread(seed=0.0, item=of_answer, rest=0.0))
    return ScoreSpread(
        assumptions.seed_sd(grid.evaluation), 0.0, spreads, assumptions.effect.correlation, "assumed (planning.yaml)"
    )


class FinishedRuns:
    """What finished runs below `results` say of the spread of scores."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._store = Store(results) if (results / "scores.parquet").exists() else None

    def spread_of(self, grid: Grid) -> ScoreSpread | None:
        """The spread to plan an experiment with; None where no finished experiment can stand for it."""
        assert grid.evaluation is not None
        found = max(self._measured(grid), key=lambda pair: pair[1].freedom, default=None)
        if found is None:
            return None
        name, parts = found
        basis = f"measured on {name}, {parts.freedom} degrees of freedom"
        spreads = dict(zip(averaged(grid.evaluation.benchmarks), parts.spreads, strict=True))
        return ScoreSpread(parts.own, parts.common, spreads, parts.correlation, basis)

    def _measured(self, grid: Grid) -> Iterator[tuple[str, Components]]:
        """(experiment, its components) of all that can stand for this one, itself first."""
        own, _ = collect([grid], self._results)
        frames = [(own, collect_items(own, self._results))]
        if self._store is not None:
            others = self._store.scores.filter(pl.col("experiment") != grid.experiment.name)
            alike = (rows for rows in others.partition_by("experiment", maintain_order=True) if _alike(rows, grid))
            frames += [(rows, self._store.answers) for rows in alike]
        for scores, items in frames:
            if (parts := _components(scores, items, grid)) is not None:
                yield scores["experiment"][0], parts


def _alike(rows: pl.DataFrame, grid: Grid) -> bool:
    """Whether an experiment of the store has this one's models, and asked all of its benchmarks in the same source."""
    assert grid.evaluation is not None
    return (
        set(rows["model"]) == {cell.model.name for cell in grid.cells}
        and set(rows["benchmark"]) >= set(averaged(grid.evaluation.benchmarks))
        and json.loads(rows["evaluation_config"][0])["source"] == grid.evaluation.source
    )


def _components(scores: pl.DataFrame, items: pl.DataFrame | pl.LazyFrame, grid: Grid) -> Components | None:
    """Of the average of the grid's benchmarks, pooled over models, train sets and budgets."""
    assert grid.evaluation is not None
    names = averaged(grid.evaluation.benchmarks)
    try:
        summary = summarise(scores.filter(pl.col("benchmark").is_in(names)))
    except UserError:  # it mixes evaluations, which its own table will say
        return None
    known = [(each, block) for each in answer_sets(summary, items) for block in budgets_of(each, summary.overall)]
    found = components([[each.arrays(block, name)[0] for name in names] for each, block in known])
    if found is None:
        return None
    spreads = []
    for name, spread in zip(names, found.spreads, strict=True):
        one = next(iter(known[0][0].answers[known[0][1][0], name].values()))
        scale = sqrt(one.items / len(one.scores))  # a cluster of items counts for one
        spreads.append(replace(spread, item=scale * spread.item, rest=scale * spread.rest))
    return replace(found, spreads=tuple(spreads))
