"""Answers to single test items, by line, benchmark and seed, and the estimates that are made of them (estimate.py)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from qtuning.statistics.estimate import (
    Array,
    Estimate,
    estimate_differences,
    estimate_ratio,
    estimate_scores,
    of_clusters,
    prior_freedom,
)
from qtuning.statistics.summary import AVERAGE, Hole, Summary
from qtuning.store.lines import ZERO_SHOT, Line

SMALL = 5
"""A budget with fewer lines than this borrows its seed variance from the lines of all budgets."""


@dataclass(frozen=True, eq=False)
class Answered:
    """The answers of a model to a benchmark.

    sequence: a number that stands for the items and their order. items: how many. scores: [C] in the metric's unit, of
    the clusters of items (`of_clusters`), which are the items themselves where these are independent.
    """

    sequence: int
    items: int
    scores: Array


Answers = dict[str, Answered]
"""By seed."""


@dataclass(frozen=True, eq=False)
class AnswerSet:
    """The lines of one model on one train set, with their answers item by item.

    answers: of a line to a benchmark, by one metric; without the seeds whose items the store lacks.
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

    def ratio(self, line: Line, zero: Line, one: Line, benchmark: str) -> tuple[float, float, float] | None:
        """Where `line` lies between two others of its budget, with which it is paired (`estimate_ratio`)."""
        lines = list(dict.fromkeys([*self.paired(self.pools[line], zero, benchmark), line, one]))
        arrays = self.arrays(lines, benchmark)
        return estimate_ratio(arrays, lines.index(line), 0, lines.index(one), self.prior)

    def arrays(self, lines: Sequence[Line], benchmark: str) -> list[Array]:
        """[L, S, C] scores of each benchmark that `benchmark` stands for, of lines that are paired."""
        answers = ([self.answers[line, name] for line in lines] for name in self.parts(benchmark))
        return [np.stack([[of_line[seed].scores for seed in group[0]] for of_line in group]) for group in answers]

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
            if any(len(answered.scores) < 2 for answered in answers.values()):
                return f"{name} has fewer than 2 items that are independent"
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
            if any(ours[seed].sequence != theirs["" if fixed else seed].sequence for seed in ours):
                return f"{rival.method} answered other items of {name}"
        return None


def answer_sets(summary: Summary, items: pl.DataFrame | pl.LazyFrame) -> Iterator[AnswerSet]:
    """The answers of each model on each train set of an experiment. items: items.parquet of the same store."""
    wanted = summary.rows.lazy().select("cell", "evaluation", "benchmark", "metric")
    asked = items.lazy().join(wanted, on=wanted.collect_schema().names(), how="semi").collect(engine="streaming")
    sequences: dict[tuple[str, ...], int] = {}
    known: dict[tuple[Any, ...], Answered] = {}
    for key, group in asked.sort("item").group_by("cell", "evaluation", "benchmark", maintain_order=True):
        sequence = sequences.setdefault(tuple(group["item_hash"]), len(sequences))
        scores = of_clusters(summary.metric.scale * group["score"].to_numpy(), group["cluster"].to_list())
        known[key] = Answered(sequence, len(group), scores)
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
