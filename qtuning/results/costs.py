"""What the methods cost: the second table of an experiment."""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

import polars as pl

from qtuning.results.layout import method_label, percent
from qtuning.results.summary import Line, Summary

Seeds = dict[str, dict[str, Any]]
"""Seed -> a row of its cell, which carries the cell's costs."""

COLUMNS = ("Updates", "Samples kept", "Tokens kept", "Tokens forwarded", "FLOPs", "Seconds")
"""Headers of the measured columns."""

EXPLANATION = (
    "Means over the seeds. Samples and tokens kept (response tokens in the loss) and FLOPs are shares of "
    "training on the full data with the same seed; tokens forwarded are those of the scoring and of the training "
    "passes; FLOPs and seconds include scoring. –: a cell (or the full-data cell it is compared with) is not trained "
    "to its end."
)


@dataclass(frozen=True)
class Cost:
    """One row: a method at a budget with one model; `values` are formatted, in the order of COLUMNS."""

    budget: str
    method: str
    model: str
    values: tuple[str, ...]


def cost_rows(scores: pl.DataFrame, summary: Summary) -> list[Cost]:
    """One row per trained line and model, in table order."""
    cells: dict[tuple[Any, ...], Seeds] = {}
    for row in scores.unique("cell", keep="first", maintain_order=True).iter_rows(named=True):
        if row["seed"] is not None:
            cells.setdefault(_key(row), {})[row["seed"]] = row
    rows = []
    for line in summary.lines:
        for model in summary.models:
            by_seed = cells.get((line.train_set, model, line.method, line.options, line.sample_ratio, line.token_ratio))
            if by_seed is not None:
                rows.append(Cost(_budget(line), method_label(line), model, _values(by_seed, cells)))
    return rows


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Identifies a line and a model."""
    names = ("train_set", "model", "method", "options", "sample_ratio", "token_ratio")
    return tuple(row[name] for name in names)


def _budget(line: Line) -> str:
    if line.sample_ratio is None or line.token_ratio is None:
        return ""
    return f"{percent(line.sample_ratio)} x {percent(line.token_ratio)}"


def _values(by_seed: Seeds, cells: dict[tuple[Any, ...], Seeds]) -> tuple[str, ...]:
    some = next(iter(by_seed.values()))
    full: Seeds = {}
    for key, candidates in cells.items():
        if key[:3] == (some["train_set"], some["model"], "full"):
            full = candidates

    def mean(*columns: str) -> float | None:
        """Mean over the seeds of the sum of the columns; None if any seed lacks one."""
        sums = [_sum(row, columns) for row in by_seed.values()]
        return None if None in sums else fmean(value for value in sums if value is not None)

    def share(column: str) -> str:
        """Mean over the seeds of the quotient with the full-data cell of the same seed."""
        quotients = []
        for seed, row in by_seed.items():
            part, whole = _sum(row, (column,)), _sum(full[seed], (column,)) if seed in full else None
            if part is None or not whole:
                return "–"
            quotients.append(part / whole)
        return f"{100 * fmean(quotients):.1f}%"

    return (
        _count(mean("updates")),
        share("samples_kept"),
        share("tokens_kept"),
        _count(mean("tokens_scored", "tokens_forwarded")),
        share("flops_total"),
        _seconds(mean("seconds_total")),
    )


def _sum(row: dict[str, Any], columns: tuple[str, ...]) -> float | None:
    """Sum of the columns; None where one is not reported, and for a training that diverged, which ended early."""
    values: list[float] = [row[column] for column in columns if row[column] is not None]
    return sum(values) if len(values) == len(columns) and row["status"] != "diverged" else None


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
