"""What finds planted errors, by method: rows of localisation.parquet over seeds, as a frame, a table and a CSV."""

from statistics import fmean, stdev
from typing import Any

import polars as pl

from qtuning.statistics.summary import labels_of
from qtuning.store.lines import cells_by_line
from qtuning.tables.labels import budget_label, method_label, number, subjects
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Block, Column, Field, Page, Parts, Table
from qtuning.tables.write import PageFiles

MEASURES = ("precision", "recall", "auc", "share")

PRUNED = ("pruned tokens", "pruned tokens of kept samples", "pruned tokens of prunable samples")
"""Scores of localisation.parquet that are about pruning, of which a method that prunes nothing has none."""

RANKED = ("token perplexity of prunable samples", "smoothed score of prunable samples")
"""Scores that rank the tokens of samples that may lose some (Q2)."""

SCORES = ("token perplexity", "smoothed score", *PRUNED, *RANKED, "kept samples with an error", "kept samples without")
"""All scores, in the order of the tables."""

SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("train_set", "model", "method", "label", "variant"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("budget", "weights", "score"), pl.String()),
    "lambda": pl.Float64(),
    **{f"{name}{suffix}": pl.Float64() for name in MEASURES for suffix in ("", "_sd")},
    **dict.fromkeys(("seeds", "missing"), pl.Int64()),
}
"""Columns of `localised`.

weights: `base` or `trained`. lambda: of the smoothed score. Of each measure the mean over the seeds and the sample
standard deviation; share: of the response tokens that are pruned, or of the samples that are kept. missing: how many
of the seeds have no answer; the means are null then.
"""

HEADERS = (
    ("PPL", "token perplexity", {"AUC": "auc", "P@wrong": "precision"}),
    ("Smoothed", "smoothed score", {"λ": "lambda", "AUC": "auc", "P@wrong": "precision"}),
    ("All", PRUNED[0], {"pruned": "share", "precision": "precision", "recall": "recall"}),
    ("Within kept samples", PRUNED[1], {"pruned": "share", "precision": "precision", "recall": "recall"}),
    ("Q2", RANKED[0], {"PPL AUC": "auc", "PPL P@wrong": "precision"}),
    ("Q2", RANKED[1], {"s AUC": "auc", "s P@wrong": "precision"}),
    ("Q2", PRUNED[2], {"precision": "precision", "recall": "recall"}),
    ("Kept", "kept samples with an error", {"with": "share"}),
    ("Kept", "kept samples without", {"without": "share"}),
)
"""Columns of numbers: heading, score, and the measure of it below each header."""

NOTES = (
    "Means over the seeds ± 1 sample standard deviation. AUC: probability that a wrong token scores above a right one. "
    "P@wrong: share of wrong tokens among as many highest-scored ones as are wrong.",
    "Pruned: share of all response tokens that the method prunes in its first epoch, those of dropped samples among "
    "them. Precision: of the pruned tokens, those that are wrong. Recall: of the wrong tokens, those that are pruned. "
    "Within kept samples: the same among the tokens of kept samples, which is what the token pruner does. Q2: among "
    "the tokens of samples that may lose some, which with a baseline are all kept ones; the columns of PPL and s say "
    "how well these rank the tokens there.",
    "Kept with, kept without: share of the samples with and without an error that are kept.",
    "λ: of the smoothed score; the method's own, or the default where it has none.",
    "–: nothing is pruned, or a seed has no answer (its training is missing or diverged).",
)


def localised(answers: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """One row per line, model, weights (base or trained) and score, in table order; empty where no cell has an answer.

    answers: localisation.parquet. cells: rows of one experiment in cells.parquet.
    """
    known = answers.filter(pl.col("cell").is_in(cells["cell"].implode()))
    if known.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    by_place = {(row["cell"], row["model"], row["score"]): row for row in known.iter_rows(named=True)}
    rows: list[dict[str, Any]] = []
    for (line, model), by_seed in cells_by_line(cells).items():
        identity = line.columns() | {"model": model, "label": method_label(line), "budget": budget_label(line)}
        for weights in ("base", "trained"):
            for score in SCORES:
                found = [by_place.get((row["cell"], weights, score)) for row in by_seed.values()]
                answered = [row for row in found if row is not None]
                rows.append(
                    identity
                    | {"weights": weights, "score": score, "seeds": len(found)}
                    | {"missing": len(found) - len(answered), "lambda": answered[0]["lambda"] if answered else None}
                    | _over_seeds(found)
                )
    return pl.DataFrame(rows, schema=SCHEMA)


def planted_errors_files(answers: pl.DataFrame, cells: pl.DataFrame) -> PageFiles | None:
    """The answers of one experiment as a table, a block each for the base and the trained model; None without any."""
    frame = localised(answers, cells)
    if frame.is_empty():
        return None
    models, train_sets = labels_of(cells, "model"), labels_of(cells, "train_set")
    words = ["Samples x Tokens", "Method", *(["Model"] if len(models) > 1 else [])]
    words += ["Train set"] if len(train_sets) > 1 else []
    blocks = []
    for weights, title in (("base", "Scored by the base model"), ("trained", "Scored by the trained model")):
        chosen = frame.filter(pl.col("weights") == weights).partition_by(
            "train_set", "model", "label", "budget", maintain_order=True
        )
        fields: list[tuple[Field, ...]] = []
        for part in chosen:
            by_score = {row["score"]: row for row in part.iter_rows(named=True)}
            names = [part["budget"][0], part["label"][0]]
            names += [models[part["model"][0]]] if len(models) > 1 else []
            names += [train_sets[part["train_set"][0]]] if len(train_sets) > 1 else []
            numbers = [_field(by_score[score], name) for _, score, measures in HEADERS for name in measures.values()]
            fields.append((*names, *numbers))
        blocks.append(Block(title, tuple(fields)))
    columns = (
        *(Column(word, words=True) for word in words),
        *(Column(header, group) for group, _, measures in HEADERS for header in measures),
    )
    experiment = cells["experiment"][0]
    table = Table("localisation", "", columns, tuple(blocks), notes=NOTES)
    lead = f"Experiment {experiment}: what finds planted errors. {subjects(cells)}"
    page = Page(f"{experiment}-localisation", cells["title"][0], (lead,), (table,))
    rounded = frame.with_columns(pl.selectors.float().round(6))
    return PageFiles(page, {"localisation.md": render_markdown}, {"localisation.csv": rounded})


def _over_seeds(found: list[dict[str, Any] | None]) -> dict[str, float | None]:
    """Mean and spread of each measure; null where any seed lacks it."""
    values: dict[str, float | None] = {}
    for name in MEASURES:
        column = [None if row is None else row[name] for row in found]
        known = [value for value in column if value is not None]
        whole = bool(known) and len(known) == len(column)
        values[name] = fmean(known) if whole else None
        values[f"{name}_sd"] = stdev(known) if whole and len(known) > 1 else None
    return values


def _field(row: dict[str, Any], name: str) -> Field:
    mean = row[name]
    if name == "lambda":
        return number(mean, "g")
    spread = row[f"{name}_sd"]
    return Parts(number(mean, ".3f"), "" if spread is None else f" ± {spread:.3f}")
