"""The paper's numbers beside ours: per number whether they agree, or why that cannot be said."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import polars as pl

from qtuning.evaluation.headline import LABEL as BENCHMARK
from qtuning.results.layout import benchmark_label, hole_text, named
from qtuning.results.lines import Cells, cells_by_line
from qtuning.results.published import EPOCHS, TRAIN_SAMPLES, impossible, place, published_place
from qtuning.results.summary import AVERAGE, Entry, Hole, Line, Summary, summarise

Status = Literal["matched", "off", "not run", "not comparable"]

CONFIDENCE = 0.95
LOST = 0.02
"""Share of the samples that may be missing: unusable rows of a train set."""

OTHER_ITEMS = 0.25
"""Share of a benchmark's published scores that our number of items may not be able to give; typing errors happen."""

INTERVAL = (
    "Interval: where one more run of ours would lie in 95 of 100 cases, mean ± t sd sqrt(1 + 1/n) over n seeds, since "
    "the published number is such a single run. With one seed only the choice of items is known: mean ± 1.96 standard "
    "errors of so many right or wrong answers."
)


@dataclass(frozen=True)
class Number:
    """A published score and ours. row: as published; low, high: interval of ours, in per cent.

    reason: why there is no verdict; empty for `matched` and `off`. has_model: whether our experiment has the model.
    """

    row: dict[str, Any]
    status: Status
    reason: str = ""
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    has_model: bool = True

    @property
    def difference(self) -> float | None:
        """Ours minus published."""
        return None if self.ours is None else self.ours - float(self.row["score"])


def versus_paper(scores: pl.DataFrame, published: pl.DataFrame, table: int) -> list[Number]:
    """Every published number of a table with its verdict, in the order of the publication.

    scores: one experiment; published: see published.py. Ours are the rows with default options and readings.
    """
    summary = summarise(scores)
    cells = cells_by_line(scores)
    rows = published.filter(pl.col("table") == table).to_dicts()
    refusals = _refusals(scores, summary, rows)
    return [_number(row, summary, cells, refusals) for row in rows]


def interval(summary: Summary, line: Line, model: str, benchmark: str) -> tuple[float, float] | None:
    """Where a further run would lie (INTERVAL), in per cent, within 0 and 100; None for a hole.

    The items are the same in every run, so over seeds they add nothing; with one seed nothing but them is known, and
    the variance of a right or wrong answer, p (1 - p), is the largest that a graded one (F1) can have.
    """
    entry = summary.entries.get((line, model, benchmark))
    if not isinstance(entry, Entry):
        return None
    n = len(entry.values)
    if entry.sd is not None:
        from scipy.stats import t

        half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * entry.sd * sqrt(1 + 1 / n)
    else:
        from scipy.stats import norm

        parts = [name for name in summary.benchmarks if name != AVERAGE] if benchmark == AVERAGE else [benchmark]
        found = [summary.entries[line, model, part] for part in parts]
        variances = [
            part.mean / 100 * (1 - part.mean / 100) / part.items
            for part in found
            if isinstance(part, Entry) and part.items
        ]
        half = 100 * float(norm.ppf((1 + CONFIDENCE) / 2)) * sqrt(sum(variances)) / len(variances)
    return max(0.0, entry.mean - half), min(100.0, entry.mean + half)


@dataclass(frozen=True)
class _Refusals:
    """Why numbers cannot be compared: all of the experiment's, those of one benchmark. models: labels of ours."""

    everything: str
    benchmarks: dict[str, str]
    models: str


def _refusals(scores: pl.DataFrame, summary: Summary, rows: Sequence[dict[str, Any]]) -> _Refusals:
    config = json.loads(scores["evaluation_config"][0])
    reasons = []
    if config.get("source") == "mini-world":
        reasons.append("the questions are those of the mini world")
    if config.get("limit") is not None:
        reasons.append(f"limit: the first {config['limit']} items of each benchmark")
    if config.get("fewshot") is not None:
        reasons.append(f"fewshot: {config['fewshot']} instead of each benchmark's own")
    reasons += [f"setting unknown: {name}" for name in ("source", "limit", "fewshot") if name not in config]
    train_set = rows[0]["train_set"] if rows else ""
    trained = named(scores, "train_set")
    if trained and train_set not in trained:
        reasons.insert(0, f"the train set is {', '.join(trained.values())}")
    benchmarks = {}
    for benchmark in {row["benchmark"]: None for row in rows if row["benchmark"] in BENCHMARK}:
        found = scores.filter((pl.col("benchmark") == benchmark) & pl.col("headline") & (pl.col("status") == "done"))
        numbers = [row["score"] for row in rows if row["benchmark"] == benchmark]
        # F1 is graded, so that any value is possible
        if found.is_empty() or found["metric"][0] == "f1":
            continue
        items = int(found["items"][0])
        if (count := impossible(numbers, items)) > OTHER_ITEMS * len(numbers):
            benchmarks[benchmark] = (
                f"benchmark split: {count} of the {len(numbers)} published {benchmark_label(benchmark)} scores are no "
                f"share of {items:,} items"
            )
    if benchmarks:
        benchmarks[AVERAGE] = (
            f"the average holds {', '.join(map(benchmark_label, benchmarks))}: another benchmark split"
        )
    models = ", ".join(named(scores, "model").values())
    return _Refusals("; ".join(reasons), benchmarks, models)


