"""What the methods cost, and what they selected: the second and the third table of an experiment."""

from collections.abc import Iterator
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
        Cost(_budget(line), method_label(line), model, _values(by_seed, cells))
        for line, model, by_seed in trained(cells, summary)
    ]


def selection_rows(scores: pl.DataFrame, summary: Summary) -> list[Cost]:
    """One row per pruned line and model, in table order: `values` in the order of SELECTED."""
    cells = cells_by_line(scores)
    return [
        Cost(_budget(line), method_label(line), model, _selected(by_seed))
        for line, model, by_seed in trained(cells, summary)
        if not line.reference
    ]


def cells_by_line(scores: pl.DataFrame) -> dict[tuple[Any, ...], Seeds]:
    """The trained cells of each line and model, by seed."""
    cells: dict[tuple[Any, ...], Seeds] = {}
    for row in scores.unique("cell", keep="first", maintain_order=True).iter_rows(named=True):
        if row["seed"] is not None:
            cells.setdefault(_key(row), {})[row["seed"]] = row
    return cells


def trained(cells: dict[tuple[Any, ...], Seeds], summary: Summary) -> Iterator[tuple[Line, str, Seeds]]:
    """Lines and models that have cells, in table order."""
    for line in summary.lines:
        for model in summary.models:
            key = (line.train_set, model, line.method, line.options, line.sample_ratio, line.token_ratio)
            if key in cells:
                yield line, model, cells[key]


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
