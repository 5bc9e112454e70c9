"""The smallest difference between two methods that an experiment is likely to find.

Two methods are compared by the difference of their average scores, over S seeds and the items of the benchmarks:

    Var = 2 s^2 / S  +  sum over B benchmarks of 2 p (1 - p) (1 - rho) / n_b, over B^2

s: standard deviation of a method's average over seeds. The second part is that of the items: p = 1/2, where a share of
right answers varies most, and rho the correlation of both models' answers to one item. The items are the same at every
seed, so more seeds do not make that part smaller. A two-sided t test with the degrees of freedom of Welch and
Satterthwaite, (S - 1) (Var / (2 s^2 / S))^2, finds the difference with the chance that is asked for (noncentral t, as
in results/statistics.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from qtuning.config import Cell
from qtuning.files import canonical_json, read_json
from qtuning.grid import Grid
from qtuning.identity import canonical, cell_id, evaluation_id
from qtuning.planning.answers import answers_of
from qtuning.planning.assumptions import Assumptions


@dataclass(frozen=True)
class Effect:
    """Of one experiment. points: the difference in per cent, None with nothing to compare.

    seed_sd, item_sd: of `detectable`. measured: groups of cells that seed_sd was pooled from, 0 where it is assumed.
    """

    experiment: str
    seeds: int
    items: int
    points: float | None
    seed_sd: float
    measured: int
    item_sd: float


def detectable(seed_sd: float, item_sd: float, seeds: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that the test finds with this power, in the unit of both standard deviations.

    seed_sd: of one method over seeds. item_sd: of the difference, over draws of the items. With one seed its spread
    cannot be tested: the value is that of a normal test which is told seed_sd.
    """
    from scipy.special import nctdtr, ndtri, stdtrit

    of_seeds, of_items = 2 * seed_sd**2 / seeds, item_sd**2
    total = of_seeds + of_items
    if seeds < 2:
        return float((ndtri(1 - alpha / 2) + ndtri(power)) * sqrt(total))
    freedom = (seeds - 1) * (total / of_seeds) ** 2
    critical = float(stdtrit(freedom, 1 - alpha / 2))
    low, high = 0.0, 2 * critical
    while 1 - nctdtr(freedom, high, critical) < power:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - nctdtr(freedom, middle, critical) < power else (low, middle)
    return high * sqrt(total)


def effects_of(grids: Sequence[Grid], results: Path, assumptions: Assumptions) -> list[Effect]:
    """One of each experiment that is evaluated, in order."""
    found = []
    for grid in grids:
        if grid.evaluation is None:
            continue
        trained = [cell for cell in grid.cells if not cell.zero_shot]
        seeds = len({canonical_json(cell.seeds.model_dump()) for cell in trained if cell.seeds is not None})
        answers = answers_of(grid.evaluation, assumptions)
        spread = 2 * 0.25 * (1 - assumptions.effect.correlation)
        item_sd = 100 * sqrt(sum(spread / asked.items for asked in answers)) / len(answers)
        measured = seed_spread(grid, results)
        seed_sd = assumptions.seed_sd(grid.evaluation) if measured is None else measured[0]
        points = detectable(seed_sd, item_sd, seeds) if seeds and seed_sd > 0 else None
        found.append(
            Effect(
                grid.experiment.name, seeds, sum(asked.items for asked in answers), points, seed_sd,
                0 if measured is None else measured[1], item_sd,
            )
        )  # fmt: skip
    return found


def seed_spread(grid: Grid, results: Path) -> tuple[float, int] | None:
    """(pooled standard deviation of the average score over seeds, in points; groups of cells that differ in seeds).

    None where no two such cells are finished.
    """
    assert grid.evaluation is not None
    groups: dict[str, list[float]] = {}
    for cell in grid.cells:
        path = results / "cells" / cell_id(cell) / evaluation_id(grid.evaluation) / "scores.json"
        if cell.zero_shot or not path.is_file():
            continue
        average = _average(read_json(path), grid.evaluation.benchmarks)
        if average is not None:
            groups.setdefault(_without_seeds(cell), []).append(average)
    several = [values for values in groups.values() if len(values) > 1]
    if not several:
        return None
    squares = sum(variance(values) * (len(values) - 1) for values in several)
    return sqrt(squares / sum(len(values) - 1 for values in several)), len(several)


def _average(scores: dict[str, Any], benchmarks: Sequence[str]) -> float | None:
    """Mean of the headline metrics in points; None where a benchmark is missing."""
    entries = [scores["benchmarks"].get(name) for name in benchmarks]
    if any(entry is None for entry in entries):
        return None
    return 100 * fmean(entry["metrics"][entry["headline"]] for entry in entries)


def _without_seeds(cell: Cell) -> str:
    return canonical_json(canonical(cell).model_dump(mode="json", by_alias=True, exclude={"seeds"}))
