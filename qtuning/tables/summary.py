"""Scores -> what a table shows: mean, spread and difference over seeds, or a hole with its reason."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean, stdev
from typing import Any

import polars as pl

from qtuning.errors import UserError
from qtuning.store.comparable import check_comparable
from qtuning.tables.options import Part, varied
from qtuning.tables.options import variant as variant_of

AVERAGE = "avg"
"""Name of the column that averages a cell's benchmarks."""


Tree = dict["Line", dict[str, dict[str, dict[str, dict[str, Any]]]]]
"""Line -> model -> benchmark -> seed -> row."""


@dataclass(frozen=True)
class Line:
    """One method at one budget on one train set: a row of a table.

    sample_ratio and token_ratio are None for the zero-shot model. training: what an experiment varies in training,
    e.g. `batch_size=16`, or empty. variant: that, and the options that differ from the pruners' defaults, e.g.
    `lambda=0.3`, or empty. named: options that its name has even at their defaults, since other rows of its method in
    the experiment set them; no part of what it is.
    """

    train_set: str
    method: str
    sample_pruner: str
    token_pruner: str
    sample_ratio: float | None
    token_ratio: float | None
    options: str
    variant: str
    training: str = ""
    named: tuple[tuple[Part, str], ...] = field(default=(), compare=False)

    @property
    def reference(self) -> bool:
        """Whether nothing is pruned: the full data set, or no training at all."""
        return self.method in ("full", "zero-shot")


@dataclass(frozen=True)
class Hole:
    """A score that is missing, and why: (seed, status, reason) of each cell that lacks it."""

    missing: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Entry:
    """A score over seeds, in per cent. values: of each seed; sd: sample standard deviation, None with one seed.

    difference: mean over seeds of the paired difference from random pruning at the same budget; None where there
    is no such row, where it has a hole, and for that row itself.
    """

    mean: float
    sd: float | None
    seeds: tuple[str, ...]
    values: tuple[float, ...]
    difference: float | None
    difference_sd: float | None
    items: int | None
    metric: str | None


@dataclass(frozen=True)
class Summary:
    """An experiment, summarised: entries by (line, model, benchmark), with `avg` as the last of several benchmarks.

    seeds: of the experiment; every trained line has an entry for each of them, or a hole.
    """

    lines: tuple[Line, ...]
    models: tuple[str, ...]
    benchmarks: tuple[str, ...]
    entries: dict[tuple[Line, str, str], Entry | Hole]
    seeds: tuple[str, ...]

    @property
    def overall(self) -> str:
        """The benchmark that stands for all of them: their average, or the only one."""
        return self.benchmarks[-1]

    def blocks(self) -> list[tuple[Line, ...]]:
        """Lines by train set and budget; the lines of each train set that prune nothing come first."""
        blocks: dict[tuple[Any, ...], list[Line]] = {}
        for line in self.lines:
            budget = None if line.reference else (line.sample_ratio, line.token_ratio)
            blocks.setdefault((line.train_set, budget), []).append(line)
        return [tuple(block) for block in blocks.values()]

    def best(self, block: Sequence[Line], model: str, benchmark: str) -> list[Line]:
        """The lines with the highest score of a column, as printed (two decimals); none where there is no contest."""
        means = {}
        for line in block:
            entry = self.entries.get((line, model, benchmark))
            if isinstance(entry, Entry) and not line.reference:
                means[line] = round(entry.mean, 2)
        return [line for line, mean in means.items() if mean == max(means.values())] if len(means) > 1 else []


