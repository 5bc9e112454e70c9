"""The cells behind the lines of a table, by seed, and what they cost: for tables and figures alike."""

from statistics import fmean
from typing import Any

import polars as pl

from qtuning.store.schema import COST_COLUMNS, SELECTION_COLUMNS
from qtuning.tables.labels import percent
from qtuning.tables.summary import Line, in_table_order, line_of

Seeds = dict[str, dict[str, Any]]
"""Seed -> a row of its cell, which carries the cell's costs."""

Cells = dict[tuple[Line, str], Seeds]
"""(line, model) -> its cells."""

MEASURED = (*COST_COLUMNS, *SELECTION_COLUMNS)


def cells_by_line(table: pl.DataFrame) -> Cells:
    """The cells of each trained line and model, in table order; a cell that the table lacks is there without any cost.

    table: rows of one experiment, of scores.parquet or of cells.parquet.
    """
    trained = table.filter(pl.col("seed").is_not_null()).unique("cell", keep="first", maintain_order=True)
    seeds = trained["seed"].unique(maintain_order=True)
    train_sets = trained["train_set"].unique(maintain_order=True).to_list()
    models = trained["model"].unique(maintain_order=True).to_list()
    found: Cells = {}
    for row in trained.iter_rows(named=True):
        found.setdefault((line_of(row, row["train_set"]), row["model"]), {})[row["seed"]] = row
    for by_seed in found.values():
        absent = next(iter(by_seed.values())) | {"cell": "", "status": "not run"} | dict.fromkeys(MEASURED)
        for seed in seeds:
            by_seed.setdefault(seed, absent | {"seed": seed})
    order = in_table_order(list(dict.fromkeys(line for line, _ in found)), train_sets)
    return {(line, model): found[line, model] for line in order for model in models if (line, model) in found}


def full_data(cells: Cells, line: Line, model: str) -> Seeds:
    """The cells that trained on everything, in the same way as the line if there are such; empty if there are none."""
    candidates = {
        other.training: by_seed
        for (other, name), by_seed in cells.items()
        if (other.train_set, name, other.method) == (line.train_set, model, "full")
    }
    return candidates.get(line.training) or candidates.get("") or {}


def mean_cost(by_seed: Seeds, *columns: str) -> float | None:
    """Mean over the seeds of the sum of the columns; None if any seed lacks one, or there is no seed."""
    sums = [sum_of(row, columns) for row in by_seed.values()]
    return None if None in sums or not sums else fmean(value for value in sums if value is not None)


def cost_share(by_seed: Seeds, full: Seeds, column: str) -> float | None:
    """Mean over the seeds of the quotient with the full-data cell of the same seed; None if any is missing."""
    quotients = []
    for seed, row in by_seed.items():
        part, whole = sum_of(row, (column,)), sum_of(full[seed], (column,)) if seed in full else None
        if part is None or not whole:
            return None
        quotients.append(part / whole)
    return fmean(quotients) if quotients else None


def available_share(by_seed: Seeds, column: str, available: str) -> float | None:
    """Mean over the seeds of what was kept (`column`) over what there was to choose from (`available`), all epochs."""
    quotients = []
    for row in by_seed.values():
        part, whole = sum_of(row, (column,)), sum_of(row, (available,))
        if part is None or not whole:
            return None
        quotients.append(part / whole)
    return fmean(quotients) if quotients else None


def sum_of(row: dict[str, Any], columns: tuple[str, ...]) -> float | None:
    """Sum of the columns; None where one is not reported, and for a training that diverged, which ended early."""
    values: list[float] = [row[column] for column in columns if row[column] is not None]
    return sum(values) if len(values) == len(columns) and row["status"] != "diverged" else None


def budget_label(line: Line) -> str:
    """`25% x 50%`, or nothing for a model without training."""
    if line.sample_ratio is None or line.token_ratio is None:
        return ""
    return f"{percent(line.sample_ratio)} x {percent(line.token_ratio)}"


def flops_text(value: float | None) -> str:
    """1.23e13; 0 where nothing was trained."""
    if not value:
        return "–" if value is None else "0"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"
