"""A page of tables for the terminal, in as much detail as fits."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from qtuning.statistics.summary import AVERAGE
from qtuning.tables.labels import benchmark_label
from qtuning.tables.page import Field, Page, Parts, Table, aligned, superscript

UNBOUNDED = 160
"""Columns of a file or pipe, which has no width of its own."""

SHOWN = ("scores", "costs", "comparisons", "instrument", "controls")
"""The tables of a page that are printed; the rest are in its files."""


def open_console() -> Console:
    """The terminal, or a file or pipe of UNBOUNDED columns."""
    return Console() if sys.stdout.isatty() else Console(width=UNBOUNDED)


def print_page(page: Page, console: Console | None = None) -> None:
    """Print the scores and costs of a page.

    A narrow terminal gets one table a model, then no spreads, then no differences but those of Avg, then none.
    """
    console = console or open_console()

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False)

    say(page.title, "bold")
    if page.verdict:
        say(page.verdict, "cyan")
    for text in page.lead:
        say(text.removeprefix(f"Experiment {page.name}. "))  # who typed the command knows its name
    for warning in page.warnings:
        say(f"Warning: {warning}", "yellow")
    for table in (table for table in page.tables if table.name in SHOWN):
        console.print()
        for number, drawn in enumerate(_fitting(table, console)):
            if number:
                console.print()
            console.print(drawn)
        if not table.title:  # the main table
            console.print()
            for number, text in enumerate(table.footnotes, start=1):
                say(f"{superscript(number)} {text}", "yellow")
            for note in table.notes:
                say(note, "dim")


def _fitting(table: Table, console: Console) -> list[RichTable]:
    numbers = [index for index, column in enumerate(table.columns) if not column.words]
    apart = [list(group) for _, group in groupby(numbers, lambda index: table.columns[index].group)]
    unlimited = console.options.update(max_width=10_000)
    average = [index for index in numbers if table.columns[index].name == benchmark_label(AVERAGE)]
    tables: list[RichTable] = []
    for groups, spread, differences in (
        ([numbers], True, numbers),
        (apart, True, numbers),
        ([numbers], False, numbers),
        (apart, False, numbers),
        (apart, False, average),
        (apart, False, []),
    ):
        tables = [_draw(table, columns, spread, differences) for columns in groups]
        if all(console.measure(drawn, options=unlimited).maximum <= console.width for drawn in tables):
            break
    return tables


def _draw(table: Table, numbers: Sequence[int], spread: bool, differences: Collection[int]) -> RichTable:
    """All rows of a table, with some of its columns of numbers, and differences in some of these."""
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    chosen = [index for index, column in enumerate(table.columns) if column.words or index in numbers]
    headers = [_header(table, index, chosen) for index in chosen]
    tall = any("\n" in header for header in headers)
    texts: list[list[Text]] = []
    for index, header in zip(chosen, headers, strict=True):
        column = table.columns[index]
        drawn.add_column(
            header if "\n" in header or not tall else f"\n{header}",
            justify="left" if column.words else "right",
            no_wrap=not column.words,  # where a line is too long, words wrap: a cut number would be lost
            overflow="fold" if column.words else "ellipsis",
        )
        texts.append(_texts([row[index] for row in table.rows], spread, index in differences))
    rows = zip(*texts, strict=True)
    for block in table.blocks:
        for heading in _headings(block.title):
            drawn.add_row(*(Text(text, style="cyan") for text in heading))
        for row in islice(rows, len(block.rows)):
            drawn.add_row(*row)
        drawn.add_section()
    return drawn


def _header(table: Table, index: int, chosen: Sequence[int]) -> str:
    """In up to two lines: below the group that it begins, or broken after its first word where there are no groups."""
    column = table.columns[index]
    if any(other.group for other in table.columns):
        first = index == next(other for other in chosen if table.columns[other].group == column.group)
        return f"{column.group if first else ''}\n{column.name}"
    return column.name if not table.title else column.name.replace(" ", "\n", 1)


def _headings(title: str) -> list[tuple[str, ...]]:
    """`Mini: Samples 25% x Tokens 50%` -> the train set, then the two halves of the budget, below the two pruners."""
    if not title:
        return []
    train_set, _, budget = title.rpartition(": ")
    samples, by, tokens = budget.partition(" x ")
    return [*([(train_set,)] if train_set else []), (samples, f"x {tokens}" if by else "")]


def _texts(column: Sequence[Field], spread: bool, difference: bool) -> list[Text]:
    """The fields of one column; scores with each piece under its like."""
    hidden: dict[str, Any] = ({} if spread else {"spread": ""}) | ({} if difference else {"difference": ""})
    scores = iter(aligned([replace(field, **hidden) for field in column if isinstance(field, Parts)]))
    return [_styled(next(scores)) if isinstance(field, Parts) else Text(field) for field in column]


def _styled(parts: Parts) -> Text:
    """A score with the best in bold, its spread dimmed and its difference in green or red."""
    text = Text().append(parts.mean, style="bold" if parts.best else "")
    text.append(parts.spread, style="dim")
    text.append(parts.difference, style={"better": "green", "worse": "red", "": "dim"}[parts.verdict])
    text.append(parts.marks)
    return text
