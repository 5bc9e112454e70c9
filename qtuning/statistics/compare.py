"""Which differences of an experiment are real: every pruned line against random pruning, the full data, no training.

Reads a store alone. The estimates are those of statistics.py (docs/statistics.md); unit: percentage points.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from qtuning.statistics.answers import World, full_of, worlds
from qtuning.statistics.estimate import Array, Estimate, estimate_differences, estimate_scores, holm, mean_squares
from qtuning.statistics.power import Spread
from qtuning.store.store import Store
from qtuning.tables.summary import AVERAGE, Line, random_at_budget

RANDOM, FULL, ZERO_SHOT = "random+random", "full", "zero-shot"
MARKS = {RANDOM: "†", FULL: "‡", ZERO_SHOT: "§"}
"""What stands beside an average that differs from random pruning, from the full data, or, only in an experiment that
has no full data, from the model without training."""
FAMILY_ERROR = 0.05
LEAST = {"score": 0.0, "difference": -100.0}
"""What cannot be undercut, per cent or percentage points."""

ONE_SEED = "one seed: how scores move from seed to seed is unknown; the interval covers items only, a lower bound"
ABSENT = {
    RANDOM: f"{RANDOM} at this budget is not part of this experiment",
    FULL: f"{FULL} is not part of this experiment",
    ZERO_SHOT: f"{ZERO_SHOT} is not part of this experiment",
}
UNTRAINED = "not trained, so without seeds: the interval covers items only"

Estimates = dict[tuple[tuple[Line, ...], Line, str], tuple[list[Line], Estimate, Array]]
"""(pool, reference, benchmark) -> the lines of the pool that are paired, their differences, and their p values."""

LINE_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("experiment", "model", "train_set", "method", "options", "training", "variant"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    "benchmark": pl.String(),
}
ERROR_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("n_seeds", "n_items"), pl.Int64()),
    **dict.fromkeys(("seed_sd", "seed_df", "item_se"), pl.Float64()),
    "note": pl.String(),
}
COMPARISON_SCHEMA: dict[str, pl.DataType] = {
    **LINE_SCHEMA,
    "against": pl.String(),
    **dict.fromkeys(("difference", "low", "high", "p", "p_holm"), pl.Float64()),
    "significant": pl.Boolean(),
    "mark": pl.String(),
    **ERROR_SCHEMA,
}
"""Columns of `compare`."""
INTERVAL_SCHEMA: dict[str, pl.DataType] = {
    **LINE_SCHEMA,
    **dict.fromkeys(("score", "low", "high"), pl.Float64()),
    **ERROR_SCHEMA,
}
"""Columns of `score_intervals`."""


def compare(store: Store, experiment: str) -> pl.DataFrame:
    """One row per pruned line, model, benchmark (`avg` among them) and reference: the paired difference and its error.

    low, high: 95% interval over seeds and items. p: two-sided. p_holm: corrected for all averages of the experiment
    against the same reference (holes count), on the average only, or on the only benchmark. significant: p_holm < 5%;
    null where there is no p_holm or only one seed. mark: † (random+random) or ‡ (full) where significant; § (zero-shot)
    where significant and no line of the experiment has the full data.
    seed_sd: of the difference, from seed to seed, on seed_df degrees of freedom; item_se: what the choice of items
    adds. The square of the standard error is seed_sd^2 / n_seeds + item_se^2.
    A comparison that cannot be made is a row of nulls with its reason in `note`.

    Raises UserError if the experiment is not in the store.
    """
    rows: list[dict[str, Any]] = []
    for world in worlds(store, experiment):
        known: Estimates = {}
        for line in world.lines:
            if not line.reference:
                found = references(world.lines)
                rows += [row for against in found for row in _compared(world, line, against, known)]
    return _with_families(pl.DataFrame(rows, schema=COMPARISON_SCHEMA, orient="row"))


def score_intervals(store: Store, experiment: str) -> pl.DataFrame:
    """One row per line, model and benchmark: its own score, per cent, with a 95% interval over seeds and items.

    seed_sd: of the score, from seed to seed. Raises UserError if the experiment is not in the store.
    """
    rows = [
        _scored(world, line, benchmark)
        for world in worlds(store, experiment)
        for line in world.lines
        for benchmark in world.summary.benchmarks
    ]
    return pl.DataFrame(rows, schema=INTERVAL_SCHEMA, orient="row")


def difference_interval(
    world: World, line: Line, rival: Line, benchmark: str, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of `line` - `rival`, percentage points, of any two trained lines that are paired (`World.unpaired`).

    Where `rival` is what `compare` compares with, these are its `low` and `high`.
    """
    lines, estimate = _from_pool(world, line, rival, benchmark)
    return _interval(estimate, lines.index(line), "difference", confidence)


