"""Scores -> mean, spread and difference over seeds of every line, or the reason why a score is missing (a *hole*).

One `Summary` is made of an experiment's rows of the store. Tables, figures, the comparison with the paper and the
statistics are all drawn from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

import polars as pl

from qtuning.errors import UserError
from qtuning.experiment.benchmarks import averaged
from qtuning.experiment.metrics import METRICS, Metric, MetricName
from qtuning.store.comparable import check_comparable
from qtuning.store.lines import ZERO_SHOT, Cells, Line, cells_by_line, in_table_order, line_of, random_at_budget

AVERAGE = "avg"
"""Name of the column that averages a cell's benchmarks."""

Places = dict[tuple[Line, str, str, str], dict[str, Any]]
"""(line, model, benchmark, seed) -> row of the store, by one metric; without training the seed is empty."""

UNMEASURED = "evaluated without likelihoods; evaluate again"
"""Why a cell has a headline score and no score by a likelihood metric."""


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
    """A score over seeds, in the metric's unit. values: of each seed; sd: sample standard deviation, None with one.

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
    """An experiment, summarised by one metric: entries by (line, model, benchmark). `avg` follows the benchmarks that
    it averages; those that stand beside it (`retention`) come last.

    scores: the rows of the store that it was made of. rows: those of the metric (`rows_by`), places: the same by place.
    models, train_sets: name -> label.
    """

    scores: pl.DataFrame
    metric: Metric
    rows: pl.DataFrame
    lines: tuple[Line, ...]
    models: dict[str, str]
    train_sets: dict[str, str]
    benchmarks: tuple[str, ...]
    entries: dict[tuple[Line, str, str], Entry | Hole]
    places: Places

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
        return AVERAGE if AVERAGE in self.benchmarks else self.benchmarks[0]

    @property
    def averaged(self) -> tuple[str, ...]:
        """The benchmarks that the average averages, or would average."""
        return averaged(name for name in self.benchmarks if name != AVERAGE)

    @cached_property
    def cells(self) -> Cells:
        """The cells of each trained line and model, by seed."""
        return cells_by_line(self.scores)

    def blocks(self) -> list[tuple[Line, ...]]:
        """Lines by train set and budget; the lines of each train set that prune nothing come first.

        The controls of a budget are a block of their own after it.
        """
        blocks: dict[tuple[Any, ...], list[Line]] = {}
        for line in self.lines:
            budget = None if line.reference else (line.sample_ratio, line.token_ratio)
            blocks.setdefault((line.train_set, budget, line.control), []).append(line)
        return [tuple(block) for block in blocks.values()]

    def best(self, block: Sequence[Line], model: str, benchmark: str) -> list[Line]:
        """The lines with the best score of a column, as printed; none where there is no contest, as among controls."""
        means: dict[Line, float] = {}
        for line in block:
            entry = self.entries.get((line, model, benchmark))
            if isinstance(entry, Entry) and not (line.reference or line.control):
                means[line] = round(entry.mean, self.metric.decimals)
        best = max if self.metric.higher_is_better else min
        return [line for line, mean in means.items() if mean == best(means.values())] if len(means) > 1 else []


def summarise(scores: pl.DataFrame, metric: MetricName = "headline") -> Summary:
    """Summarise the rows of one experiment; a score that is missing is a hole, whether its row says why or is absent.

    Raises UserError where the cells were not evaluated alike (comparable.py), where two cells claim one place, and
    where no cell was evaluated by the metric.
    """
    check_comparable(scores)
    measured = rows_by(scores, metric)
    rows = measured.to_dicts()
    benchmarks = tuple(dict.fromkeys(row["benchmark"] for row in rows))
    parts = averaged(benchmarks)
    average = (AVERAGE,) if len(parts) > 1 else ()
    shown = (*parts, *average, *(name for name in benchmarks if name not in parts))
    seeds = tuple(dict.fromkeys(row["seed"] for row in rows if row["seed"] is not None))
    places, train_sets = _places(rows)
    lines = in_table_order(list(dict.fromkeys(line for line, *_ in places)), train_sets)
    models, known = labels_of(scores, "model"), {(line, model) for line, model, *_ in places}

    def columns(line: Line, model: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Benchmark -> seed -> row, the average among them."""
        expected = ("",) if line.method == ZERO_SHOT else seeds
        found = {
            benchmark: {seed: places.get((line, model, benchmark, seed)) or _absent(benchmark) for seed in expected}
            for benchmark in benchmarks
        }
        if AVERAGE in shown:
            found[AVERAGE] = {seed: _average([found[name][seed] for name in parts]) for seed in expected}
        return {name: found[name] for name in shown}

    entries: dict[tuple[Line, str, str], Entry | Hole] = {}
    for line in lines:
        rival = random_at_budget(line, lines)
        for model in (model for model in models if (line, model) in known):
            against = columns(rival, model) if rival not in (None, line) else {}
            for benchmark, by_seed in columns(line, model).items():
                entries[line, model, benchmark] = _entry(by_seed, against.get(benchmark, {}))
    known_train_sets = labels_of(scores, "train_set")
    return Summary(scores, METRICS[metric], measured, tuple(lines), models, known_train_sets, shown, entries, places)


