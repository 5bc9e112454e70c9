"""Rows of a train set that cannot be used: counted by reason, the first of them listed, refused if they are many."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from qtuning.data.remedies import remedy_of
from qtuning.data.rows import Reason
from qtuning.errors import UserError
from qtuning.experiment.cell import TrainSet

LISTED = 1000  # bad rows that the report lists


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why. sample: number of the row in the source, from 0."""

    sample: int
    file: str
    line: int
    reason: Reason
    detail: str


@dataclass
class BadRows:
    """What is remembered of all bad rows of a train set, however many there are.

    read: rows of the source, good and bad. listed: the first LISTED bad rows.
    """

    read: int
    counts: Counter[Reason] = field(default_factory=Counter)
    listed: list[BadRow] = field(default_factory=list)

    def add(self, rows: Iterable[BadRow]) -> None:
        """Take in bad rows; call it in the order of the source."""
        for row in rows:
            self.counts[row.reason] += 1
            if len(self.listed) < LISTED:
                self.listed.append(row)

    def check(self, train_set: TrainSet) -> None:
        """UserError if there are no rows, if none is usable, or if too large a share is not."""
        if self.read == 0:
            raise UserError(f"train set {train_set.name}: its source has no rows")
        bad = self.counts.total()
        share = bad / self.read
        if bad < self.read and share <= train_set.bad_rows:
            return
        counts = ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())
        first = "; ".join(
            f"{row.file}:{row.line} {row.reason}" + (f" ({row.detail})" if row.detail else "")
            for row in self.listed[:3]
        )
        remedy = remedy_of(self.counts.most_common(1)[0][0])
        if bad < self.read:
            allowed = f"{100 * train_set.bad_rows:.3g} % are allowed"
            what = f"{bad} of {self.read} rows ({100 * share:.3g} %) are unusable, {allowed}"
            remedy += ", or raise bad_rows"
        else:
            what = f"none of its {self.read} rows is usable"
        raise UserError(f"train set {train_set.name}: {what}: {counts}; first: {first}; {remedy}")
