"""Rows of the score store -> what the figures of scores draw: a point per method, budget, train set and model."""

import json
import re
from itertools import product
from typing import Any

import polars as pl

from qtuning.experiment.metrics import METRICS
from qtuning.statistics.summary import AVERAGE, Entry, Summary
from qtuning.store.lines import FULL, ZERO_SHOT
from qtuning.tables.costs import cost_of
from qtuning.tables.labels import benchmark_label, method_label, percent

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("train_set", "model", "label", "method", "sample_pruner", "token_pruner"), pl.String),
    **{"sample_ratio": pl.Float64, "token_ratio": pl.Float64, "budget": pl.String, "nominal": pl.Float64},
    **{"variant": pl.String, "training": pl.String, "lambda": pl.Float64, "batch_size": pl.Int64},
    **{
        "benchmark": pl.String,
        "metric": pl.String,
        "mean": pl.Float64,
        "sd": pl.Float64,
        "n_seeds": pl.Int64,
        "hole": pl.String,
    },
    **dict.fromkeys(("flops", "flops_share", "seconds", "seconds_share"), pl.Float64),
    "control": pl.Boolean,
    "colour": pl.String,
}
"""Columns of `points`.

variant: `training` (what an experiment varies in training, or empty), then the options that are not at their defaults.
batch_size: where the experiment varies it. Scores and `nominal` (r_sample x r_token) in per cent, shares as fractions
of the full data. control: whether it knows what no method knows (oracle, adversary, ...). colour: that the experiment
wants, or null; it is in no CSV.
"""

UNPRUNED = (FULL, ZERO_SHOT)
"""Methods that prune nothing: training on the full data, and the model without training."""


def points(summary: Summary) -> pl.DataFrame:
    """One row per line of the experiment's table and model: its average score over the benchmarks, and its costs.

    mean, sd: over the seeds (sd null with one). A hole has a null mean, and `hole` says why. flops, seconds: mean over
    the seeds, scoring included; null where a seed is not trained to its end. *_share: mean over the seeds of the
    quotient with the full-data cell of the same seed; null without one.
    """
    rows = []
    for line, model in product(summary.lines, summary.models):
        entry = summary.entries.get((line, model, summary.overall))
        if entry is None:
            continue
        options = json.loads(line.options) if line.options else {}
        batch = re.search(r"batch_size\W+(\d+)", line.training)
        cost = cost_of(line, model, summary.cells)
        row = line.columns() | {
            "model": model,
            "label": method_label(line),
            "budget": budget_name(line.sample_ratio, line.token_ratio),
            "lambda": options.get("token", {}).get("lambda"),
            "batch_size": int(batch[1]) if batch else None,
            "benchmark": summary.overall,
            "metric": summary.metric.name,
            "control": line.control,
        }
        if line.sample_ratio is not None and line.token_ratio is not None:
            row["nominal"] = 100 * line.sample_ratio * line.token_ratio
        if isinstance(entry, Entry):
            row |= {"mean": entry.mean, "sd": entry.sd, "n_seeds": len(entry.seeds)}
        else:
            row |= {"hole": str(entry), "n_seeds": 0}
        for name, column in (("flops", "flops_total"), ("seconds", "seconds_total")):
            row |= {name: cost.mean(column), f"{name}_share": cost.share_of_full(column)}
        rows.append(row)
    return pl.DataFrame(rows, schema=SCHEMA)


def pruned(frame: pl.DataFrame) -> pl.DataFrame:
    """The points that prune something."""
    return frame.filter(~pl.col("method").is_in(UNPRUNED))


def facets(frame: pl.DataFrame) -> list[tuple[str, pl.Expr]]:
    """(title, condition) of each train set and model of some points, in table order: each has panels of its own.

    The only one has no title.
    """
    places = frame.select("train_set", "model").unique(maintain_order=True).rows()
    several = frame["train_set"].n_unique() > 1
    titles = [f"{model}, {train_set}" if several else model for train_set, model in places]
    chosen = [(pl.col("train_set") == train_set) & (pl.col("model") == model) for train_set, model in places]
    return list(zip(titles if len(places) > 1 else [""], chosen, strict=True))


def score_label(frame: pl.DataFrame) -> str:
    """The label of the score axis."""
    benchmark, metric = frame["benchmark"][0], METRICS[frame["metric"][0]]
    if metric.name == "headline":
        return "Average score (%)" if benchmark == AVERAGE else f"{benchmark_label(benchmark)} (%)"
    whose = "average" if benchmark == AVERAGE else benchmark_label(benchmark)
    label = f"{metric.label[0].upper()}{metric.label[1:]}"
    return f"{label}, {whose}{' (%)' if metric.scale == 100 else ''}"


def budget_name(sample_ratio: float | None, token_ratio: float | None) -> str:
    """`25×50`: per cent of the samples x per cent of the tokens; empty for a model without training."""
    if sample_ratio is None or token_ratio is None:
        return ""
    return f"{percent(sample_ratio)[:-1]}×{percent(token_ratio)[:-1]}"