def _number(row: dict[str, Any], summary: Summary, cells: Cells, refusals: _Refusals) -> Number:
    model, benchmark = row["model"], row["benchmark"]
    if model not in summary.models:
        reason = "; ".join(filter(None, (f"the model is {refusals.models}", refusals.everything)))
        return Number(row, "not comparable", reason, has_model=False)
    candidates = [line for line in summary.lines if place(line) == published_place(row)]
    line = next((line for line in candidates if not line.variant), None)
    if line is None:
        variants = ", ".join(line.variant for line in candidates)
        if variants:
            return Number(row, "not comparable", f"run only with other options or readings: {variants}")
        return Number(row, "not run", "not part of this experiment")
    entry = summary.entries.get((line, model, benchmark))
    if entry is None:
        return Number(row, "not run", "not part of this experiment")
    if isinstance(entry, Hole):
        return Number(row, "not run", hole_text(entry))
    bounds = interval(summary, line, model, benchmark)
    assert bounds is not None  # it is no hole
    low, high = bounds
    reasons = [refusals.everything, refusals.benchmarks.get(benchmark, ""), _samples(line, model, row, cells)]
    reason = "; ".join(filter(None, reasons))
    # compared as printed: two decimals
    inside = round(low, 2) <= row["score"] <= round(high, 2)
    status: Status = "not comparable" if reason else "matched" if inside else "off"
    return Number(row, status, reason, entry.mean, low, high, len(entry.values))


def _samples(line: Line, model: str, row: dict[str, Any], cells: Cells) -> str:
    """What is wrong with the number of samples that a cell could choose from; empty where nothing is."""
    if line.method == "zero-shot" or row["train_set"] not in TRAIN_SAMPLES:
        return ""
    offered = {cell["samples_available"] for cell in cells.get((line, model), {}).values()}
    if offered <= {None}:
        return "setting unknown: how many samples it was trained on"
    wanted = EPOCHS * TRAIN_SAMPLES[row["train_set"]]
    smallest = min(value for value in offered if value is not None)
    if smallest < (1 - LOST) * wanted or max(value for value in offered if value is not None) > wanted:
        return f"scale: {smallest:,.0f} samples in all epochs, where {EPOCHS} epochs of the whole set have {wanted:,}"
    return ""


def absent(numbers: Sequence[Number]) -> list[tuple[list[str], int, str]]:
    """(models, how many numbers, reason) of the models that the experiment does not have."""
    groups: dict[str, list[str]] = {}
    for number in numbers:
        if not number.has_model:
            groups.setdefault(number.reason, []).append(number.row["model"])
    return [(list(dict.fromkeys(models)), len(models), reason) for reason, models in groups.items()]


def tidy_paper(numbers: Sequence[Number]) -> pl.DataFrame:
    """One row per published number; those of models that we do not have are one row a model and reason (`numbers`)."""
    rows = []
    for number in numbers:
        if not number.has_model:
            continue
        row = {name: value for name, value in number.row.items() if name != "score"}
        rows.append(
            row
            | {"published": number.row["score"], "ours": number.ours, "low": number.low, "high": number.high}
            | {"difference": number.difference, "seeds": number.seeds, "numbers": 1}
            | {"status": number.status, "reason": number.reason or None}
        )
    for models, count, reason in absent(numbers):
        some = numbers[0].row
        rows.append(
            {"table": some["table"], "train_set": some["train_set"], "model": " ".join(models), "numbers": count}
            | {"status": "not comparable", "reason": reason}
        )
    return pl.DataFrame(rows, schema=CSV_SCHEMA).with_columns(pl.selectors.float().round(6))


CSV_SCHEMA: dict[str, pl.DataType] = {
    "table": pl.Int64(),
    **dict.fromkeys(("train_set", "model", "setting"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("sample_pruner", "token_pruner", "benchmark"), pl.String()),
    **dict.fromkeys(("published", "ours", "low", "high", "difference"), pl.Float64()),
    **dict.fromkeys(("seeds", "numbers"), pl.Int64()),
    **dict.fromkeys(("status", "reason"), pl.String()),
}
"""Columns of the CSV beside the paper, in order; ratios in per cent, as published."""
