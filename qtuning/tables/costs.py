"""What the methods cost, and what they selected: the second and the third table of an experiment."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from qtuning.tables.labels import method_label, named
from qtuning.tables.lines import (
    Cells,
    Seeds,
    available_share,
    budget_label,
    cells_by_line,
    cost_share,
    flops_text,
    full_data,
    mean_cost,
    sum_of,
)
from qtuning.tables.page import Block, Column, Table
from qtuning.tables.summary import Line, Summary

COLUMNS = ("Updates", "Samples kept", "Tokens kept", "Tokens forwarded", "FLOPs", "Seconds")
"""Headers of the measured columns."""

INCLUDED = (
    "Means over the seeds. Tokens kept are response tokens in the loss; tokens forwarded are those of the scoring and "
    "of the training passes; FLOPs and seconds include scoring."
)
OF_FULL = "Samples and tokens kept and FLOPs are shares of training on the full data with the same seed."
WITHOUT_FULL = (
    "{Which} no training on the full data to compare with: samples and tokens kept are shares of what there was to "
    "choose from, and FLOPs are absolute."
)
DASH = "–: a cell{other} is not trained to its end."

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
    for name, title, columns, rows, note in (
        ("costs", "What it cost", COLUMNS, cost_rows(scores, summary), explanation(scores, summary)),
        ("selected", "What was selected", SELECTED, selection_rows(scores, summary), SELECTED_EXPLANATION),
    ):
        if rows:
            words = ["Samples x Tokens", "Method", *(["Model"] if several else [])]
            headers = (*(Column(word, words=True) for word in words), *map(Column, columns))
            fields = tuple(
                (row.budget, row.method, *([labels[row.model]] if several else []), *row.values) for row in rows
            )
            tables.append(Table(name, title, headers, (Block("", fields),), notes=(note,)))
    return tables


def trained(cells: Cells, summary: Summary) -> Iterator[tuple[Line, str, Seeds]]:
    """Lines and models that have cells, in table order."""
    for line in summary.lines:
        for model in summary.models:
            if (line, model) in cells:
                yield line, model, cells[line, model]


def explanation(scores: pl.DataFrame, summary: Summary) -> str:
    """How to read what it cost: what its shares are shares of."""
    cells = cells_by_line(scores)
    compared = {bool(full_data(cells, line, model)) for line, model, _ in trained(cells, summary)}
    sentences = [INCLUDED]
    if True in compared:
        sentences.append(OF_FULL)
    if False in compared:
        sentences.append(WITHOUT_FULL.format(Which="Some rows have" if True in compared else "This experiment has"))
    other = " (or the full-data cell it is compared with)" if True in compared else ""
    return " ".join([*sentences, DASH.format(other=other)])


def _values(by_seed: Seeds, full: Seeds) -> tuple[str, ...]:
    """full: empty where the experiment has no training on the full data that the line could be compared with."""

    def share(column: str, available: str) -> str:
        value = cost_share(by_seed, full, column) if full else available_share(by_seed, column, available)
        return _percent(value)

    absolute, relative = mean_cost(by_seed, "flops_total"), cost_share(by_seed, full, "flops_total")
    return (
        _count(mean_cost(by_seed, "updates")),
        share("samples_kept", "samples_available"),
        share("tokens_kept", "tokens_available"),
        _count(mean_cost(by_seed, "tokens_scored", "tokens_forwarded")),
        _percent(relative) if full else flops_text(absolute),
        _seconds(mean_cost(by_seed, "seconds_total")),
    )


def _selected(by_seed: Seeds) -> tuple[str, ...]:
    """Shares over the seeds together: of what was asked, of the decisions, of the samples, of the kept samples."""

    def total(column: str) -> float | None:
        values = [sum_of(row, (column,)) for row in by_seed.values()]
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


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
