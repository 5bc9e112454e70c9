"""The smallest true difference between two methods that an experiment would probably mark as significant.

The grid says which comparisons `statistics/compare.py` will make: with which reference, in families of what size, and
which lines pool their seed variances. `statistics/power.py` gives the power, with standard deviations that finished
runs measured (spread.py), or where there are none, with these:

    over seeds: sqrt(2) s of the difference of two averages, where s is that of a method's average
    over items: sqrt(2 p (1 - p) (1 - rho)) of the difference of two answers to one item, with p = 1/2, where a share of
    right answers varies most, and rho the correlation of both models' answers. It is the same at every seed, so more
    seeds do not make it smaller.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt
from pathlib import Path

from qtuning.experiment.benchmarks import averaged
from qtuning.experiment.grid import Grid
from qtuning.files import canonical_json
from qtuning.plan.assumptions import Assumptions
from qtuning.plan.spread import FinishedRuns, assumed_spread
from qtuning.plan.work import evaluation_work
from qtuning.statistics.answers import pools_of
from qtuning.statistics.compare import references, rival_of
from qtuning.statistics.families import primary_pairs
from qtuning.statistics.power import detectable_difference
from qtuning.store.collect import identity
from qtuning.store.lines import FULL, ZERO_SHOT, Line, line_of


@dataclass(frozen=True)
class Detectable:
    """The smallest difference from one reference that is likely to be marked.

    comparisons: size of the family of primary comparisons, which Holm's correction is for; 1 for an exploratory one.
    lines: the fewest that lend each other their seed variance, the reference among them. points: the difference, in
    points of the average score.
    """

    against: str
    comparisons: int
    lines: int
    points: float


@dataclass(frozen=True)
class Effect:
    """What one experiment can show.

    detects: by reference; empty with nothing to compare, and of the items alone with one seed. note: why nothing can be
    marked, or empty. items: of the benchmarks that the average averages. seed_sd: of a method's average over seeds;
    what a seed does to all methods is left out where that was measured. item_sd: of the difference of two averages,
    over draws of the items. correlation: of two methods' answers to one item. basis: where the three come from.
    """

    experiment: str
    seeds: int
    items: int
    detects: tuple[Detectable, ...]
    note: str
    seed_sd: float
    item_sd: float
    correlation: float
    basis: str


def effects_of(grids: Sequence[Grid], results: Path, assumptions: Assumptions) -> list[Effect]:
    """The effect of each experiment that is evaluated, in order."""
    finished = FinishedRuns(results)
    return [_effect(grid, finished, assumptions) for grid in grids if grid.evaluation is not None]


def _effect(grid: Grid, finished: FinishedRuns, assumptions: Assumptions) -> Effect:
    assert grid.evaluation is not None
    trained = [cell for cell in grid.cells if not cell.zero_shot]
    seeds = len({canonical_json(cell.seeds.model_dump()) for cell in trained if cell.seeds is not None})
    names = averaged(grid.evaluation.benchmarks)
    work = evaluation_work(grid.evaluation, assumptions)
    items = {each.benchmark: each.items for each in work if each.benchmark in names}
    spread = finished.spread_of(grid) or assumed_spread(grid, assumptions)
    families = families_of(grid)
    reason = ""
    if not seeds:
        reason, families = "nothing is trained", {}
    elif not families:
        reason = "no reference in this experiment"
    elif min(items.values()) < 2:
        reason, families = "a benchmark has fewer than 2 items", {}
    elif seeds == 1:
        reason = "one seed"
    note = f"{reason}: nothing can be marked" if reason else ""
    detects = []
    for against, (comparisons, lines) in families.items():
        if against == ZERO_SHOT:
            # it has no seeds: one method's spread counts, what a seed does to all does not cancel, and no other line
            # helps to estimate it
            spreads = {name: replace(each, rest=each.rest / sqrt(2)) for name, each in spread.spreads.items()}
            lines, seed_sd = 2, hypot(spread.own, spread.common)
        else:
            spreads, seed_sd = dict(spread.spreads), sqrt(2) * spread.own
        points = detectable_difference(spreads, items, seeds, lines, seed_of_average=seed_sd, comparisons=comparisons)
        detects.append(Detectable(against, comparisons, lines, points))
    item_sd = sqrt(sum(each.item**2 / items[name] for name, each in spread.spreads.items())) / len(items)
    return Effect(
        grid.experiment.name, seeds, sum(items.values()), tuple(detects), note,
        spread.seed_sd(items), item_sd, spread.correlation, spread.basis,
    )  # fmt: skip


def families_of(grid: Grid) -> dict[str, tuple[int, int]]:
    """Reference -> (comparisons that Holm's correction is for, fewest lines that lend each other their seed variance).

    The primary comparisons of an experiment are one family, whatever they are with. A difference from another reference
    that tables show (full data, and without it the model without training) is exploratory: it counts as one comparison.
    """
    tables = list(_lines_of_tables(grid))
    pairs = [set(primary_pairs(lines, grid.experiment.primary)) for lines in tables]
    family, named = sum(map(len, pairs)), {rival for found in pairs for _, rival in found}
    found: dict[str, list[int]] = {}
    for lines, primary in zip(tables, pairs, strict=True):
        pools = pools_of(lines)
        for against in dict.fromkeys([*references(lines), *named]):
            for line in (line for line in lines if not line.reference):
                rival = rival_of(line, lines, against)
                if rival not in (None, line) and (against not in named or (line, against) in primary):
                    found.setdefault(against, []).append(len({rival, *pools[line]}))
    shown = [*named, FULL if FULL in found else ZERO_SHOT]
    return {name: (family if name in named else 1, min(found[name])) for name in dict.fromkeys(shown) if name in found}


def _lines_of_tables(grid: Grid) -> Iterator[list[Line]]:
    """The lines of each model on each train set, as a table will have them."""
    rows = [identity(grid, cell) for cell in grid.cells]
    train_sets = dict.fromkeys(row["train_set"] for row in rows if row["train_set"] is not None)
    for model in dict.fromkeys(row["model"] for row in rows):
        for train_set in train_sets:
            mine = [row for row in rows if row["model"] == model and row["train_set"] in (train_set, None)]
            yield list(dict.fromkeys(line_of(row, train_set) for row in mine))
