"""Which differences of an experiment are real: every pruned line against random pruning, the full data, no training,
and whatever else its primary comparisons name (families.py).

Works on the answers to single test items. The estimates are those of estimate.py (docs/statistics.md); unit: that of
the metric, percentage points for all but the likelihoods.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from qtuning.experiment.schema import Primary
from qtuning.statistics.answers import AnswerSet, answer_sets
from qtuning.statistics.estimate import Estimate
from qtuning.statistics.families import EXPLORATORY, PRIMARY, correct_families, primary_pairs
from qtuning.statistics.position import control_column, position_columns
from qtuning.statistics.summary import Summary
from qtuning.store.lines import FULL, RANDOM, ZERO_SHOT, Line, full_data_of, method_at_budget, random_at_budget

MARKS = {RANDOM: "†", FULL: "‡", ZERO_SHOT: "§"}
"""What stands beside a score that differs from random pruning, from the full data, or, only in an experiment that has
no full data, from the model without training."""
OTHER_MARK = "*"
"""What stands beside a score that differs from another method, which a primary comparison of the experiment names."""

ONE_SEED = "one seed: how scores move from seed to seed is unknown; the interval covers items only, a lower bound"
TWO_SEEDS = (
    "two seeds: most of what is known of the spread over seeds is borrowed from other methods, whose spreads may "
    "differ; take three"
)
UNTRAINED = "not trained, so without seeds: the interval covers items only"

LINE_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("experiment", "model", "train_set", "method", "options", "training", "variant"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("benchmark", "metric"), pl.String()),
}
ERROR_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("n_seeds", "n_items", "n_clusters"), pl.Int64()),
    **dict.fromkeys(("seed_sd", "seed_df", "item_se"), pl.Float64()),
    "note": pl.String(),
}
COMPARISON_SCHEMA: dict[str, pl.DataType] = {
    **LINE_SCHEMA,
    **dict.fromkeys(("against", "family", "control"), pl.String()),
    **dict.fromkeys(("difference", "low", "high", "p", "p_adjusted"), pl.Float64()),
    **dict.fromkeys(("significant", "better"), pl.Boolean()),
    "mark": pl.String(),
    **dict.fromkeys(("position", "position_low", "position_high"), pl.Float64()),
    "position_note": pl.String(),
    **ERROR_SCHEMA,
}
"""Columns of `compare`."""
INTERVAL_SCHEMA: dict[str, pl.DataType] = {
    **LINE_SCHEMA,
    **dict.fromkeys(("score", "low", "high"), pl.Float64()),
    **ERROR_SCHEMA,
}
"""Columns of `score_intervals`."""


def compare(summary: Summary, items: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """One row per line, model, benchmark (`avg` among them) and reference: the paired difference and its error.

    By the metric of the summary. The primary comparisons come first.

    low, high: 95% interval over seeds and clusters of items. p: two-sided. family: primary or exploratory; p_adjusted:
    corrected within it (families.py). significant: p_adjusted < 5%; null where there is none or only one seed. better:
    whether the difference is in favour of the line, whatever the direction of the metric. control: oracle or adversary,
    if the line is that of its budget. mark: † (random+random), ‡ (full) or * (another method) where significant, in
    brackets where exploratory; § (zero-shot) only where no line of the experiment has the full data.
    position: of the line between random pruning (0) and the oracle (1) at its budget, with a 95% interval
    (position.py), in rows against random+random.
    seed_sd: of the difference, from seed to seed, on seed_df degrees of freedom; item_se: what the choice of items
    adds. The square of the standard error is seed_sd^2 / n_seeds + item_se^2.
    A comparison that cannot be made is a row of nulls with its reason in `note`.
    """
    primary = Primary.model_validate_json(summary.scores["primary"][0])
    chosen = dict.fromkeys(primary_pairs(summary.lines, primary))
    by_metric = summary.metric.name == primary.metric
    rows: list[dict[str, Any]] = []
    for known in answer_sets(summary, items):
        pruned = [line for line in known.lines if not line.reference]
        others = [pair for pair in chosen if pair[0] in known.lines]
        for line, against in dict.fromkeys([*product(pruned, references(known.lines)), *others]):
            rival = rival_of(line, known.lines, against)
            for benchmark in summary.benchmarks if rival != line else ():
                is_primary = by_metric and benchmark == summary.overall and (line, against) in chosen
                row = _identity(known, line, benchmark) | {"against": against}
                if rival is not None:
                    row["family"] = PRIMARY if is_primary else EXPLORATORY
                row["control"] = control_column(line, known.lines)
                reason = absent(against) if rival is None else known.unpaired(line, rival, benchmark)
                rows.append(row | ({"note": reason} if reason else _compared(known, line, benchmark, rival)))
    rows.sort(key=lambda row: row.get("family") != PRIMARY)
    correct_families(rows)
    _mark(rows)
    return pl.DataFrame(rows, schema=COMPARISON_SCHEMA, orient="row")


def absent(against: str) -> str:
    """Why there is nothing to compare a line with."""
    at_budget = "" if against in (FULL, ZERO_SHOT) else " at this budget"
    return f"{against}{at_budget} is not part of this experiment"


def score_intervals(summary: Summary, items: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """One row per line, model and benchmark: its own score with a 95% interval over seeds and clusters of items.

    seed_sd: of the score, from seed to seed.
    """
    rows = []
    for known in answer_sets(summary, items):
        for line, benchmark in product(known.lines, summary.benchmarks):
            reason = known.hole(line, benchmark)
            found = {"note": reason} if reason else _estimated(known, line, benchmark)
            rows.append(_identity(known, line, benchmark) | found)
    return pl.DataFrame(rows, schema=INTERVAL_SCHEMA, orient="row")


def interval(
    known: AnswerSet, line: Line, benchmark: str, rival: Line | None = None, relative: bool = False
) -> tuple[float, float] | str:
    """The 95% interval of a line's score, or of its change from `rival`; or why there is none.

    relative: of the change in per cent of the rival's score, 100 d / b. Its interval is that of the quotients of two
    intervals, of the difference d and of the score b, each at 97.5%: both hold at once in at least 95% of the cases
    (Bonferroni). An interval that is cut off at both ends of what is possible says nothing, and is none.
    """
    reason = known.hole(line, benchmark) if rival is None else known.unpaired(line, rival, benchmark)
    if reason is not None:
        return reason
    confidence = 0.975 if relative else 0.95
    if rival is None:
        low, high = _interval(known.score(line, benchmark), "score")
        return "it would be all of 0 to 100" if (low, high) == (0, 100) else (low, high)
    low, high = difference = _interval(known.difference(line, rival, benchmark), "difference", confidence=confidence)
    if not relative:
        return "it would be all of -100 to 100" if (low, high) == (-100, 100) else (low, high)
    low, high = _interval(known.score(rival, benchmark), "score", confidence=confidence)
    if low <= 0:
        return f"the score that it is relative to, {rival.method}, cannot be told from zero"
    quotients = [100 * d / b for d in difference for b in (low, high)]
    return max(min(quotients), -100.0), max(quotients)


def references(lines: Sequence[Line]) -> tuple[str, ...]:
    """What the pruned ones among these lines are compared with; without training only where there is such a line."""
    return (RANDOM, FULL, ZERO_SHOT) if any(line.method == ZERO_SHOT for line in lines) else (RANDOM, FULL)


def rival_of(line: Line, lines: Sequence[Line], against: str) -> Line | None:
    """The line that one is compared with; None where there is none, the line itself where it is that one."""
    if against == ZERO_SHOT:
        untrained = (other for other in lines if other.train_set == line.train_set and other.method == ZERO_SHOT)
        return next(untrained, None)
    if against == FULL:
        return full_data_of(line, lines)
    return random_at_budget(line, lines) if against == RANDOM else method_at_budget(line, lines, against)


def _identity(known: AnswerSet, line: Line, benchmark: str) -> dict[str, Any]:
    row = line.columns() | {"experiment": known.summary.experiment, "model": known.model, "benchmark": benchmark}
    return row | {"metric": known.summary.metric.name}


def compared_lines(known: AnswerSet, line: Line, rival: Line, benchmark: str) -> dict[str, Any]:
    """A row of `compare` for any two lines of a model, without a family; where it cannot be, the reason in `note`."""
    reason = known.unpaired(line, rival, benchmark)
    return _identity(known, line, benchmark) | (
        {"note": reason} if reason else _compared(known, line, benchmark, rival)
    )


def _compared(known: AnswerSet, line: Line, benchmark: str, rival: Line | None) -> dict[str, Any]:
    """A difference: its estimate, whom it favours, and, from random pruning, the position between the controls."""
    assert rival is not None
    row = _estimated(known, line, benchmark, rival)
    if row["difference"]:
        row["better"] = (row["difference"] > 0) == known.summary.metric.higher_is_better
    is_random = rival == random_at_budget(line, known.lines)
    return row | (position_columns(known, line, rival, benchmark) if is_random else {})


def _estimated(known: AnswerSet, line: Line, benchmark: str, rival: Line | None = None) -> dict[str, Any]:
    """A score, or its difference from `rival` with the p value; its interval, and where its error comes from."""
    what = "score" if rival is None else "difference"
    estimate = known.score(line, benchmark) if rival is None else known.difference(line, rival, benchmark)
    low, high = _interval(estimate, what, 100.0 if known.summary.metric.scale == 100 else np.inf)
    answers = [next(iter(known.answers[line, name].values())) for name in known.parts(benchmark)]
    row: dict[str, Any] = {
        what: float(estimate.mean),
        "low": low,
        "high": high,
        "n_seeds": 0 if line.method == ZERO_SHOT else estimate.seeds,
        "n_items": sum(answered.items for answered in answers),
        "n_clusters": sum(len(answered.scores) for answered in answers),
        "item_se": float(np.sqrt(estimate.variances[-1])),
    }
    if rival is not None:
        row["p"] = float(estimate.p_value())
    if estimate.seeds == 1:
        return row | {"note": UNTRAINED if line.method == ZERO_SHOT else ONE_SEED}
    over_seeds, freedom = estimate.variances[:-1], estimate.freedom[:-1]
    total, spread = float(over_seeds.sum()), float((over_seeds**2 / freedom).sum())
    seed_df = total**2 / spread if spread > 0 else float(freedom.min())
    note = TWO_SEEDS if estimate.seeds == 2 and rival is not None else None
    return row | {"seed_sd": float(np.sqrt(total * estimate.seeds)), "seed_df": seed_df, "note": note}


def _interval(estimate: Estimate, what: str, most: float = 100.0, confidence: float = 0.95) -> tuple[float, float]:
    """Mean +- half the width, within what a score (0 to `most`) or a difference of two can be."""
    mean, half = float(estimate.mean), float(estimate.half_width(confidence))
    return max(mean - half, 0.0 if what == "score" else -most), min(mean + half, most)


def _mark(rows: Sequence[dict[str, Any]]) -> None:
    """Adds the marks of what is significant, in brackets where it is exploratory."""
    # the note of a full-data row that has a hole is another one
    has_full = any(row["against"] == FULL and row.get("note") != absent(FULL) for row in rows)
    for row in rows:
        if row.get("significant") and not (row["against"] == ZERO_SHOT and has_full):
            mark = MARKS.get(row["against"], OTHER_MARK)
            row["mark"] = mark if row["family"] == PRIMARY else f"({mark})"
