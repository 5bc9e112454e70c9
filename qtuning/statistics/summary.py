"""Scores -> mean, spread and difference over seeds of every line, or the reason why a score is missing (a *hole*).

One `Summary` is made of an experiment's rows of the store. Tables, figures, the comparison with the paper and the
statistics are all drawn from it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

import polars as pl

from qtuning.errors import UserError
from qtuning.store.comparable import check_comparable
from qtuning.store.lines import Cells, Line, cells_by_line, in_table_order, line_of, random_at_budget

AVERAGE = "avg"
"""Name of the column that averages a cell's benchmarks."""

Tree = dict[Line, dict[str, dict[str, dict[str, dict[str, Any]]]]]
"""Line -> model -> benchmark -> seed -> row."""


@dataclass(frozen=True)
class Hole:
    """A score that is missing, and why: (seed, status, reason) of each cell that lacks it."""

    missing: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        """Which seeds are missing and why: `seed 1 diverged: the loss is not finite; seed 2 not run: not trained`."""
        groups: dict[tuple[str, str], list[str]] = {}
        for seed, status, reason in self.missing:
            groups.setdefault((status, reason), []).append(seed)
        return "; ".join(f"{_seeds(seeds)}{status}: {_one_line(reason)}" for (status, reason), seeds in groups.items())


@dataclass(frozen=True)
class Entry:
    """A score over seeds, in per cent. values: of each seed; sd: sample standard deviation, None with one seed.

    difference: mean over seeds of the paired difference from random pruning at the same budget; None where there
    is no such line, where it has a hole, and for that line itself.
    """

    mean: float
    sd: float | None
    seeds: tuple[str, ...]
    values: tuple[float, ...]
    difference: float | None
    difference_sd: float | None
    items: int | None
    metric: str | None


@dataclass(frozen=True, eq=False)
class Summary:
    """An experiment, summarised: entries by (line, model, benchmark), with `avg` as the last of several benchmarks.

    scores: the rows of the store that it was made of. models, train_sets: name -> label. seeds: of the experiment;
    every trained line has an entry for each of them, or a hole.
    """

    scores: pl.DataFrame
    lines: tuple[Line, ...]
    models: dict[str, str]
    train_sets: dict[str, str]
    benchmarks: tuple[str, ...]
    entries: dict[tuple[Line, str, str], Entry | Hole]
    seeds: tuple[str, ...]

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return str(self.scores["experiment"][0])

    @property
    def title(self) -> str:
        """Title of the experiment."""
        return str(self.scores["title"][0])

    @property
    def overall(self) -> str:
        """The benchmark that stands for all of them: their average, or the only one."""
        return self.benchmarks[-1]

    @cached_property
    def cells(self) -> Cells:
        """The cells of each trained line and model, by seed."""
        return cells_by_line(self.scores)

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

    Raises UserError where the cells were not evaluated alike (comparable.py), and where two cells claim one place.
    """
    check_comparable(scores)
    rows = scores.filter(pl.col("headline")).to_dicts()
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
    models, trained_on = labels_of(scores, "model"), labels_of(scores, "train_set")
    return Summary(scores, tuple(lines), models, trained_on, shown, entries, seeds)


def labels_of(rows: pl.DataFrame, column: str) -> dict[str, str]:
    """Name -> label of the models or train sets (`column`) among rows of the store, in table order."""
    named = rows.drop_nulls(column).select(column, pl.coalesce(f"{column}_label", column))
    pairs = named.unique(maintain_order=True)
    return dict(pairs.iter_rows())


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


def _seeds(seeds: Sequence[str]) -> str:
    """`seed 1 `, `seeds 0, 1 `, or nothing for a model without training."""
    if list(seeds) == [""]:
        return ""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} "


def _one_line(text: str, limit: int = 160) -> str:
    """White space collapsed, cut at `limit` characters."""
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"
