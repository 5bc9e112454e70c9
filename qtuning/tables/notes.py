"""What a reader must know to trust a table: how it was measured, by what, on how many items."""

import json

import polars as pl

from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.tables.labels import benchmark_label
from qtuning.tables.significance import Marks
from qtuning.tables.summary import AVERAGE, Summary


def how_to_read(scores: pl.DataFrame, summary: Summary, marks: Marks) -> list[str]:
    """The conventions of the score table, one statement per line."""
    seeds = list(scores["seed"].drop_nulls().unique(maintain_order=True))
    notes = []
    if len(seeds) > 1:
        notes.append(
            f"Scores in per cent: mean ± sample standard deviation over {len(seeds)} seeds ({', '.join(seeds)}); "
            "one seed sets the data order, the pruner and the initialisation."
        )
    elif seeds:
        notes.append(f"Scores in per cent, one seed ({seeds[0]}): the spread over seeds is not known.")
    if any(line.sample_pruner == "random" or line.token_pruner == "random" for line in summary.lines):
        notes.append("↑ ↓ =: difference from random + random pruning at the same budget, paired by seed.")
    notes += marks.legend
    notes.append("Bold: highest score of the column among the pruned methods of the block.")
    if AVERAGE in summary.benchmarks:
        notes.append("Avg: unweighted mean of the benchmarks, only where all of them are there.")
    return notes


def how_measured(scores: pl.DataFrame, summary: Summary) -> list[str]:
    """Items and metrics, settings of the evaluation, versions and identities, one statement per line."""
    return [_items(scores, summary), *_evaluations(scores), *_versions(scores)]


def _items(scores: pl.DataFrame, summary: Summary) -> str:
    """`Items (metric): ARC-E 200 (acc), guessing scores 25; ...`."""
    parts = []
    for benchmark in summary.benchmarks:
        if benchmark == AVERAGE:
            continue
        rows = scores.filter((pl.col("benchmark") == benchmark) & pl.col("headline") & (pl.col("status") == "done"))
        detail = f"{rows['items'][0]:,} ({rows['metric'][0]})" if len(rows) else "not evaluated"
        guessing = BENCHMARKS[benchmark].chance if benchmark in BENCHMARKS else None
        parts.append(
            f"{benchmark_label(benchmark)} {detail}" + (f", guessing scores {100 * guessing:.0f}" if guessing else "")
        )
    return f"Items (metric): {'; '.join(parts)}."


def _evaluations(scores: pl.DataFrame) -> list[str]:
    """Backend, dtype, batch size and the rest of the evaluation's settings."""
    notes = []
    measured = scores.sort(pl.col("backend").is_null(), maintain_order=True)  # an evaluated cell knows its backend
    for row in measured.unique("evaluation", keep="first", maintain_order=True).iter_rows(named=True):
        config = json.loads(row["evaluation_config"])
        backend = json.loads(row["backend"]) if row["backend"] is not None else {"name": config["backend"]}
        known = {"name", *config}
        versions = ", ".join(f"{key} {value}" for key, value in sorted(backend.items()) if key not in known)
        shots = "each benchmark's own shots" if config["fewshot"] is None else f"{config['fewshot']} shots"
        limit = "all items" if config["limit"] is None else f"first {config['limit']} items"
        notes.append(
            f"Evaluation: backend {backend['name']}{f' ({versions})' if versions else ''}, {config['dtype']}, "
            f"batch size {config['batch_size']}, up to {config['max_length']} tokens, {shots}, {limit}, "
            f"questions from {config['source']}; id {row['evaluation']}."
        )
    return notes


def _versions(scores: pl.DataFrame) -> list[str]:
    """The versions that trained the cells; each distinct set on a line of its own."""
    notes = []
    for text in scores["versions"].drop_nulls().unique(maintain_order=True):
        versions = json.loads(text)
        cells = scores.filter(pl.col("versions") == text)["cell"].n_unique()
        if versions:
            listing = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
            notes.append(f"Trained with ({cells} cells): {listing}.")
    return notes
