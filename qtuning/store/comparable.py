"""Checks that scores may stand in one table: the same questions, asked by the same backend in the same way.

Cells that were evaluated in different ways are refused. Cells that were trained with different package versions only
get a warning at the top of the table: to evaluate again takes minutes, to train again may take GPU-weeks. Changes of
our own code that change weights need no check here, because they change the cell's id.
"""

import json
from collections import defaultdict

import polars as pl

from qtuning.errors import UserError

SHOWN = 3
"""How many cells a message names of a group before it counts the rest."""


def check_comparable(table: pl.DataFrame) -> None:
    """Refuse an experiment whose evaluated cells differ in anything but the model that answered.

    Compared are every entry of the backend (name, versions), every setting of the evaluation (batch size, dtype, ...),
    and, for each benchmark, the number and the digest of the items. Scores move with each of these, so a mixed table
    would show them as effects of a pruner.

    Raises UserError naming the cells on each side.
    """
    for (experiment,), rows in table.filter(pl.col("status") == "done").group_by("experiment", maintain_order=True):
        problems = [
            f"experiment {experiment}: {aspect} differs between cells, so they cannot stand in one table: "
            f"{_describe(sides)}; evaluate the odd ones again (delete their evaluation folders)"
            for aspect, sides in _aspects(rows).items()
            if len(sides) > 1
        ]
        if problems:
            raise UserError("\n".join(problems))


def training_warnings(scores: pl.DataFrame) -> list[str]:
    """One sentence per package whose version differs between the trained cells, naming the cells on each side.

    The git revision is left out: it moves with every commit. The notes of a table list it.
    """
    trained = scores.filter(pl.col("versions").is_not_null()).unique("cell", keep="first", maintain_order=True)
    versions = {row["cell"]: json.loads(row["versions"]) for row in trained.iter_rows(named=True)}
    warnings = []
    for package in sorted({name for found in versions.values() for name in found} - {"git"}):
        sides: dict[str, dict[str, None]] = defaultdict(dict)
        for cell, found in versions.items():
            sides[str(found.get(package, "not given"))][cell] = None
        if len(sides) > 1:
            warnings.append(
                f"Cells were trained with different versions of {package}, so a difference between them may be the "
                f"version's: {_describe(sides)}."
            )
    return warnings


def _aspects(rows: pl.DataFrame) -> dict[str, dict[str, dict[str, None]]]:
    """Aspect -> value -> the cells that have it."""
    headline = rows.filter(pl.col("headline"))
    values: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))  # dict: an ordered set
    for name, column in (("backend", "backend"), ("evaluation", "evaluation_config")):
        settings = {row["cell"]: json.loads(row[column]) for row in headline.iter_rows(named=True)}
        for key in dict.fromkeys(key for of_cell in settings.values() for key in of_cell):
            for cell, of_cell in settings.items():
                values[f"{name} {key}"][str(of_cell.get(key, "not given"))][cell] = None
    for row in headline.iter_rows(named=True):
        benchmark, cell = row["benchmark"], row["cell"]
        values[f"headline metric of {benchmark}"][row["metric"]][cell] = None
        values[f"number of {benchmark} items"][str(row["items"])][cell] = None
        values[f"digest of the {benchmark} items"][row["digest"][:16]][cell] = None
    return values


def _describe(sides: dict[str, dict[str, None]]) -> str:
    """`0.4.13 in a, b and 7 more; 0.4.12 in c`. All cells of the rarer values are named: they must be repeated."""
    common = max(sides, key=lambda value: len(sides[value]))
    parts = []
    for value, cells in sides.items():
        named = list(cells)[:SHOWN] if value == common else list(cells)
        more = f" and {len(cells) - len(named)} more" if len(cells) > len(named) else ""
        parts.append(f"{value} in {', '.join(named)}{more}")
    return "; ".join(parts)
