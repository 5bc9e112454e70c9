"""Tables as the page shows them: flat rows that sort and filter, and what a score says when it is pointed at."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import polars as pl

from qtuning.report.places import Places, p_text
from qtuning.statistics.compare import score_intervals
from qtuning.statistics.summary import AVERAGE, Entry, Summary
from qtuning.store.lines import ZERO_SHOT, Line
from qtuning.tables.controls import LINE_KEY
from qtuning.tables.costs import flops_text
from qtuning.tables.labels import benchmark_label, budget_label, method_label, number, percent, pruner_labels
from qtuning.tables.page import Column, Field, Page, Parts

CHOICES = 12
"""Most values of a column that can be chosen from a list; above them there is the search."""

LONG = 60
"""Letters of the longest text of such a column."""


@dataclass(frozen=True)
class Cell:
    """A field of a row. sort: what it is sorted by, a number as text, or None for its words. tip: place among the tips
    of the page, or None."""

    field: Field
    sort: str | None = None
    tip: int | None = None


@dataclass(frozen=True)
class Row:
    """A row and what it can be filtered by, in the order of `View.filters`."""

    cells: tuple[Cell, ...]
    facets: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """A table on the page. filters: name and values of each list that narrows it. name: unique on the page."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    filters: tuple[tuple[str, tuple[str, ...]], ...]
    footnotes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def grouped(self) -> bool:
        """Whether columns share headings."""
        return any(column.group for column in self.columns)


@dataclass
class Tips:
    """What scores say when they are pointed at: texts of a score, and the number of the texts of its line."""

    scores: list[tuple[int, list[str]]] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)


def views_of(page: Page, details: bool = False) -> list[View]:
    """The tables of a page. Headings of blocks become a column. details: whether notes say how all was measured."""
    found = []
    for table in page.tables:
        titled = any(block.title for block in table.blocks)
        columns = ((Column("Group", words=True),) if titled else ()) + table.columns
        rows = [(*([block.title] if titled else []), *row) for block in table.blocks for row in block.rows]
        cells = [tuple(Cell(each, _sort(each, c.words)) for each, c in zip(row, columns, strict=True)) for row in rows]
        facets = {
            c.name: [row[place] for row in rows]
            for place, c in enumerate(columns)
            if c.words and all(isinstance(row[place], str) for row in rows)
        }
        notes = table.all_notes if details else table.notes
        found.append(_view(f"{page.name}-{table.name}", table.title, columns, cells, facets, table.footnotes, notes))
    return found


def score_views(
    summary: Summary, page: Page, comparisons: pl.DataFrame, items: pl.DataFrame | pl.LazyFrame, tips: Tips
) -> list[View]:
    """The score table of a page, a view for each model; every score says its interval, its differences, what its line
    cost, and its cells.

    page: of `score_page`. comparisons: of `compare`. tips: gets what the scores say.
    """
    table, places = page.tables[0], Places(summary)
    lines = list(chain.from_iterable(summary.blocks()))
    told = _tips(summary, places, comparisons, items, tips)
    fixed = sum(column.words for column in table.columns)  # method and token pruner, quadrants
    several = len(summary.train_sets) > 1
    found = []
    for model, label in summary.models.items():
        mine = [i for i, c in enumerate(table.columns) if i >= fixed and c.group in ("", label)]
        columns = [Column("Method", words=True), Column("Samples x Tokens", words=True)]
        columns += [Column("Train set", words=True)] * several + list(table.columns[2:fixed])
        columns += [Column(c.name) for c in (table.columns[i] for i in mine)]
        rows, facets = [], []
        for line, fields in zip(lines, table.rows, strict=True):
            names = iter(summary.benchmarks)
            train_set = [Cell(summary.train_sets[line.train_set])] * several
            cells = [Cell(method_label(line)), Cell(budget_label(line) or "–", _sort(budget_label(line)))]
            cells += [*train_set, *map(Cell, fields[2:fixed])]
            for i in mine:
                tip = told.get((line, model, next(names))) if isinstance(fields[i], Parts) else None
                cells.append(Cell(fields[i], _sort(fields[i]), tip))
            rows.append(tuple(cells))
            sample, token = pruner_labels(line)
            facets.append((_role(line), budget_label(line) or "–", sample, token or "–", *[c.field for c in train_set]))
        kinds = ("Kind", "Samples x Tokens", "Sample pruner", "Token pruner", *["Train set"] * several)
        by_name = {name: [row[place] for row in facets] for place, name in enumerate(kinds)}
        name = f"{page.name}-scores" + (f"-{model}" if len(summary.models) > 1 else "")
        title = label if len(summary.models) > 1 else ""
        found.append(_view(name, title, columns, rows, by_name, table.footnotes, table.notes))
    return found


