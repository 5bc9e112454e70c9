"""What the methods cost, and what they selected: the second and the third table of an experiment."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import polars as pl

from qtuning.results.layout import method_label, named, percent
from qtuning.results.page import Block, Column, Table
from qtuning.results.schema import COST_COLUMNS, SELECTION_COLUMNS
from qtuning.results.summary import Line, Summary

Seeds = dict[str, dict[str, Any]]
"""Seed -> a row of its cell, which carries the cell's costs."""

Cells = dict[tuple[Any, ...], Seeds]
"""(train set, model, method, options, sample ratio, token ratio, training) -> its cells."""

MEASURED = (*COST_COLUMNS, *SELECTION_COLUMNS)

COLUMNS = ("Updates", "Samples kept", "Tokens kept", "Tokens forwarded", "FLOPs", "Seconds")
"""Headers of the measured columns."""

EXPLANATION = (
    "Means over the seeds. Samples and tokens kept (response tokens in the loss) and FLOPs are shares of "
    "training on the full data with the same seed; tokens forwarded are those of the scoring and of the training "
    "passes; FLOPs and seconds include scoring. –: a cell (or the full-data cell it is compared with) is not trained "
    "to its end."
)


SELECTED = ("Samples kept/asked", "Tokens kept/asked", "Converged", "Q1", "Q2", "Q3", "Q4", "Thresholds", "Supplement")
"""Headers of what was selected."""

SELECTED_EXPLANATION = (
    "Samples and response tokens kept, as shares of what the budget asks of the train set. Of Q-Tuning's triage: the "
    "share of the decisions whose threshold search converged; the shares of the samples in each quadrant (what lies "
    "between the tails is in none); the shares of the kept samples that the thresholds and that the supplement gave. "
    "–: the pruner knows no quadrants, or a cell is not trained to its end."
)


@dataclass(frozen=True)
class Cost:
    """One row: a method at a budget with one model; `values` are formatted, in the order of the headers."""

    budget: str
    method: str
    model: str
    values: tuple[str, ...]


def cost_rows(scores: pl.DataFrame, summary: Summary) -> list[Cost]:
    """One row per trained line and model, in table order."""
    cells = cells_by_line(scores)
    return [
        Cost(budget_label(line), method_label(line), model, _values(by_seed, full_data(cells, line, model)))
        for line, model, by_seed in trained(cells, summary)
    ]


def selection_rows(scores: pl.DataFrame, summary: Summary) -> list[Cost]:
    """One row per pruned line and model, in table order: `values` in the order of SELECTED."""
    cells = cells_by_line(scores)
    return [
        Cost(budget_label(line), method_label(line), model, _selected(by_seed))
        for line, model, by_seed in trained(cells, summary)
        if not line.reference
    ]


def cost_tables(scores: pl.DataFrame, summary: Summary) -> list[Table]:
    """Both tables; not the first where no cell is trained, nor the second where none is pruned."""
    labels = named(scores, "model")
    several = len(labels) > 1
    tables = []
    for name, title, columns, rows, explanation in (
        ("costs", "What it cost", COLUMNS, cost_rows(scores, summary), EXPLANATION),
        ("selected", "What was selected", SELECTED, selection_rows(scores, summary), SELECTED_EXPLANATION),
    ):
        if rows:
            words = ["Samples x Tokens", "Method", *(["Model"] if several else [])]
            headers = (*(Column(word, words=True) for word in words), *map(Column, columns))
            fields = tuple(
                (row.budget, row.method, *([labels[row.model]] if several else []), *row.values) for row in rows
            )
            tables.append(Table(name, title, headers, (Block("", fields),), notes=(explanation,)))
    return tables