def rows_by(scores: pl.DataFrame, metric: MetricName) -> pl.DataFrame:
    """The rows of one experiment by one metric, one per cell and benchmark, in the order of the store.

    A cell that was evaluated without the metric has a row without a score that says so. UserError where all are so.
    """
    headline = scores.filter(pl.col("headline"))
    if metric == "headline":
        return headline
    found = scores.filter((pl.col("metric") == metric) & (pl.col("status") == "done"))
    done = pl.col("status") == "done"
    if found.is_empty() and len(headline.filter(done)):
        raise UserError(
            f"metric = {metric!r}: experiment {scores['experiment'][0]} was evaluated without likelihoods; evaluate "
            "its cells again and collect them, or take the metric headline"
        )
    by_place = found.select("cell", "benchmark", measured="score")
    rows = headline.join(by_place, on=["cell", "benchmark"], how="left", maintain_order="left")
    lacking = done & pl.col("measured").is_null()
    return rows.with_columns(
        metric=pl.lit(metric),
        score="measured",
        status=pl.when(lacking).then(pl.lit("not run")).otherwise("status"),
        reason=pl.when(lacking).then(pl.lit(UNMEASURED)).otherwise("reason"),
    ).drop("measured")


def labels_of(rows: pl.DataFrame, column: str) -> dict[str, str]:
    """Name -> label of the models or train sets (`column`) among rows of the store, in table order."""
    named = rows.drop_nulls(column).select(column, pl.coalesce(f"{column}_label", column))
    pairs = named.unique(maintain_order=True)
    return dict(pairs.iter_rows())


def _places(rows: list[dict[str, Any]]) -> tuple[Places, list[str]]:
    """The rows by their place in the table, and the train sets; the zero-shot model belongs to every train set."""
    train_sets = list(dict.fromkeys(row["train_set"] for row in rows if row["train_set"] is not None)) or [""]
    places: Places = {}
    for row in rows:
        for train_set in [row["train_set"]] if row["train_set"] is not None else train_sets:
            place = line_of(row, train_set), row["model"], row["benchmark"], row["seed"] or ""
            if place in places:
                raise UserError(
                    f"experiment {row['experiment']}: {places[place]['cell']} and {row['cell']} claim the same place "
                    f"of the table ({row['benchmark']}, seed {row['seed'] or 'none'}): they differ in something that "
                    "its rows do not show; put them into experiments of their own"
                )
            places[place] = row
    return places, train_sets


def _absent(benchmark: str) -> dict[str, Any]:
    """Stands for a row that the store lacks: a mean over the others would be a mean over fewer."""
    reason = "no row of this cell in the score store; collect the scores again"
    return {"benchmark": benchmark, "status": "not run", "reason": reason}


def _average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the benchmarks of one seed, as a row of its own; missing if any benchmark is missing."""
    missing = [row for row in rows if row["status"] != "done"]
    if not missing:
        return {"status": "done", "score": fmean(row["score"] for row in rows), "items": None, "metric": None}
    reason = missing[0]["reason"]
    if len(missing) < len(rows):
        reason = f"no average without {', '.join(row['benchmark'] for row in missing)}: {reason}"
    return {"status": missing[0]["status"], "reason": reason}


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
    return "" if seeds == [""] else f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} "


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:159] + "…"
