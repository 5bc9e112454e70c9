"""Why scores of ours cannot be held against the paper's: other questions, other shots, other items, other training."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.paper.published import EPOCHS, TRAIN_SAMPLES, impossible
from qtuning.tables.labels import benchmark_label, named
from qtuning.tables.summary import AVERAGE

LOST = 0.02
"""Share of the samples that may be missing: unusable rows of a train set."""

OTHER_ITEMS = 0.25
"""Share of a benchmark's published scores that our number of items may not be able to give; typing errors happen."""


@dataclass(frozen=True)
class Refusals:
    """Why numbers cannot be compared: all of the experiment's, those of one benchmark. models: labels of ours."""

    everything: str
    benchmarks: dict[str, str]
    models: str


def refusals(scores: pl.DataFrame, rows: Sequence[dict[str, Any]]) -> Refusals:
    """Of one experiment's scores. rows: the published ones of one table (published.py)."""
    config = json.loads(scores["evaluation_config"][0] or "{}")
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
    for benchmark in {row["benchmark"]: None for row in rows if row["benchmark"] in BENCHMARKS}:
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
    return Refusals("; ".join(reasons), benchmarks, models)


def refused_amount(offered: Collection[float | None], train_set: str) -> str:
    """What is wrong with the numbers of samples that cells could choose from (`samples_available`); else empty."""
    if train_set not in TRAIN_SAMPLES:
        return ""
    known = [value for value in offered if value is not None]
    if not known:
        return "setting unknown: how many samples it was trained on"
    wanted = EPOCHS * TRAIN_SAMPLES[train_set]
    if min(known) < (1 - LOST) * wanted or max(known) > wanted:
        return f"scale: {min(known):,.0f} samples in all epochs, where {EPOCHS} epochs of the whole set have {wanted:,}"
    return ""
