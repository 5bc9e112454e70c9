"""The smallest true difference between two methods that an experiment would probably mark as significant.

The grid says which comparisons `statistics/compare.py` will make: with which reference, in families of what size, and
which lines pool their seed variances. `statistics/power.py` gives the power, with these standard deviations:

    over seeds: sqrt(2) s of the difference of two averages, where s is that of a method's average
    over items: sqrt(2 p (1 - p) (1 - rho)) of the difference of two answers to one item, with p = 1/2, where a share of
    right answers varies most, and rho the correlation of both models' answers. It is the same at every seed, so more
    seeds do not make it smaller.

s includes effects of a seed that all methods share. These cancel in a difference, so s overestimates the noise.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, variance

from qtuning.experiment.benchmarks import averaged
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import canonical, cell_id, evaluation_id
from qtuning.files import canonical_json, read_json
from qtuning.plan.assumptions import Assumptions
from qtuning.plan.work import evaluation_work
from qtuning.statistics.answers import pools_of
from qtuning.statistics.compare import references, rival_of
from qtuning.statistics.power import Spread, detectable_difference
from qtuning.store.collect import identity
from qtuning.store.lines import FULL, RANDOM, ZERO_SHOT, Line, line_of


@dataclass(frozen=True)
class Detectable:
    """The smallest difference from one reference that is likely to be marked.

    comparisons: size of the family, which Holm's correction is for. lines: the fewest that lend each other their seed
    variance, the reference among them. points: the difference, in points of the average score.
    """

    against: str
    comparisons: int
    lines: int
    points: float


@dataclass(frozen=True)
class Effect:
    """What one experiment can show.

    detects: by reference; empty with nothing to compare, and of the items alone with one seed. note: why nothing can be
    marked, or empty. seed_sd: of a method's average over seeds. measured: groups of cells that seed_sd was pooled from,
    0 where it is assumed. item_sd: of the difference of two averages, over draws of the items.
    """

    experiment: str
    seeds: int
    items: int
    detects: tuple[Detectable, ...]
    note: str
    seed_sd: float
    measured: int
    item_sd: float


def effects_of(grids: Sequence[Grid], results: Path, assumptions: Assumptions) -> list[Effect]:
    """The effect of each experiment that is evaluated, in order."""
    return [_effect(grid, results, assumptions) for grid in grids if grid.evaluation is not None]


def _effect(grid: Grid, results: Path, assumptions: Assumptions) -> Effect:
    assert grid.evaluation is not None
    trained = [cell for cell in grid.cells if not cell.zero_shot]
    seeds = len({canonical_json(cell.seeds.model_dump()) for cell in trained if cell.seeds is not None})
    of_answer = 100 * sqrt(2 * 0.25 * (1 - assumptions.effect.correlation))
    asked = {work.benchmark: work.items for work in evaluation_work(grid.evaluation, assumptions)}
    items = {name: asked[name] for name in averaged(asked) or asked}
    seed_sd, measured = seed_spread(grid, results) or (assumptions.seed_sd(grid.evaluation), 0)
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
    spreads = dict.fromkeys(items, Spread(seed=0.0, item=of_answer, rest=0.0))
    detects = []
    for against, (comparisons, lines) in families.items():
        untrained = against == "zero-shot"
        # the untrained model has no seeds: one method's spread counts, and no other line helps to estimate it
        points = detectable_difference(
            spreads, items, seeds, 2 if untrained else lines,
            seed_of_average=seed_sd if untrained else sqrt(2) * seed_sd, comparisons=comparisons,
        )  # fmt: skip
        detects.append(Detectable(against, comparisons, lines, points))
    item_sd = of_answer * sqrt(sum(1 / count for count in items.values())) / len(items)
    return Effect(grid.experiment.name, seeds, sum(items.values()), tuple(detects), note, seed_sd, measured, item_sd)


def families_of(grid: Grid) -> dict[str, tuple[int, int]]:
    """Reference -> (comparisons with it, fewest lines that lend each other their seed variance).

    Only references that tables mark differences from: random + random where a budget has it, full data, and without
    full data the model without training.
    """
    found: dict[str, tuple[int, list[int]]] = {}
    for lines in _lines_of_tables(grid):
        pools = pools_of(lines)
        for line in (line for line in lines if not line.reference):
            for against in references(lines):
                rival = rival_of(line, lines, against)
                if rival == line:
                    continue
                count, sizes = found.setdefault(against, (0, []))
                # a comparison that cannot be made counts in its family
                found[against] = (count + 1, sizes if rival is None else [*sizes, len({rival, *pools[line]})])
    marked = (RANDOM, FULL) if found.get(FULL, (0, []))[1] else (RANDOM, ZERO_SHOT)
    return {name: (found[name][0], min(found[name][1])) for name in marked if name in found and found[name][1]}


def _lines_of_tables(grid: Grid) -> Iterator[list[Line]]:
    """The lines of each model on each train set, as a table will have them."""
    rows = [identity(grid, cell) for cell in grid.cells]
    train_sets = dict.fromkeys(row["train_set"] for row in rows if row["train_set"] is not None)
    for model in dict.fromkeys(row["model"] for row in rows):
        for train_set in train_sets:
            mine = [row for row in rows if row["model"] == model and row["train_set"] in (train_set, None)]
            yield list(dict.fromkeys(line_of(row, train_set) for row in mine))


def seed_spread(grid: Grid, results: Path) -> tuple[float, int] | None:
    """(pooled standard deviation of the average score over seeds, in points; groups of cells that differ in seeds).

    None where no two such cells are finished.
    """
    assert grid.evaluation is not None
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for cell in grid.cells:
        path = results / "cells" / cell_id(cell) / evaluation_id(grid.evaluation) / "scores.json"
        if cell.zero_shot or not path.is_file():
            continue
        scores = read_json(path)["benchmarks"]
        if scores.keys() >= set(grid.evaluation.benchmarks):
            names = grid.evaluation.benchmarks
            entries = [scores[name] for name in averaged(names) or names]
            method = canonical_json(canonical(cell).model_dump(mode="json", by_alias=True, exclude={"seeds"}))
            groups[method].append(100 * fmean(entry["metrics"][entry["headline"]] for entry in entries))
    several = [values for values in groups.values() if len(values) > 1]
    if not several:
        return None
    squares = sum(variance(values) * (len(values) - 1) for values in several)
    return sqrt(squares / sum(len(values) - 1 for values in several)), len(several)
