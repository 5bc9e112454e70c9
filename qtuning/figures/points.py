"""Rows of the score store -> what the figures of scores draw: a point per method, budget, train set and model."""

import json
import re
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import polars as pl

from qtuning.results.layout import hole_text, method_label, percent
from qtuning.results.summary import AVERAGE, Entry, Hole, Line, Summary, summarise, variant

Seeds = dict[str, dict[str, Any]]
"""Seed -> a row of its cell, which carries the cell's costs."""

SCHEMA: dict[str, Any] = {
    "train_set": pl.String,
    "model": pl.String,
    "label": pl.String,
    "method": pl.String,
    "sample_pruner": pl.String,
    "token_pruner": pl.String,
    "sample_ratio": pl.Float64,
    "token_ratio": pl.Float64,
    "budget": pl.String,
    "nominal": pl.Float64,
    "variant": pl.String,
    "training": pl.String,
    "lambda": pl.Float64,
    "batch_size": pl.Int64,
    "benchmark": pl.String,
    "mean": pl.Float64,
    "sd": pl.Float64,
    "n_seeds": pl.Int64,
    "hole": pl.String,
    "flops": pl.Float64,
    "flops_share": pl.Float64,
    "seconds": pl.Float64,
    "seconds_share": pl.Float64,
}
"""Columns of `points`.

variant: `training` (what an experiment varies in training, or empty), then the options that are not at their defaults.
batch_size: where the experiment varies it. Scores and `nominal` (r_sample x r_token) in per cent, shares as fractions
of the full data.
"""


def points(scores: pl.DataFrame) -> pl.DataFrame:
    """One row per line of the experiment's table and model: its average score over the benchmarks, and its costs.

    mean, sd: over the seeds (sd null with one). A hole has a null mean, and `hole` says why. flops, seconds: mean over
    the seeds, scoring included; null where a seed is not trained to its end. *_share: mean over the seeds of the
    quotient with the full-data cell of the same seed; null without one.
    """
    summary = summarise(scores)
    cells = cells_by_line(scores, summary)
    rows = []
    for line in summary.lines:
        for model in summary.models:
            entry = summary.entries.get((line, model, headline(summary)))
            if entry is None:
                continue
            rows.append(
                _identity(line, model)
                | {"benchmark": headline(summary)}
                | _score(entry)
                | _costs(cells.get((line, model), {}), _full(cells, line, model))
            )
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def cells_by_line(scores: pl.DataFrame, summary: Summary) -> dict[tuple[Line, str], Seeds]:
    """The trained cells of each line and model, by seed, in table order."""
    lines = {_place(vars(line), line.variant): line for line in summary.lines}
    found: dict[tuple[Line, str], Seeds] = {}
    for row in scores.unique("cell", keep="first", maintain_order=True).iter_rows(named=True):
        if row["seed"] is not None:
            options = variant(row["sample_pruner"], row["token_pruner"], row["options"])
            name = ", ".join(text for text in (row.get("training"), options) if text)
            found.setdefault((lines[_place(row, name)], row["model"]), {})[row["seed"]] = row
    order = {line: number for number, line in enumerate(summary.lines)}
    return dict(sorted(found.items(), key=lambda item: (order[item[0][0]], summary.models.index(item[0][1]))))


def _place(values: Mapping[str, Any], variant: str) -> tuple[Any, ...]:
    """What tells the lines of a table apart."""
    names = ("train_set", "method", "sample_pruner", "token_pruner", "sample_ratio", "token_ratio", "options")
    return (*(values[name] for name in names), variant)


def headline(summary: Summary) -> str:
    """What figures show of a cell's benchmarks: their average, or the only one."""
    return AVERAGE if AVERAGE in summary.benchmarks else summary.benchmarks[0]


def pruned(frame: pl.DataFrame) -> pl.DataFrame:
    """The points that prune something: neither the full data nor the untrained model."""
    return frame.filter(~pl.col("method").is_in(["full", "zero-shot"]))


def budget_name(sample_ratio: float, token_ratio: float) -> str:
    """`25×50`: per cent of the samples x per cent of the tokens."""
    return f"{percent(sample_ratio)[:-1]}×{percent(token_ratio)[:-1]}"


def _identity(line: Line, model: str) -> dict[str, Any]:
    known = line.sample_ratio is not None and line.token_ratio is not None
    options = json.loads(line.options) if line.options else {}
    training = line.variant
    if line.options:
        training = training.removesuffix(variant(line.sample_pruner, line.token_pruner, line.options)).removesuffix(
            ", "
        )
    batch = re.search(r"batch_size\W+(\d+)", training)
    return {
        "train_set": line.train_set,
        "model": model,
        "label": method_label(line),
        "method": line.method,
        "sample_pruner": line.sample_pruner,
        "token_pruner": line.token_pruner,
        "sample_ratio": line.sample_ratio,
        "token_ratio": line.token_ratio,
        "budget": budget_name(line.sample_ratio, line.token_ratio) if known else "",  # type: ignore[arg-type]
        "nominal": 100 * line.sample_ratio * line.token_ratio if known else None,  # type: ignore[operator]
        "variant": line.variant,
        "lambda": options.get("token", {}).get("lambda"),
        "training": training,
        "batch_size": int(batch[1]) if batch else None,
    }


def _score(entry: Entry | Hole) -> dict[str, Any]:
    if isinstance(entry, Hole):
        return {"mean": None, "sd": None, "n_seeds": 0, "hole": hole_text(entry)}
    return {"mean": entry.mean, "sd": entry.sd, "n_seeds": len(entry.seeds), "hole": None}


def _full(cells: dict[tuple[Line, str], Seeds], line: Line, model: str) -> Seeds:
    """The full-data cells of a model, by seed: those trained alike, where an experiment varies how it trains."""
    alike = {
        other.variant: seeds
        for (other, name), seeds in cells.items()
        if (other.method, other.train_set, name) == ("full", line.train_set, model) and other.variant in line.variant
    }
    return alike[max(alike, key=len)] if alike else {}


def _costs(by_seed: Seeds, full: Seeds) -> dict[str, float | None]:
    costs: dict[str, float | None] = {}
    for name, column in (("flops", "flops_total"), ("seconds", "seconds_total")):
        values = {seed: _finished(row, column) for seed, row in by_seed.items()}
        whole = {seed: _finished(row, column) for seed, row in full.items()}
        costs[name] = _mean(list(values.values()))
        costs[f"{name}_share"] = _mean(
            [
                value / base if value is not None and (base := whole.get(seed)) else None
                for seed, value in values.items()
            ]
        )
    return costs


def _finished(row: dict[str, Any], column: str) -> float | None:
    """A cost; None for a training that diverged, which ended early."""
    return None if row["status"] == "diverged" else row[column]


def _mean(values: list[float | None]) -> float | None:
    """None if any is missing: never a mean over fewer."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