def summarise(scores: pl.DataFrame) -> Summary:
    """Summarise the rows of one experiment; a score that is missing is a hole, whether its row says why or is absent.

    Raises UserError where the cells were not evaluated alike (consistency.py), and where two cells claim one place.
    """
    check_comparable(scores)
    rows = scores.filter(pl.col("headline")).to_dicts()
    models = tuple(dict.fromkeys(row["model"] for row in rows))
    benchmarks = tuple(dict.fromkeys(row["benchmark"] for row in rows))
    seeds = tuple(dict.fromkeys(row["seed"] for row in rows if row["seed"] is not None))
    tree, train_sets = _places(rows)
    lines = in_table_order(list(tree), train_sets)
    for line, by_model in tree.items():
        expected = ("",) if line.method == "zero-shot" else seeds
        for model, found in by_model.items():
            by_model[model] = {
                benchmark: {seed: found.get(benchmark, {}).get(seed) or _absent(benchmark) for seed in expected}
                for benchmark in benchmarks
            }
    entries: dict[tuple[Line, str, str], Entry | Hole] = {}
    for line in lines:
        rival = random_at_budget(line, lines)
        for model, by_benchmark in tree[line].items():
            against = tree[rival].get(model, {}) if rival is not None and rival != line else {}
            for benchmark, by_seed in by_benchmark.items():
                entries[line, model, benchmark] = _entry(by_seed, against.get(benchmark, {}))
            if len(benchmarks) > 1:
                entries[line, model, AVERAGE] = _entry(_averages(by_benchmark), _averages(against))
    shown = (*benchmarks, AVERAGE) if len(benchmarks) > 1 else benchmarks
    return Summary(tuple(lines), models, shown, entries, seeds)


def _places(rows: list[dict[str, Any]]) -> tuple[Tree, list[str]]:
    """The rows by their place in the table, and the train sets; the zero-shot model belongs to every train set."""
    train_sets = list(dict.fromkeys(row["train_set"] for row in rows if row["train_set"] is not None)) or [""]
    tree: Tree = {}
    for row in rows:
        for train_set in [row["train_set"]] if row["train_set"] is not None else train_sets:
            by_model = tree.setdefault(line_of(row, train_set), {})
            by_seed = by_model.setdefault(row["model"], {}).setdefault(row["benchmark"], {})
            seed = row["seed"] or ""
            if seed in by_seed:
                raise UserError(
                    f"experiment {row['experiment']}: {by_seed[seed]['cell']} and {row['cell']} claim the same place "
                    f"of the table ({row['benchmark']}, seed {seed or 'none'}): they differ in something that its rows "
                    "do not show; put them into experiments of their own"
                )
            by_seed[seed] = row
    return tree, train_sets


def _absent(benchmark: str) -> dict[str, Any]:
    """Stands for a row that the store lacks: a mean over the others would be a mean over fewer."""
    reason = "no row of this cell in the score store; collect the scores again"
    return {"benchmark": benchmark, "status": "not run", "reason": reason}


def random_at_budget(line: Line, lines: Sequence[Line]) -> Line | None:
    """The row that differences are taken from: random samples and random tokens at the same budget.

    Trained in the same way, and under the line's own readings (an experiment may have them for all its methods), else
    under the default ones. Where a ratio is 1, a pruner that prunes nothing is as good as a random one.
    """
    if line.reference:
        return None
    samples = ["random", "full"] if line.sample_ratio == 1 else ["random"]
    tokens = ["random", "none"] if line.token_ratio == 1 else ["random"]
    budget = (line.train_set, line.sample_ratio, line.token_ratio, line.training)
    rivals = [
        other
        for pair in ((sample, token) for sample in samples for token in tokens)
        for other in lines
        if (other.train_set, other.sample_ratio, other.token_ratio, other.training) == budget
        and (other.sample_pruner, other.token_pruner) == pair
    ]
    alike = [other for other in rivals if json.loads(other.options)["method"] == json.loads(line.options)["method"]]
    plain = [other for other in rivals if other.variant == other.training]
    if line in alike and plain:  # a reading of random pruning itself, against random pruning as it is
        return plain[0]
    return next(chain(alike, plain), None)


