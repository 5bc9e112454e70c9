"""An experiment's answers, item by item: which lines can be compared, and the arrays that statistics.py works on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from qtuning.statistics.estimate import Array, prior_freedom
from qtuning.store.store import Store
from qtuning.tables.labels import hole_text
from qtuning.tables.summary import AVERAGE, Hole, Line, Summary, summarise

SMALL = 5
"""A budget with fewer lines than this borrows its seed variance from the lines of all budgets."""

LINE_KEY = ("train_set", "model", "method", "options", "training", "sample_ratio", "token_ratio")
"""Columns that identify a line with a model."""

Answers = dict[str, tuple[int, Array]]
"""Seed -> (a number that stands for the sequence of items, their scores in per cent)."""


@dataclass(frozen=True)
class World:
    """The lines of one train set with one model. answers: of a line to a benchmark; absent where it has none."""

    experiment: str
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
                whole = [line for line in pool if self.hole(line, benchmark) is None]
                group = [line for line in whole if self.unpaired(line, whole[0], benchmark) is None]
                if len(group) > 2:
                    means = [scores.mean(axis=2) for scores in self.arrays(group, benchmark)]
                    groups.append(np.mean(means, axis=0))
        return prior_freedom(groups)

    @cached_property
    def pools(self) -> dict[Line, tuple[Line, ...]]:
        """The lines whose seed variance should be that of a line, itself among them: those of its budget."""
        return pools_of(self.lines)

    def paired(self, pool: Sequence[Line], rival: Line, benchmark: str) -> list[Line]:
        """`rival`, and the lines of the pool that answered the same items at the same seeds as it did."""
        others = [line for line in pool if line != rival and self.unpaired(line, rival, benchmark) is None]
        return [rival, *others]

    def arrays(self, lines: Sequence[Line], benchmark: str) -> list[Array]:
        """[L, S, n] scores of each benchmark that `benchmark` stands for, of lines that are paired."""
        return [
            np.stack([[self.answers[line, name][seed][1] for seed in self.answers[lines[0], name]] for line in lines])
            for name in self.parts(benchmark)
        ]

    def parts(self, benchmark: str) -> tuple[str, ...]:
        """The benchmarks that an average averages; any other is itself."""
        names = tuple(name for name in self.summary.benchmarks if name != AVERAGE)
        return names if benchmark == AVERAGE else (benchmark,)

    def hole(self, line: Line, benchmark: str) -> str | None:
        """Why a line has no answers to this benchmark; None where it has."""
        entry = self.summary.entries.get((line, self.model, benchmark))
        if entry is None:
            return "not part of this experiment"
        if isinstance(entry, Hole):
            return hole_text(entry)
        for name in self.parts(benchmark):
            if (line, name) not in self.answers:
                return f"the store has no items of {name}; evaluate again and collect the experiment again"
            if any(len(scores) < 2 for _, scores in self.answers[line, name].values()):
                return f"{name} has fewer than 2 items"
        return None

    def unpaired(self, line: Line, rival: Line, benchmark: str) -> str | None:
        """Why two lines cannot be compared item by item; None where they can. A rival without training has no seeds,
        and is compared with a line at each of the line's."""
        if (reason := self.hole(line, benchmark)) is not None:
            return reason
        if (reason := self.hole(rival, benchmark)) is not None:
            return f"nothing to compare with: {rival.method}: {reason}"
        for name in self.parts(benchmark):
            ours, theirs = self.answers[line, name], self.answers[rival, name]
            fixed = rival.method == "zero-shot" and line != rival
            if not fixed and ours.keys() != theirs.keys():
                return f"seeds {', '.join(ours)}, but {rival.method} has seeds {', '.join(theirs)}"
            if any(ours[seed][0] != theirs["" if fixed else seed][0] for seed in ours):
                return f"{rival.method} answered other items of {name}"
        return None


def worlds(store: Store, experiment: str, benchmarks: Sequence[str] | None = None) -> Iterator[World]:
    """An experiment by model and train set. UserError if it is not in the store.

    benchmarks: as if it had only these, so that the average is theirs; None: all that it has.
    """
    scores = store.experiment(experiment).filter(pl.col("headline"))
    if benchmarks is not None:
        scores = scores.filter(pl.col("benchmark").is_in(list(benchmarks)))
    summary = summarise(scores)
    asked = store.items.join(scores.select("cell", "evaluation").unique(), on=["cell", "evaluation"], how="semi")
    groups = asked.sort("item").partition_by("cell", "evaluation", "benchmark", as_dict=True, maintain_order=True)
    sequences: dict[tuple[str, ...], int] = {}
    items: dict[tuple[Any, ...], tuple[int, Array]] = {}
    for key, group in groups.items():
        sequence = sequences.setdefault(tuple(group["item_hash"]), len(sequences))
        items[key] = (sequence, 100 * group["score"].to_numpy())
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in scores.filter(pl.col("status") == "done").iter_rows(named=True):
        rows.setdefault(tuple(row[name] for name in (*LINE_KEY, "benchmark")), []).append(row)
    for model in summary.models:
        for train_set in dict.fromkeys(line.train_set for line in summary.lines):
            answers: dict[tuple[Line, str], Answers] = {}
            for line in summary.lines:
                for benchmark in summary.benchmarks:
                    found = rows.get((*_key(line, model), benchmark), [])
                    cells = {row["seed"] or "": (row["cell"], row["evaluation"], benchmark) for row in found}
                    if line.train_set == train_set and cells and all(cell in items for cell in cells.values()):
                        answers[line, benchmark] = {seed: items[cell] for seed, cell in cells.items()}
            yield World(experiment, model, train_set, summary, answers)


def _key(line: Line, model: str) -> tuple[Any, ...]:
    """LINE_KEY of a line's rows; of the zero-shot model there is nothing but the model and the method."""
    of_training = dict.fromkeys(LINE_KEY) if line.method == "zero-shot" else vars(line)
    return tuple((of_training | {"model": model, "method": line.method})[name] for name in LINE_KEY)


def pools_of(lines: Sequence[Line]) -> dict[Line, tuple[Line, ...]]:
    """`World.pools` of the lines of one train set with one model."""
    pruned = tuple(line for line in lines if not line.reference)
    blocks: dict[tuple[float | None, float | None], list[Line]] = {}
    for line in pruned:
        blocks.setdefault((line.sample_ratio, line.token_ratio), []).append(line)
    pools = {line: (line,) if line.method == "zero-shot" else (line, *pruned) for line in lines}
    for block in blocks.values():
        pools |= dict.fromkeys(block, tuple(block) if len(block) >= SMALL else pruned)
    return pools


def full_of(line: Line, lines: Sequence[Line]) -> Line | None:
    """The full-data row that a line is compared with, trained as it was: under its own readings, else the default."""
    same = (line.train_set, "full", line.training)
    full = [other for other in lines if (other.train_set, other.method, other.training) == same]
    readings = json.loads(line.options)["method"]
    alike = [other for other in full if json.loads(other.options)["method"] == readings]
    plain = [other for other in full if other.variant == other.training]
    return next(iter([*alike, *plain, *full]), None)
