"""Marks of significance beside scores, from the comparisons that the statistics made."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from qtuning.errors import UserError
from qtuning.tables.summary import Line

KEY = ("train_set", "model", "method", "options", "training", "sample_ratio", "token_ratio", "benchmark")
RANDOM, FULL, UNTRAINED = "†", "‡", "§"


SYMBOLS = {"full": FULL, "zero-shot": UNTRAINED}


@dataclass(frozen=True)
class Marks:
    """Which scores differ significantly, and from what.

    found: place of a score -> `†`, `‡`, `§` or several. legend: what the marks mean; empty where nothing was compared.
    """

    found: dict[tuple[object, ...], str] = field(default_factory=dict)
    legend: tuple[str, ...] = ()

    def of(self, line: Line, model: str, benchmark: str) -> str:
        """The marks of one score, or an empty text."""
        ratios = (line.sample_ratio, line.token_ratio)
        place = (line.train_set, model, line.method, line.options, line.training, *ratios, benchmark)
        return self.found.get(place, "")


def read_marks(comparisons: pl.DataFrame | None, experiment: str) -> Marks:
    """The marks of an experiment from a frame of comparisons (one row per score and what it is compared with).

    `against` is `full`, `zero-shot` or the name of the random method at the same budget; `significant` holds after
    correction. Differences from zero-shot are marked where `mark` says so (comparisons.py).
    Raises UserError where a column is missing.
    """
    if comparisons is None:
        return Marks()
    missing = {"experiment", *KEY, "against", "significant"} - set(comparisons.columns)
    if missing:
        raise UserError(f"comparisons: column(s) {', '.join(sorted(missing))} missing; have them made again")
    rows = comparisons.filter(pl.col("experiment") == experiment).to_dicts()
    if not rows:
        return Marks()
    found: dict[tuple[object, ...], set[str]] = {}
    for row in rows:
        untrained = row["against"] == "zero-shot"
        if row["significant"] and not (untrained and not row.get("mark")):
            place = tuple(row[name] for name in KEY)
            found.setdefault(place, set()).add(SYMBOLS.get(str(row["against"]), RANDOM))
    marks = {place: "".join(sorted(marks)) for place, marks in found.items()}
    return Marks(marks, tuple(_legend(rows)))


def _legend(rows: Sequence[dict[str, object]]) -> list[str]:
    """What the marks mean, how many comparisons were tested, and what is to be known of the tested ones."""
    tested = [row for row in rows if row.get("p_holm", row["significant"]) is not None]
    trained = [row for row in tested if row["against"] != "zero-shot"]
    legend = [
        f"{RANDOM} differs significantly from random + random at the same budget, {FULL} from the full data: two-sided "
        f"at 5%, after Holm's correction ({_count(trained)} tested, the others are not marked); no mark is no proof of "
        "equality."
    ]
    if any(row["against"] == "zero-shot" and row["significant"] and row.get("mark") for row in tested):
        legend.append(
            f"{UNTRAINED} differs significantly from the model without training, tested likewise in a family of its "
            f"own ({_count([row for row in tested if row not in trained])})."
        )
        trained = tested
    notes = list(dict.fromkeys(str(row["note"]) for row in trained if row.get("note")))
    return legend + [f"Significance: {note}." for note in notes]


def _count(rows: Sequence[object]) -> str:
    return f"{len(rows)} comparison{'' if len(rows) == 1 else 's'}"
