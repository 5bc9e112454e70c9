"""An experiment's table for the terminal."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qtuning.store.comparable import training_warnings
from qtuning.store.store import read_scores
from qtuning.tables.costs import COLUMNS, cost_rows
from qtuning.tables.labels import (
    Footnotes,
    Parts,
    aligned,
    benchmark_label,
    block_title,
    named,
    pruner_labels,
    score_parts,
    subjects,
    superscript,
)
from qtuning.tables.notes import how_to_read
from qtuning.tables.significance import Marks, read_marks
from qtuning.tables.summary import AVERAGE, Line, Summary, summarise

UNBOUNDED = 160
"""Columns of a file or pipe, which has no width of its own."""


def print_table(
    experiment: str, results: Path, console: Console | None = None, comparisons: pl.DataFrame | None = None
) -> None:
    """Print the scores and costs of an experiment from `results/scores.parquet`, in as much detail as fits.

    A narrow terminal gets one table a model, then no spreads, then no differences but those of Avg, then none.
    comparisons: differences with their significance, which mark the scores. Raises UserError if the experiment has not
    been collected.
    """
    scores = read_scores(results, experiment)
    summary = summarise(scores)
    marks = read_marks(comparisons, experiment)
    if console is None:
        console = Console() if sys.stdout.isatty() else Console(width=UNBOUNDED)
    labels = {column: named(scores, column) for column in ("model", "train_set")}
    footnotes = Footnotes()
    console.print(scores["title"][0], style="bold", markup=False, highlight=False)
    console.print(subjects(scores), markup=False, highlight=False)
    for warning in training_warnings(scores):
        console.print(f"Warning: {warning}", markup=False, highlight=False, style="yellow")
    console.print()
    for table in _fitting(summary, marks, labels, footnotes, console):
        console.print(table)
        console.print()
    for number, text in enumerate(footnotes.texts, start=1):
        console.print(f"{superscript(number)} {text}", markup=False, highlight=False, style="yellow")
    for note in how_to_read(scores, summary, marks):
        console.print(note, markup=False, highlight=False, style="dim")
    console.print()
    console.print(_cost_table(scores, summary, labels["model"]))


def _fitting(
    summary: Summary, marks: Marks, labels: dict[str, dict[str, str]], footnotes: Footnotes, console: Console
) -> list[Table]:
    """The most detailed tables that fit the console."""
    together, apart = [summary.models], [(model,) for model in summary.models]
    unlimited = console.options.update(max_width=10_000)
    tables: list[Table] = []
    for groups, spread, differences in (
        (together, True, summary.benchmarks),
        (apart, True, summary.benchmarks),
        (together, False, summary.benchmarks),
        (apart, False, summary.benchmarks),
        (apart, False, (AVERAGE,)),
        (apart, False, ()),
    ):
        tables = [_score_table(summary, marks, models, labels, footnotes, spread, differences) for models in groups]
        if all(console.measure(table, options=unlimited).maximum <= console.width for table in tables):
            break
    return tables


def _score_table(
    summary: Summary,
    marks: Marks,
    models: Sequence[str],
    labels: dict[str, dict[str, str]],
    footnotes: Footnotes,
    spread: bool,
    differences: Sequence[str],
) -> Table:
    """All blocks for some of the models, with differences for some of the benchmarks."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    several = len(summary.models) > 1
    for header in ("Sample pruner", "Token pruner"):
        table.add_column(f"\n{header}" if several else header, no_wrap=True)
    columns = [(model, benchmark) for model in models for benchmark in summary.benchmarks]
    texts: dict[tuple[Line, str, str], Text] = {}
    for model, benchmark in columns:
        above = f"{labels['model'][model] if benchmark == summary.benchmarks[0] else ''}\n" if several else ""
        table.add_column(above + benchmark_label(benchmark), justify="right", no_wrap=True)
        pieces = []
        for block in summary.blocks():
            best = summary.best(block, model, benchmark)
            for line in block:
                entry = summary.entries.get((line, model, benchmark))
                parts = score_parts(entry, line in best, footnotes, marks.of(line, model, benchmark))
                parts = parts if spread else replace(parts, spread="")
                pieces.append(parts if benchmark in differences else replace(parts, difference=""))
        for line, parts in zip(summary.lines, aligned(pieces), strict=True):
            texts[line, model, benchmark] = styled(parts)
    for block in summary.blocks():
        samples, _, tokens = block_title(block[0]).partition(" x ")
        if len(labels["train_set"]) > 1:
            table.add_row(Text(labels["train_set"][block[0].train_set], style="cyan"))
        table.add_row(Text(samples, style="cyan"), Text(f"x {tokens}" if tokens else "", style="cyan"))
        for line in block:
            cells = [texts[line, model, benchmark] for model, benchmark in columns]
            table.add_row(*pruner_labels(line), *cells, end_section=line == block[-1])
    return table


def styled(parts: Parts) -> Text:
    """A score with the best in bold, its spread dimmed and its difference in green or red."""
    text = Text().append(parts.mean, style="bold" if parts.best else "")
    text.append(parts.spread, style="dim")
    text.append(parts.difference, style={"up": "green", "down": "red", "": "dim"}[parts.direction])
    text.append(parts.marks)
    return text


def _cost_table(scores: pl.DataFrame, summary: Summary, labels: dict[str, str]) -> Table:
    """What the methods cost; a column for the model only where there are several."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    several = len(labels) > 1
    for header in ("Samples\nx Tokens", "\nMethod", *(["\nModel"] if several else [])):
        table.add_column(header, no_wrap=True)
    for header in COLUMNS:
        first, _, second = header.partition(" ")
        table.add_column(f"{first}\n{second}" if second else f"\n{first}", justify="right", no_wrap=True)
    for cost in cost_rows(scores, summary):
        model = [labels[cost.model]] if several else []
        table.add_row(cost.budget, cost.method, *model, *cost.values)
    return table
