"""Which differences of an experiment are real: every pruned line against random pruning, the full data, no training.

Works on the answers to single test items. The estimates are those of estimate.py (docs/statistics.md); unit: percentage
points.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from qtuning.statistics.estimate import Array, Estimate, estimate_differences, estimate_scores, holm, prior_freedom
from qtuning.statistics.summary import AVERAGE, Hole, Summary
from qtuning.store.lines import FULL, RANDOM, ZERO_SHOT, Line, full_data_of, random_at_budget

MARKS = {RANDOM: "†", FULL: "‡", ZERO_SHOT: "§"}
"""What stands beside an average that differs from random pruning, from the full data, or, only in an experiment that
has no full data, from the model without training."""
FAMILY_ERROR = 0.05
SMALL = 5
"""A budget with fewer lines than this borrows its seed variance from the lines of all budgets."""

ONE_SEED = "one seed: how scores move from seed to seed is unknown; the interval covers items only, a lower bound"
ABSENT = {against: f"{against} is not part of this experiment" for against in (FULL, ZERO_SHOT)}
ABSENT[RANDOM] = f"{RANDOM} at this budget is not part of this experiment"
UNTRAINED = "not trained, so without seeds: the interval covers items only"

Answers = dict[str, tuple[int, Array]]
"""Seed -> (a number that stands for the sequence of items, their scores in the metric's unit)."""

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


@dataclass(frozen=True, eq=False)
class AnswerSet:
    """The lines of one model on one train set, with their answers item by item.

    answers: of a line to a benchmark; without the seeds whose items the store lacks.
    """

    model: str
    train_set: str
    summary: Summary
    answers: dict[tuple[Line, str], Answers]

    @cached_property
    def lines(self) -> list[Line]:
        """In table order."""
        return [
            line
            for line in self.summary.lines
            if line.train_set == self.train_set
            and any((line, self.model, benchmark) in self.summary.entries for benchmark in self.summary.benchmarks)
        ]

    @cached_property
    def prior(self) -> float:
        """How far the seed variances of the pooled lines agree, over all budgets and benchmarks (`prior_freedom`)."""
        groups: list[Array] = []
        for pool in dict.fromkeys(self.pools[line] for line in self.lines if not line.reference):
            for benchmark in self.summary.benchmarks:
                first = next((line for line in pool if self.hole(line, benchmark) is None), None)
                group = [] if first is None else self.paired(pool, first, benchmark)
                if len(group) > 2:
                    means = [scores.mean(axis=2) for scores in self.arrays(group, benchmark)]
                    groups.append(np.mean(means, axis=0))
        return prior_freedom(groups)

    @cached_property
    def _known(self) -> dict[tuple[tuple[Line, ...], Line, str], tuple[list[Line], Estimate]]:
        """(pool, rival, benchmark) -> the lines of the pool that are paired with the rival, and their differences."""
        return {}

    @cached_property
    def pools(self) -> dict[Line, tuple[Line, ...]]:
        """Line -> the lines that lend it their seed variance, itself among them."""
        return pools_of(self.lines)

    def paired(self, pool: Sequence[Line], rival: Line, benchmark: str) -> list[Line]:
        """`rival`, and the lines of the pool that answered the same items at the same seeds as it did."""
        others = [line for line in pool if line != rival and self.unpaired(line, rival, benchmark) is None]
        return [rival, *others]

    def score(self, line: Line, benchmark: str) -> Estimate:
        """Of the line's own score; the lines of its pool lend it their seed variance."""
        lines = self.paired(self.pools[line], line, benchmark)
        return estimate_scores(self.arrays(lines, benchmark), self.prior).at(0)

    def difference(self, line: Line, rival: Line, benchmark: str) -> Estimate:
        """Of `line` minus `rival`; the lines of its pool minus the same rival share one estimate.

        The model without training is one and the same at every seed. So what a seed does to all lines does not cancel,
        and the differences behave as scores do.
        """
        pool = self.pools[line]
        if rival.method == ZERO_SHOT:
            lines = self.paired(pool, line, benchmark)
            fixed = self.arrays([rival], benchmark)
            differences = [scores - one for scores, one in zip(self.arrays(lines, benchmark), fixed, strict=True)]
            return estimate_scores(differences, self.prior).at(0)
        if (pool, rival, benchmark) not in self._known:
            lines = self.paired(pool, rival, benchmark)
            estimate = estimate_differences(self.arrays(lines, benchmark), 0, self.prior)
            self._known[pool, rival, benchmark] = lines, estimate
        lines, estimate = self._known[pool, rival, benchmark]
        return estimate.at(lines.index(line))

    def arrays(self, lines: Sequence[Line], benchmark: str) -> list[Array]:
        """[L, S, n] scores of each benchmark that `benchmark` stands for, of lines that are paired."""
        return [
            np.stack([[self.answers[line, name][seed][1] for seed in self.answers[lines[0], name]] for line in lines])
            for name in self.parts(benchmark)
        ]

    def parts(self, benchmark: str) -> tuple[str, ...]:
        """The benchmarks that an average averages; any other is itself."""
        return self.summary.averaged if benchmark == AVERAGE else (benchmark,)

    def hole(self, line: Line, benchmark: str) -> str | None:
        """Why a line has no answers to this benchmark; None where it has answers."""
        entry = self.summary.entries.get((line, self.model, benchmark))
        if entry is None:
            return "not part of this experiment"
        if isinstance(entry, Hole):
            return str(entry)
        for name in self.parts(benchmark):
            answers = self.answers.get((line, name), {})
            if len(answers) < len(entry.seeds):
                return f"the store has no items of {name}; evaluate again and collect the experiment again"
            if any(len(scores) < 2 for _, scores in answers.values()):
                return f"{name} has fewer than 2 items"
        return None

    def unpaired(self, line: Line, rival: Line, benchmark: str) -> str | None:
        """Why two lines cannot be compared item by item; None where they can.

        A rival without training has no seeds: its one run is compared with the line at each of the line's seeds.
        """
        if (reason := self.hole(line, benchmark)) is not None:
            return reason
        if (reason := self.hole(rival, benchmark)) is not None:
            return f"nothing to compare with: {rival.method}: {reason}"
        for name in self.parts(benchmark):
            ours, theirs = self.answers[line, name], self.answers[rival, name]
            fixed = rival.method == ZERO_SHOT and line != rival
            if not fixed and ours.keys() != theirs.keys():
                return f"seeds {', '.join(ours)}, but {rival.method} has seeds {', '.join(theirs)}"
            if any(ours[seed][0] != theirs["" if fixed else seed][0] for seed in ours):
                return f"{rival.method} answered other items of {name}"
        return None


def answer_sets(summary: Summary, items: pl.DataFrame) -> Iterator[AnswerSet]:
    """The answers of each model on each train set of an experiment. items: items.parquet of the same store."""
    asked = items.join(summary.rows, on=["cell", "evaluation", "benchmark", "metric"], how="semi")
    sequences: dict[tuple[str, ...], int] = {}
    known: dict[tuple[Any, ...], tuple[int, Array]] = {}
    for key, group in asked.sort("item").group_by("cell", "evaluation", "benchmark", maintain_order=True):
        sequence = sequences.setdefault(tuple(group["item_hash"]), len(sequences))
        known[key] = (sequence, summary.metric.scale * group["score"].to_numpy())
    for model in summary.models:
        answers: dict[tuple[Line, str], Answers] = {}
        for (line, other, benchmark, seed), row in summary.places.items():
            if other == model and (key := (row["cell"], row["evaluation"], benchmark)) in known:
                answers.setdefault((line, benchmark), {})[seed] = known[key]
        for train_set in dict.fromkeys(line.train_set for line in summary.lines):
            yield AnswerSet(model, train_set, summary, answers)


def pools_of(lines: Sequence[Line]) -> dict[Line, tuple[Line, ...]]:
    """Line -> the lines that lend it their seed variance: those of its budget, or of all budgets where it has few.

    Lines at one budget are the ones whose seed variances are most likely to agree.
    """
    pruned = tuple(line for line in lines if not line.reference)
    blocks: dict[tuple[float | None, float | None], list[Line]] = {}
    for line in pruned:
        blocks.setdefault((line.sample_ratio, line.token_ratio), []).append(line)
    pools = {line: (line,) if line.method == ZERO_SHOT else (line, *pruned) for line in lines}
    for block in blocks.values():
        pools |= dict.fromkeys(block, tuple(block) if len(block) >= SMALL else pruned)
    return pools


def compare(summary: Summary, items: pl.DataFrame) -> pl.DataFrame:
    """One row per pruned line, model, benchmark (`avg` among them) and reference: the paired difference and its error.

    low, high: 95% interval over seeds and items. p: two-sided. p_holm: corrected for all averages of the experiment
    against the same reference (holes count), on the average only, or on the only benchmark. significant: p_holm < 5%;
    null where there is no p_holm or only one seed. mark: † (random+random) or ‡ (full) where significant; § (zero-shot)
    where significant and no line of the experiment has the full data.
    seed_sd: of the difference, from seed to seed, on seed_df degrees of freedom; item_se: what the choice of items
    adds. The square of the standard error is seed_sd^2 / n_seeds + item_se^2.
    A comparison that cannot be made is a row of nulls with its reason in `note`.
    """
    rows: list[dict[str, Any]] = []
    for known in answer_sets(summary, items):
        pruned = [line for line in known.lines if not line.reference]
        for line, against in product(pruned, references(known.lines)):
            rival = rival_of(line, known.lines, against)
            for benchmark in summary.benchmarks if rival != line else ():
                row = _identity(known, line, benchmark) | {"against": against}
                reason = ABSENT[against] if rival is None else known.unpaired(line, rival, benchmark)
                rows.append(row | ({"note": reason} if reason else _estimated(known, line, benchmark, rival)))
    _correct_families(rows, summary.overall)
    return pl.DataFrame(rows, schema=COMPARISON_SCHEMA, orient="row")


def score_intervals(summary: Summary, items: pl.DataFrame) -> pl.DataFrame:
    """One row per line, model and benchmark: its own score, per cent, with a 95% interval over seeds and items.

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
    low, high = difference = _interval(known.difference(line, rival, benchmark), "difference", confidence)
    if not relative:
        return "it would be all of -100 to 100" if (low, high) == (-100, 100) else (low, high)
    low, high = _interval(known.score(rival, benchmark), "score", confidence)
    if low <= 0:
        return f"the score that it is relative to, {rival.method}, cannot be told from zero"
    quotients = [100 * d / b for d in difference for b in (low, high)]
    return max(min(quotients), -100.0), max(quotients)


def references(lines: Sequence[Line]) -> tuple[str, ...]:
    """What the pruned ones among these lines are compared with; without training only where there is such a line."""
    return (RANDOM, FULL, ZERO_SHOT) if any(line.method == ZERO_SHOT for line in lines) else (RANDOM, FULL)


def rival_of(line: Line, lines: Sequence[Line], against: str) -> Line | None:
    """The line that a pruned one is compared with; None where there is none, the line itself where it is that one."""
    if against == ZERO_SHOT:
        untrained = (other for other in lines if other.train_set == line.train_set and other.method == ZERO_SHOT)
        return next(untrained, None)
    return random_at_budget(line, lines) if against == RANDOM else full_data_of(line, lines)


def _identity(known: AnswerSet, line: Line, benchmark: str) -> dict[str, Any]:
    return line.columns() | {"experiment": known.summary.experiment, "model": known.model, "benchmark": benchmark}


def _estimated(known: AnswerSet, line: Line, benchmark: str, rival: Line | None = None) -> dict[str, Any]:
    """A score, or its difference from `rival` with the p value; its interval, and where its error comes from."""
    what = "score" if rival is None else "difference"
    estimate = known.score(line, benchmark) if rival is None else known.difference(line, rival, benchmark)
    low, high = _interval(estimate, what)
    answers = [known.answers[line, name] for name in known.parts(benchmark)]
    row: dict[str, Any] = {
        what: float(estimate.mean),
        "low": low,
        "high": high,
        "n_seeds": 0 if line.method == ZERO_SHOT else estimate.seeds,
        "n_items": sum(len(next(iter(by_seed.values()))[1]) for by_seed in answers),
        "item_se": float(np.sqrt(estimate.variances[-1])),
    }
    if rival is not None:
        row["p"] = float(estimate.p_value())
    if estimate.seeds == 1:
        return row | {"note": UNTRAINED if line.method == ZERO_SHOT else ONE_SEED}
    over_seeds, freedom = estimate.variances[:-1], estimate.freedom[:-1]
    total, spread = float(over_seeds.sum()), float((over_seeds**2 / freedom).sum())
    seed_df = total**2 / spread if spread > 0 else float(freedom.min())
    return row | {"seed_sd": float(np.sqrt(total * estimate.seeds)), "seed_df": seed_df}


def _interval(estimate: Estimate, what: str, confidence: float = 0.95) -> tuple[float, float]:
    """Mean +- half the width, within what a score (0 to 100) or a difference of two (-100 to 100) can be."""
    mean, half = float(estimate.mean), float(estimate.half_width(confidence))
    return max(mean - half, 0.0 if what == "score" else -100.0), min(mean + half, 100.0)


def _correct_families(rows: list[dict[str, Any]], overall: str) -> None:
    """Adds Holm's correction over the averages against one reference, and the marks that follow."""
    # the note of a full-data row that has a hole is another one
    has_full = any(row["against"] == FULL and row.get("note") != ABSENT[FULL] for row in rows)
    for against in MARKS:
        family = [row for row in rows if (row["against"], row["benchmark"]) == (against, overall)]
        tested = [row for row in family if "p" in row]
        for row, p_holm in zip(tested, holm(np.array([row["p"] for row in tested]), len(family)), strict=True):
            significant = bool(p_holm < FAMILY_ERROR) if row["n_seeds"] > 1 else None
            shown = significant and not (against == ZERO_SHOT and has_full)
            row |= {"p_holm": float(p_holm), "significant": significant, "mark": MARKS[against] if shown else None}
