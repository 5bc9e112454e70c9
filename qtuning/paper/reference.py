"""The published scores of tables 1 and 2: `qtuning/assets/paper/reference_scores.csv`, read strictly, kept exact."""

import csv
import importlib.resources
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qtuning.errors import UserError
from qtuning.experiment.yaml_files import explain
from qtuning.paper.measured import Budget, Measured, Row, change
from qtuning.tables.summary import AVERAGE

PAPER = Path(str(importlib.resources.files("qtuning"))) / "assets" / "paper"
"""What the package ships of the paper: its scores and its claims."""

Percent = Annotated[Decimal, Field(ge=0, le=100)]
Word = Annotated[str, Field(min_length=1)]


class _Line(BaseModel):
    """A line of the file. Scores and ratios in per cent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: int
    train_set: Word
    setting: Literal["pruned", "full", "zero_shot"]
    sample_ratio: Percent
    token_ratio: Percent
    model: Word
    sample_pruner: Word
    token_pruner: Word
    benchmark: Word
    score: Percent


@dataclass(frozen=True)
class Published:
    """Printed scores by row and benchmark (`avg` is one).

    rounding: half a unit of the last printed digit, in percentage points; a printed 36.47 stands for any true value
    within 36.47 - rounding and 36.47 + rounding. train_sets: of each table.
    """

    scores: dict[Row, dict[str, Decimal]]
    rounding: Fraction
    train_sets: dict[int, str]

    def rows(self) -> list[Row]:
        """Every row, in the order of the file."""
        return list(self.scores)

    def benchmarks(self, row: Row) -> list[str]:
        """Benchmarks of a row without the average."""
        return [benchmark for benchmark in self.scores.get(row, {}) if benchmark != AVERAGE]

    def score(self, row: Row, benchmark: str) -> Fraction | None:
        """A printed score, exact; None where it is not published."""
        value = self.scores.get(row, {}).get(benchmark)
        return None if value is None else Fraction(value)

    def missing(self, row: Row, benchmark: str) -> str | None:
        """Why there is no such score; None if there is one."""
        return None if self.score(row, benchmark) is not None else f"{row.describe()}, {benchmark}: not published"

    def identical(self, row: Row, other: Row) -> bool:
        """Whether two rows have the same printed score on every benchmark."""
        return all(self.score(row, benchmark) == self.score(other, benchmark) for benchmark in self.benchmarks(row))

    def figure(self, how: str, row: Row, benchmark: str, against: Row | None = None) -> Measured:
        """A score, or its change from another, with the range that the rounding of the printed figures allows."""
        score, other = self.score(row, benchmark), None if against is None else self.score(against, benchmark)
        assert score is not None, "the caller looks for missing scores first"
        if other is None:
            return Measured(score, score - self.rounding, score + self.rounding)
        low = change(how, score - self.rounding, other + self.rounding)
        high = change(how, score + self.rounding, other - self.rounding)
        return Measured(change(how, score, other), low, high)


def read_published(path: Path = PAPER / "reference_scores.csv") -> Published:
    """Read a file of published scores; UserError names file and line of what is wrong."""
    path = Path(path)
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            lines = [(reader.line_num, values) for values in reader]
            header = list(reader.fieldnames or [])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    expected = list(_Line.model_fields)
    if sorted(header) != sorted(expected):
        raise UserError(f"{path}: line 1: columns {', '.join(header)}; expected {', '.join(expected)}")
    return _assemble(path, [(number, _validated(path, number, values)) for number, values in lines])


def _validated(path: Path, number: int, values: dict[str, str]) -> _Line:
    if None in values or None in values.values():  # what DictReader makes of a line that is too long or too short
        raise UserError(f"{path}: line {number}: not as many values as there are columns")
    try:
        return _Line.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(explain(error, f"{path}: line {number}", _Line))) from None


def _assemble(path: Path, lines: Iterable[tuple[int, _Line]]) -> Published:
    scores: dict[Row, dict[str, Decimal]] = {}
    train_sets: dict[int, str] = {}
    decimals = 0
    for number, line in lines:
        row = Row(
            table=line.table,
            model=line.model,
            setting=line.setting,
            budget=Budget(line.sample_ratio, line.token_ratio),
            sample_pruner=line.sample_pruner,
            token_pruner=line.token_pruner,
        )
        if line.benchmark in scores.setdefault(row, {}):
            raise UserError(f"{path}: line {number}: {row.describe()}, {line.benchmark}: is there twice")
        if train_sets.setdefault(line.table, line.train_set) != line.train_set:
            raise UserError(f"{path}: line {number}: train_set = {line.train_set!r}: table {line.table} has another")
        scores[row][line.benchmark] = line.score
        decimals = max(decimals, -int(line.score.as_tuple().exponent))
    if not scores:
        raise UserError(f"{path}: holds no scores")
    # trailing zeros are not written, so the longest score tells how many digits were printed
    return Published(scores, Fraction(1, 2 * 10**decimals), train_sets)