def cells_by_line(scores: pl.DataFrame) -> Cells:
    """The cells of each trained line and model, by seed; a cell that the table lacks is there without any cost."""
    cells: Cells = {}
    for row in scores.unique("cell", keep="first", maintain_order=True).iter_rows(named=True):
        if row["seed"] is not None:
            names = ("train_set", "model", "method", "options", "sample_ratio", "token_ratio")
            key = (*(row[name] for name in names), row.get("training") or "")
            cells.setdefault(key, {})[row["seed"]] = row
    seeds = scores["seed"].drop_nulls().unique(maintain_order=True)
    for by_seed in cells.values():
        absent = next(iter(by_seed.values())) | {"cell": "", "status": "not run"} | dict.fromkeys(MEASURED)
        for seed in seeds:
            by_seed.setdefault(seed, absent | {"seed": seed})
    return cells


def trained(cells: Cells, summary: Summary) -> Iterator[tuple[Line, str, Seeds]]:
    """Lines and models that have cells, in table order."""
    for line in summary.lines:
        for model in summary.models:
            key = (line.train_set, model, line.method, line.options, line.sample_ratio, line.token_ratio, line.training)
            if key in cells:
                yield line, model, cells[key]


def full_data(cells: Cells, line: Line, model: str) -> Seeds:
    """The cells that trained on everything, in the same way as the line if there are such; empty if there are none."""
    candidates = {key[-1]: by_seed for key, by_seed in cells.items() if key[:3] == (line.train_set, model, "full")}
    return candidates.get(line.training) or candidates.get("") or {}


def mean_cost(by_seed: Seeds, *columns: str) -> float | None:
    """Mean over the seeds of the sum of the columns; None if any seed lacks one."""
    sums = [_sum(row, columns) for row in by_seed.values()]
    return None if None in sums else fmean(value for value in sums if value is not None)


def cost_share(by_seed: Seeds, full: Seeds, column: str) -> float | None:
    """Mean over the seeds of the quotient with the full-data cell of the same seed; None if any is missing."""
    quotients = []
    for seed, row in by_seed.items():
        part, whole = _sum(row, (column,)), _sum(full[seed], (column,)) if seed in full else None
        if part is None or not whole:
            return None
        quotients.append(part / whole)
    return fmean(quotients)


def budget_label(line: Line) -> str:
    """`25% x 50%`, or nothing for a model without training."""
    if line.sample_ratio is None or line.token_ratio is None:
        return ""
    return f"{percent(line.sample_ratio)} x {percent(line.token_ratio)}"


def _values(by_seed: Seeds, full: Seeds) -> tuple[str, ...]:
    def share(column: str) -> str:
        value = cost_share(by_seed, full, column)
        return "–" if value is None else f"{100 * value:.1f}%"

    return (
        _count(mean_cost(by_seed, "updates")),
        share("samples_kept"),
        share("tokens_kept"),
        _count(mean_cost(by_seed, "tokens_scored", "tokens_forwarded")),
        share("flops_total"),
        _seconds(mean_cost(by_seed, "seconds_total")),
    )


def _selected(by_seed: Seeds) -> tuple[str, ...]:
    """Shares over the seeds together: of what was asked, of the decisions, of the samples, of the kept samples."""

    def total(column: str) -> float | None:
        values = [_sum(row, (column,)) for row in by_seed.values()]
        return None if None in values else sum(value for value in values if value is not None)

    def share(part: float | None, whole: float | None) -> str:
        return "–" if part is None or not whole else f"{100 * part / whole:.1f}%"

    some, count = next(iter(by_seed.values())), float(len(by_seed))
    samples, tokens = total("samples_available"), total("tokens_available")
    inside, added = total("from_thresholds"), total("supplemented")
    chosen = None if inside is None or added is None else inside + added
    return (
        share(total("samples_kept"), samples and samples * some["sample_ratio"]),
        share(total("tokens_kept"), tokens and tokens * some["sample_ratio"] * some["token_ratio"]),
        share(total("converged"), count),
        *(share(total(f"q{quadrant}_share"), count) for quadrant in (1, 2, 3, 4)),
        share(inside, chosen),
        share(added, chosen),
    )


def _sum(row: dict[str, Any], columns: tuple[str, ...]) -> float | None:
    """Sum of the columns; None where one is not reported, and for a training that diverged, which ended early."""
    values: list[float] = [row[column] for column in columns if row[column] is not None]
    return sum(values) if len(values) == len(columns) and row["status"] != "diverged" else None


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