def _view(
    name: str,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[tuple[Cell, ...]],
    facets: Mapping[str, Sequence[Any]],
    footnotes: tuple[str, ...],
    notes: tuple[str, ...],
) -> View:
    filters = {}
    for key, values in facets.items():
        distinct = tuple(dict.fromkeys(values))
        if 1 < len(distinct) <= CHOICES and len(distinct) < len(rows) and max(map(len, distinct)) <= LONG:
            filters[key] = distinct
    chosen = [Row(cells, tuple(facets[key][place] for key in filters)) for place, cells in enumerate(rows)]
    return View(name, title, tuple(columns), tuple(chosen), tuple(filters.items()), footnotes, notes)


def _role(line: Line) -> str:
    return "reference" if line.reference else "control" if line.control else "method"


_NUMBER = re.compile(r"\s*\[?([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)")
_BUDGET = re.compile(r"([\d.]+)% x ([\d.]+)%")


def _sort(found: Field, words: bool = False) -> str | None:
    """A budget by the share that it keeps, a number by its value, a dash last; words by themselves."""
    text = found.mean if isinstance(found, Parts) else found
    if budget := _BUDGET.fullmatch(text):
        return f"{float(budget[1]) * float(budget[2]):g}"
    if words:
        return None
    number = _NUMBER.match(text.replace("−", "-").replace("–", "x"))
    return number[1].replace(",", "") if number else ""


def _tips(
    summary: Summary, places: Places, comparisons: pl.DataFrame, items: pl.DataFrame | pl.LazyFrame, tips: Tips
) -> dict[tuple[Line, str, str], int]:
    """Adds a tip for every score and returns their places."""
    by_place: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in comparisons.drop_nulls("difference").to_dicts():
        by_place.setdefault((*(row[name] for name in LINE_KEY), row["benchmark"]), []).append(row)
    intervals = {
        (places.line(row), row["model"], row["benchmark"]): row
        for row in score_intervals(summary, items).drop_nulls("score").to_dicts()
    }
    form, numbers, found = f".{summary.metric.decimals}f", {}, {}
    for (line, model, benchmark), entry in summary.entries.items():
        if not isinstance(entry, Entry):
            continue
        if (line, model) not in numbers:
            numbers[line, model] = len(tips.lines)
            tips.lines.append(_line_texts(summary, places, line, model))
        texts = [f"{benchmark_label(benchmark)} {entry.mean:{form}}"]
        if (known := intervals.get((line, model, benchmark))) is not None:
            over = "items" if known["n_seeds"] < 2 else "seeds and items"
            texts[0] += f" [{known['low']:{form}}, {known['high']:{form}}], 95% over {over}"
        if len(entry.seeds) > 1:
            by_seed = zip(entry.seeds, entry.values, strict=True)
            texts.append(f"seeds: {', '.join(f'{seed}: {value:{form}}' for seed, value in by_seed)}")
        place = (*((line.columns() | {"model": model})[name] for name in LINE_KEY), benchmark)
        texts += [_comparison(row, form) for row in by_place.get(place, [])]
        found[line, model, benchmark] = len(tips.scores)
        tips.scores.append((numbers[line, model], texts))
    return found


def _comparison(row: dict[str, Any], form: str) -> str:
    text = f"{row['difference']:+{form}} [{row['low']:+{form}}, {row['high']:+{form}}] against {row['against']}"
    return text if row["p_adjusted"] is None else f"{text}, {p_text(row['p_adjusted'])} ({row['family']}, corrected)"


def _line_texts(summary: Summary, places: Places, line: Line, model: str) -> list[str]:
    """Name, cost and cells of a line."""
    budget = budget_label(line)
    texts = [f"{method_label(line)}{f' at {budget}' if budget else ''}"]
    if line.method != ZERO_SHOT:
        cost = places.cost(line, model)
        share = cost.share_of_full("flops_total")
        of_full = "" if share is None else f" ({percent(round(share, 3))} of the full data)"
        flops, seconds = cost.mean("flops_total"), cost.mean("seconds_total")
        texts.append(f"cost: {flops_text(flops)} FLOPs{of_full}, {number(seconds, ',.1f')} s, means over the seeds")
    texts.append(f"cells: {', '.join(_cells(summary, line, model))}")
    return texts


def _cells(summary: Summary, line: Line, model: str) -> Iterable[str]:
    cells = (row["cell"] for (other, name, _, _), row in summary.places.items() if (other, name) == (line, model))
    return dict.fromkeys(cells)


def is_average(column: Column) -> bool:
    """Whether a column stays in sight."""
    return column.name == benchmark_label(AVERAGE)
