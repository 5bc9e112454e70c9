"""What claims are made of: rows of a table, figures with a range, and where these come from (published, or ours)."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, NamedTuple, Protocol

Number = Fraction | float
Setting = Literal["pruned", "full", "zero_shot"]


class Budget(NamedTuple):
    """Share of the samples and of their tokens, in per cent."""

    samples: Decimal
    tokens: Decimal

    def __str__(self) -> str:
        return f"{float(self.samples):g}x{float(self.tokens):g}"


@dataclass(frozen=True)
class Row:
    """One row of a table for one model: a method at a budget, under the published names.

    table: number of the paper's table; the name of an experiment of ours that is not one.
    """

    table: int | str
    model: str
    setting: Setting
    budget: Budget
    sample_pruner: str
    token_pruner: str

    @property
    def method(self) -> str:
        """`Q-Tuning`, `longest + ppl`, `full data`, `zero-shot`."""
        if self.setting != "pruned":
            return "full data" if self.setting == "full" else "zero-shot"
        return "Q-Tuning" if self.q_tuning else f"{self.sample_pruner} + {self.token_pruner}"

    @property
    def q_tuning(self) -> bool:
        """Whether this is the method that the paper proposes."""
        return self.sample_pruner == "q-tuning"

    def describe(self) -> str:
        """`table 2, llama3-8b, 50x70, Q-Tuning`."""
        budget = f", {self.budget}" if self.setting == "pruned" else ""
        return f"{self.where}, {self.model}{budget}, {self.method}"

    @property
    def where(self) -> str:
        """`table 2`, or the name of an experiment."""
        return f"table {self.table}" if isinstance(self.table, int) else self.table


@dataclass(frozen=True)
class Measured:
    """A figure and the range in which its true value may lie; a range of None is not known, and `unknown` says why.

    label: what the range is; rests_on: what it was computed from, e.g. `2 seeds`, or empty.
    """

    value: Number
    low: Number | None
    high: Number | None
    unknown: str = ""
    label: str = "range"
    rests_on: str = ""


class Source(Protocol):
    """Scores under the published names. Two of them: `reference.Published` and `ours.Ours`."""

    def rows(self) -> list[Row]: ...

    def benchmarks(self, row: Row) -> list[str]: ...

    def score(self, row: Row, benchmark: str) -> Number | None: ...

    def missing(self, row: Row, benchmark: str) -> str | None: ...

    def identical(self, row: Row, other: Row) -> bool: ...

    def figure(self, how: str, row: Row, benchmark: str, against: Row | None = None) -> Measured: ...


def change(how: str, score: Number, other: Number) -> Number:
    """score - other in percentage points; `relative`: in per cent of `other`."""
    if how != "relative":
        return score - other
    # a benchmark that nothing solves has no relative change; infinity compares as larger than any claim
    return 100 * (score - other) / other if other else float("inf")
