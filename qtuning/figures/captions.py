"""What stands below a figure: which cells, seeds, items and versions it rests on."""

import json

import polars as pl

from qtuning.tables.labels import benchmark_label

SPREAD = "Points are means over the seeds, bars ± 1 sample standard deviation"

SHOWN = 4
"""How many cells a caption names before it counts the rest."""


def scores_caption(text: str, scores: pl.DataFrame) -> str:
    """`text`, and what the scores rest on. scores: rows of the cells that the figure shows, by its metric."""
    missing = scores.filter(pl.col("status") != "done")["cell"].n_unique()
    cells = _cells(scores, missing, "with missing scores")
    measured = scores.filter(pl.col("status") == "done")
    evaluations = (measured if len(measured) else scores)["evaluation"].unique(maintain_order=True)
    evaluation = f"Evaluation {', '.join(evaluations)}."
    return " ".join([text, _seeds(scores), _items(scores), evaluation, cells, _versions(scores)])


def cells_caption(text: str, cells: pl.DataFrame) -> str:
    """`text`, and the cells that were watched, for figures that show no scores. cells: their rows of cells.parquet."""
    unfinished = cells.filter(pl.col("status") != "done")["cell"].n_unique()
    return " ".join([text, _seeds(cells), _cells(cells, unfinished, "not trained to the end"), _versions(cells)])


def _seeds(scores: pl.DataFrame) -> str:
    seeds = list(scores["seed"].drop_nulls().unique(maintain_order=True))
    if len(seeds) > 1:
        return f"{len(seeds)} seeds ({', '.join(seeds)})."
    return f"One seed ({seeds[0]}): the spread over seeds is not known." if seeds else ""


def _items(scores: pl.DataFrame) -> str:
    done = scores.filter(pl.col("status") == "done")
    first = done.unique("benchmark", keep="first", maintain_order=True).select("benchmark", "items", "metric")
    parts = [f"{benchmark_label(name)} {items:,} ({metric})" for name, items, metric in first.iter_rows()]
    missing = scores.filter(~pl.col("benchmark").is_in(done["benchmark"].implode()))["benchmark"]
    parts += [f"{benchmark_label(name)} not evaluated" for name in missing.unique(maintain_order=True)]
    return f"Items (metric): {', '.join(parts)}."


def _cells(rows: pl.DataFrame, missing: int, what: str) -> str:
    """missing: how many of them lack something, and what that is."""
    cells = list(rows["cell"].unique(maintain_order=True))
    named = ", ".join(cells) if len(cells) <= SHOWN else f"{', '.join(cells[:SHOWN])} and {len(cells) - SHOWN} more"
    holes = f"; {missing} {what}" if missing else ""
    return f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'}: {named}{holes}."


def _versions(scores: pl.DataFrame) -> str:
    distinct = list(scores["versions"].drop_nulls().unique(maintain_order=True))
    texts = [", ".join(f"{name} {value}" for name, value in sorted(json.loads(text).items())) for text in distinct]
    return f"Trained with {'; '.join(texts)}." if texts else ""