def line_of(row: dict[str, Any], train_set: str) -> Line:
    """The line of a table that a row of the store belongs to. train_set: that of the table, for the zero-shot model."""
    if row["method"] == "zero-shot":
        return Line(train_set, "zero-shot", "", "", None, None, "", "")
    training = row.get("training") or ""
    chosen = variant_of(row["sample_pruner"], row["token_pruner"], row["options"])
    return Line(
        train_set=train_set,
        method=row["method"],
        sample_pruner=row["sample_pruner"],
        token_pruner=row["token_pruner"],
        sample_ratio=row["sample_ratio"],
        token_ratio=row["token_ratio"],
        options=row["options"],
        variant=", ".join(text for text in (training, chosen) if text),
        training=training,
    )


def in_table_order(lines: list[Line], train_sets: list[str]) -> list[Line]:
    """By train set; within it what prunes nothing, then the budgets as configured; pairs grouped by their sample
    pruner, Q-Tuning last. Each knows what all the lines of its method vary (`named`)."""
    methods: dict[str, list[tuple[str, str, str]]] = {}
    for line in lines:
        if line.options:
            methods.setdefault(line.method, []).append((line.sample_pruner, line.token_pruner, line.options))
    named = {method: varied(dict.fromkeys(rows)) for method, rows in methods.items()}
    samples = list(dict.fromkeys(line.sample_pruner for line in lines))
    tokens = list(dict.fromkeys(line.token_pruner for line in lines))
    budgets = list(dict.fromkeys((line.sample_ratio, line.token_ratio) for line in lines))
    trainings = list(dict.fromkeys(line.training for line in lines))

    def key(line: Line) -> tuple[Any, ...]:
        budget = -1 if line.reference else budgets.index((line.sample_ratio, line.token_ratio))
        return (
            train_sets.index(line.train_set),
            budget,
            line.method != "zero-shot",
            line.method == "q-tuning",
            samples.index(line.sample_pruner),
            tokens.index(line.token_pruner),
            trainings.index(line.training),
        )

    return [replace(line, named=named.get(line.method, ())) for line in sorted(lines, key=key)]


def _averages(by_benchmark: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Per seed the mean over the benchmarks, as a row of its own; missing if any benchmark is missing."""
    averages: dict[str, dict[str, Any]] = {}
    for seed in dict.fromkeys(seed for by_seed in by_benchmark.values() for seed in by_seed):
        rows = [by_seed[seed] for by_seed in by_benchmark.values()]
        average: dict[str, Any] = {"status": "done", "score": None, "items": None, "metric": None}
        missing = [row for row in rows if row["status"] != "done"]
        if not missing:
            average["score"] = fmean(row["score"] for row in rows)
        elif len(missing) == len(rows):
            average |= {"status": rows[0]["status"], "reason": rows[0]["reason"]}
        else:
            names = ", ".join(row["benchmark"] for row in missing)
            average |= {"status": missing[0]["status"], "reason": f"no average without {names}: {missing[0]['reason']}"}
        averages[seed] = average
    return averages


def _entry(by_seed: dict[str, dict[str, Any]], against: dict[str, dict[str, Any]]) -> Entry | Hole:
    """Score over the seeds, or a hole if any seed is missing: never a mean over fewer."""
    missing = [(seed, row) for seed, row in by_seed.items() if row["status"] != "done"]
    if missing:
        return Hole(tuple((seed, row["status"], row["reason"]) for seed, row in missing))
    scores = {seed: row["score"] for seed, row in by_seed.items()}
    rivals = {seed: row["score"] for seed, row in against.items() if row["status"] == "done"}
    paired = [scores[seed] - rivals[seed] for seed in scores] if scores.keys() == rivals.keys() else []
    row = next(iter(by_seed.values()))
    return Entry(
        mean=fmean(scores.values()),
        sd=stdev(scores.values()) if len(scores) > 1 else None,
        seeds=tuple(scores),
        values=tuple(scores.values()),
        difference=fmean(paired) if paired else None,
        difference_sd=stdev(paired) if len(paired) > 1 else None,
        items=row["items"],
        metric=row["metric"],
    )
