"""Comparisons as a page for the terminal: a row per comparison, with its interval."""

from typing import Any

import polars as pl

from qtuning.experiment.metrics import METRICS
from qtuning.statistics.pairs import line_text
from qtuning.statistics.position import standard_error
from qtuning.statistics.summary import Summary
from qtuning.tables.labels import benchmark_label, number, subjects
from qtuning.tables.page import Block, Column, Field, Page, Table

COLUMNS = (
    Column("Line", words=True),
    Column("Against", words=True),
    Column("Benchmark", words=True),
    Column("Difference"),
    Column("95% interval"),
    Column("SE"),
    Column("p"),
    Column("corrected"),
    Column("Family", words=True),
)
NOTES = (
    "Difference: line minus what it is compared with, paired by seed and test item, in the metric's unit; interval and "
    "SE over seeds and items (docs/statistics.md).",
    "Corrected: primary comparisons by Holm, exploratory ones by Benjamini and Hochberg, over all of the experiment. A "
    "pair that was asked for by name is in no family, and its p is corrected for nothing.",
)


def comparison_page(frame: pl.DataFrame, summary: Summary) -> Page:
    """Of rows of `compare` or `compare_pairs`."""
    rows = tuple(_row(row, summary.metric.decimals) for row in frame.iter_rows(named=True))
    notes = (f"Metric: {METRICS[summary.metric.name].label}.", *NOTES)
    table = Table("comparisons", "", COLUMNS, (Block("", rows),), (), notes)
    lead = (subjects(summary.scores),)
    return Page(f"{summary.experiment}-comparisons", f"{summary.title}: comparisons", lead, (table,))


def _row(row: dict[str, Any], decimals: int) -> tuple[Field, ...]:
    form = f"+.{decimals}f"
    known = row["difference"] is not None
    return (
        line_text(row["method"], row["variant"], row["sample_ratio"], row["token_ratio"]),
        row["against"],
        benchmark_label(row["benchmark"]),
        number(row["difference"], form),
        f"[{row['low']:{form}}, {row['high']:{form}}]" if known else (row["note"] or "–"),
        number(standard_error(row) if known else None, f".{decimals}f"),
        number(row["p"], ".4f"),
        number(row["p_adjusted"], ".4f"),
        row["family"] or "",
    )