def score_interval(world: World, line: Line, benchmark: str, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a line's own score, per cent: `low` and `high` of `score_intervals`."""
    return _interval(_of_score(world, line, benchmark), 0, "score", confidence)


def references(lines: Sequence[Line]) -> tuple[str, ...]:
    """What the pruned ones among these lines are compared with; without training only where there is such a line."""
    return (RANDOM, FULL, ZERO_SHOT) if any(line.method == ZERO_SHOT for line in lines) else (RANDOM, FULL)


def rival_of(line: Line, lines: Sequence[Line], against: str) -> Line | None:
    """The line that a pruned one is compared with; None where there is none, the line itself where it is that one."""
    if against == ZERO_SHOT:
        untrained = (other for other in lines if other.train_set == line.train_set and other.method == ZERO_SHOT)
        return next(untrained, None)
    return random_at_budget(line, lines) if against == RANDOM else full_of(line, lines)


def measured_spreads(store: Store, experiment: str) -> dict[str, Spread]:
    """By benchmark, how the paired differences from random pruning scatter: means over lines and models.

    What `power.detectable_difference` plans with. Only of lines with at least 2 seeds; empty where there are none.
    Variances are unbiased estimates; a mean of them that is negative counts as zero.
    """
    found: dict[str, list[tuple[float, float, float]]] = {}
    for world in worlds(store, experiment):
        for line in world.lines:
            rival = random_at_budget(line, world.lines)
            if rival is None or rival == line:
                continue
            for benchmark in world.parts(AVERAGE):
                if world.unpaired(line, rival, benchmark) is not None:
                    continue
                (scores,) = world.arrays([line, rival], benchmark)
                _, seeds, items = scores.shape
                if seeds > 1:
                    of_seeds, of_items, rest = (float(part[0]) for part in mean_squares(scores[:1] - scores[1:]))
                    variances = ((of_seeds - rest) / items, (of_items - rest) / seeds, rest)
                    found.setdefault(benchmark, []).append(variances)
    spreads = {}
    for benchmark, all_variances in found.items():
        means = np.maximum(np.mean(all_variances, axis=0), 0.0)
        spreads[benchmark] = Spread(*(float(sd) for sd in np.sqrt(means)))
    return spreads


def _compared(world: World, line: Line, against: str, known: Estimates) -> Iterator[dict[str, Any]]:
    """The rows of one line against one reference, one a benchmark; none for the reference itself.

    known: the estimates of whole pools, which their lines share.
    """
    rival = rival_of(line, world.lines, against)
    if rival == line:
        return
    for benchmark in world.summary.benchmarks:
        row = _row(world, COMPARISON_SCHEMA, line, benchmark) | {"against": against}
        if rival is None:
            yield row | {"note": ABSENT[against]}
        elif (reason := world.unpaired(line, rival, benchmark)) is not None:
            yield row | {"note": reason}
        elif against == ZERO_SHOT:
            estimate = _from_untrained(world, line, rival, benchmark)
            row |= {"p": float(estimate.p_value()[0])}
            yield row | _estimated(world, line, benchmark, estimate, 0, "difference")
        else:
            pool = world.pools[line]
            if (pool, rival, benchmark) not in known:
                lines, estimate = _from_pool(world, line, rival, benchmark)
                known[pool, rival, benchmark] = lines, estimate, estimate.p_value()
            lines, estimate, p = known[pool, rival, benchmark]
            row |= {"p": float(p[lines.index(line)])}
            yield row | _estimated(world, line, benchmark, estimate, lines.index(line), "difference")


def _from_pool(world: World, line: Line, rival: Line, benchmark: str) -> tuple[list[Line], Estimate]:
    """Of the lines of the pool of `line` minus `rival`, which stands first."""
    lines = world.paired(world.pools[line], rival, benchmark)
    return lines, estimate_differences(world.arrays(lines, benchmark), 0, world.prior)


def _from_untrained(world: World, line: Line, untrained: Line, benchmark: str) -> Estimate:
    """Of `line` minus the model without training, which is one and the same at every seed: what a seed does to all
    lines does not cancel, so the differences behave as scores do. Items are paired. The line stands first."""
    lines = world.paired(world.pools[line], line, benchmark)
    fixed = world.arrays([untrained], benchmark)
    differences = [scores - one for scores, one in zip(world.arrays(lines, benchmark), fixed, strict=True)]
    return estimate_scores(differences, world.prior)


def _scored(world: World, line: Line, benchmark: str) -> dict[str, Any]:
    """The row of one line's own score."""
    row = _row(world, INTERVAL_SCHEMA, line, benchmark)
    if (reason := world.hole(line, benchmark)) is not None:
        return row | {"note": reason}
    return row | _estimated(world, line, benchmark, _of_score(world, line, benchmark), 0, "score")


def _of_score(world: World, line: Line, benchmark: str) -> Estimate:
    """Of the lines of the pool, `line` first."""
    lines = world.paired(world.pools[line], line, benchmark)
    return estimate_scores(world.arrays(lines, benchmark), world.prior)


def _row(world: World, schema: dict[str, pl.DataType], line: Line, benchmark: str) -> dict[str, Any]:
    """What identifies a row; the rest is null."""
    identity = {"experiment": world.experiment, "model": world.model, "benchmark": benchmark}
    names = ("train_set", "method", "options", "training", "variant", "sample_ratio", "token_ratio")
    return dict.fromkeys(schema) | identity | {name: getattr(line, name) for name in names}


def _estimated(world: World, line: Line, benchmark: str, estimate: Estimate, place: int, what: str) -> dict[str, Any]:
    """The mean with its interval, and where its error comes from."""
    low, high = _interval(estimate, place, what)
    answers = [world.answers[line, name] for name in world.parts(benchmark)]
    row: dict[str, Any] = {
        what: float(estimate.mean[place]),
        "low": low,
        "high": high,
        "n_seeds": 0 if line.method == "zero-shot" else estimate.seeds,
        "n_items": sum(len(next(iter(by_seed.values()))[1]) for by_seed in answers),
        "item_se": float(np.sqrt(estimate.variances[-1, place])),
    }
    if estimate.seeds == 1:
        return row | {"note": UNTRAINED if line.method == "zero-shot" else ONE_SEED}
    over_seeds, freedom = estimate.variances[:-1, place], estimate.freedom[:-1, place]
    total, spread = float(over_seeds.sum()), float((over_seeds**2 / freedom).sum())
    seed_df = total**2 / spread if spread > 0 else float(freedom.min())
    return row | {"seed_sd": float(np.sqrt(total * estimate.seeds)), "seed_df": seed_df}


def _interval(estimate: Estimate, place: int, what: str, confidence: float = 0.95) -> tuple[float, float]:
    """Mean +- half the width, within what a score (0 to 100) or a difference of two (-100 to 100) can be."""
    mean, half = float(estimate.mean[place]), float(estimate.half_width(confidence)[place])
    return max(mean - half, LEAST[what]), min(mean + half, 100.0)


def _with_families(table: pl.DataFrame) -> pl.DataFrame:
    """Holm's correction over the averages against one reference, and the marks that follow."""
    several = (table["benchmark"] == AVERAGE).any()
    # the note of a full-data row that has a hole is another one
    has_full = not table.filter(
        (pl.col("against") == FULL) & (pl.col("note") != ABSENT[FULL]).fill_null(True)
    ).is_empty()
    parts = []
    for (against,), rows in table.with_row_index("place").group_by("against", maintain_order=True):
        family = rows.filter(pl.col("benchmark") == AVERAGE) if several else rows
        tested = family.filter(pl.col("p").is_not_null())
        p_holm = holm(tested["p"].to_numpy(), len(family))
        found = rows.drop("p_holm", "significant", "mark").join(
            tested.select("place", p_holm=pl.Series(p_holm, dtype=pl.Float64)), on="place", how="left"
        )
        significant = pl.when(pl.col("n_seeds") > 1).then(pl.col("p_holm") < FAMILY_ERROR)
        shown = pl.col("significant") & pl.lit(not (against == ZERO_SHOT and has_full))
        mark = pl.when(shown).then(pl.lit(MARKS[str(against)]))
        parts.append(found.with_columns(significant=significant).with_columns(mark=mark))
    return pl.concat(parts).sort("place").select(list(COMPARISON_SCHEMA)) if parts else table
