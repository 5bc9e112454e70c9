"""Ratings of the samples of a train set: columns of the data itself, or of a side file, joined row by row.

A row of the side file belongs to the row of the data at the same place, unusable rows counted. So dropped rows and
`limit_train` change nothing. Where both have an `id`, the ids must agree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from qtuning.data.containers import is_csv, read_file
from qtuning.data.rows import Row
from qtuning.data.sources import describe_file, locate
from qtuning.errors import UserError
from qtuning.experiment.cell import RatingColumn, TrainSet

COLUMNS: tuple[RatingColumn, ...] = get_args(RatingColumn)


@dataclass(frozen=True)
class Ratings:
    """The ratings that a train set gives. columns: by whose name, and what the column is called.

    rated: the rows of the side file, all of them; None if the ratings are columns of the data.
    """

    train_set: TrainSet
    columns: Mapping[RatingColumn, str]
    rated: Sequence[Row] | None = None

    def of(self, rows: Mapping[int, Row]) -> dict[RatingColumn, dict[int, float]]:
        """column -> row -> value; empty if the train set gives none.

        rows: usable rows by their number in the source, from 0. UserError in one line if a value is missing, or if the
        file rates other rows.
        """
        if self.rated is None:
            return {name: _column(self.train_set, column, rows) for name, column in self.columns.items()}
        chosen = {number: self.rated[number] for number in rows}
        for number, row in rows.items():
            theirs, ours = (_id(found.value) for found in (chosen[number], row))
            if theirs is not None and ours is not None and theirs != ours:
                other = chosen[number]
                where = f"{other.file}:{other.line} rates id {theirs!r}, but {row.file}:{row.line} has id"
                what = f"{where} {ours!r}; expected a row for each row of the data, in order"
                raise _problem(self.train_set, what)
        return {name: _column(self.train_set, column, chosen) for name, column in self.columns.items()}


def open_ratings(train_set: TrainSet, read: int, data_dir: Path | None) -> Ratings:
    """What a train set gives. read: how many rows the source has.

    UserError in one line if the file or a column is missing, or if the file has more or fewer rows.
    """
    if train_set.ratings is None:
        named = {name: column for name in COLUMNS if (column := train_set.columns.get(name)) is not None}
        return Ratings(train_set, named)
    try:
        files = locate(train_set.ratings, data_dir=data_dir)
    except UserError as error:
        raise _problem(train_set, f"{error}; it shall have a row for each row of the data (docs/data.md)") from None
    path, rated = files[0], [row for file in files for row in read_file(file)]
    if len(rated) != read:
        raise _problem(
            train_set, f"{path} has {len(rated)} rows, the data has {read}; expected a row for each, in order"
        )
    first = rated[0].value if rated else None
    found = {
        name: column
        for name in COLUMNS
        if (column := train_set.columns.get(name, name)) in (first if isinstance(first, Mapping) else {})
        or name in train_set.columns
    }
    if not found:
        given = ", ".join(map(str, first)) if isinstance(first, Mapping) else "none"
        raise _problem(
            train_set, f"{path} has the columns {given}; expected {', '.join(COLUMNS)}, or others named under `columns`"
        )
    return Ratings(train_set, found, rated)


def describe_ratings(train_set: TrainSet, data_dir: Path | None) -> dict[str, Any] | None:
    """The side file as configured, and its SHA-256; None without one."""
    return None if train_set.ratings is None else describe_file(train_set.ratings, data_dir)


def _column(train_set: TrainSet, column: str, rows: Mapping[int, Row]) -> dict[int, float]:
    values = {}
    for number, row in rows.items():
        value = row.value.get(column) if isinstance(row.value, Mapping) else None
        if isinstance(value, str) and is_csv(row.file):
            value = _number(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            shown = "nothing" if value is None else repr(value)[:40]
            where = f"{row.file}:{row.line}: column {column!r} (row {number + 1} of the data)"
            raise _problem(train_set, f"{where} holds {shown}; expected a number")
        values[number] = float(value)
    return values


def _number(cell: str) -> float | str | None:
    """The number in a cell of a CSV file, whose cells are all texts; None for an empty one."""
    try:
        return float(cell) if cell.strip() else None
    except ValueError:
        return cell


def _problem(train_set: TrainSet, what: str) -> UserError:
    return UserError(f"train set {train_set.name}: ratings: {what}")


def _id(value: object) -> str | None:
    found = value.get("id") if isinstance(value, Mapping) else None
    return None if found is None else str(found)
