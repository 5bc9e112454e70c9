"""The paper's numbers beside ours: per number whether they agree, or why that cannot be said."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import polars as pl

from qtuning.paper.published import place, published_place
from qtuning.paper.refusals import Refusals, refusals, refused_amount
from qtuning.tables.labels import hole_text
from qtuning.tables.lines import Cells, cells_by_line
from qtuning.tables.summary import AVERAGE, Entry, Hole, Line, Summary, summarise

Status = Literal["matched", "off", "not run", "not comparable"]

CONFIDENCE = 0.95

INTERVAL = (
    "Interval: where one more run of ours would lie in 95 of 100 cases, mean ± t sd sqrt(1 + 1/n) over n seeds, since "
    "the published number is such a single run. With one seed only the choice of items is known: mean ± 1.96 standard "
    "errors of so many right or wrong answers."
)


@dataclass(frozen=True)
class Number:
    """A published score and ours. row: as published; low, high: interval of ours, in per cent.

    reason: why there is no verdict; empty for `matched` and `off`. has_model: whether our experiment has the model.
    """

    row: dict[str, Any]
    status: Status
    reason: str = ""
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    has_model: bool = True

    @property
    def difference(self) -> float | None:
        """Ours minus published."""
        return None if self.ours is None else self.ours - float(self.row["score"])


def versus_paper(scores: pl.DataFrame, published: pl.DataFrame, table: int) -> list[Number]:
    """Every published number of a table with its verdict, in the order of the publication.

    scores: one experiment; published: see published.py. Ours are the rows with default options and readings.
    """
    summary = summarise(scores)
    cells = cells_by_line(scores)
    rows = published.filter(pl.col("table") == table).to_dicts()
    refused = refusals(scores, rows)
    return [_number(row, summary, cells, refused) for row in rows]


def interval(summary: Summary, line: Line, model: str, benchmark: str) -> tuple[float, float] | None:
    """Where a further run would lie (INTERVAL), in per cent, within 0 and 100; None for a hole.

    The items are the same in every run, so over seeds they add nothing; with one seed nothing but them is known, and
    the variance of a right or wrong answer, p (1 - p), is the largest that a graded one (F1) can have.
    """
    entry = summary.entries.get((line, model, benchmark))
    if not isinstance(entry, Entry):
        return None
    n = len(entry.values)
    if entry.sd is not None:
        from scipy.stats import t

        half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * entry.sd * sqrt(1 + 1 / n)
    else:
        from scipy.stats import norm

        parts = [name for name in summary.benchmarks if name != AVERAGE] if benchmark == AVERAGE else [benchmark]
        found = [summary.entries[line, model, part] for part in parts]
        variances = [
            part.mean / 100 * (1 - part.mean / 100) / part.items
            for part in found
            if isinstance(part, Entry) and part.items
        ]
        half = 100 * float(norm.ppf((1 + CONFIDENCE) / 2)) * sqrt(sum(variances)) / len(variances)
    return max(0.0, entry.mean - half), min(100.0, entry.mean + half)


def _number(row: dict[str, Any], summary: Summary, cells: Cells, refused: Refusals) -> Number:
    model, benchmark = row["model"], row["benchmark"]
    if model not in summary.models:
        reason = "; ".join(filter(None, (f"the model is {refused.models}", refused.everything)))
        return Number(row, "not comparable", reason, has_model=False)
    candidates = [line for line in summary.lines if place(line) == published_place(row)]
    line = next((line for line in candidates if not line.variant), None)
    if line is None:
        variants = ", ".join(line.variant for line in candidates)
        if variants:
            return Number(row, "not comparable", f"run only with other options or readings: {variants}")
        return Number(row, "not run", "not part of this experiment")
    entry = summary.entries.get((line, model, benchmark))
    if entry is None:
        return Number(row, "not run", "not part of this experiment")
    if isinstance(entry, Hole):
        return Number(row, "not run", hole_text(entry))
    bounds = interval(summary, line, model, benchmark)
    assert bounds is not None  # it is no hole
    low, high = bounds
    reasons = [refused.everything, refused.benchmarks.get(benchmark, ""), _amount(line, model, row, cells)]
    reason = "; ".join(filter(None, reasons))
    # compared as printed: two decimals
    inside = round(low, 2) <= row["score"] <= round(high, 2)
    status: Status = "not comparable" if reason else "matched" if inside else "off"
    return Number(row, status, reason, entry.mean, low, high, len(entry.values))


def _amount(line: Line, model: str, row: dict[str, Any], cells: Cells) -> str:
    """What is wrong with the number of samples that the cells of a line could choose from."""
    if line.method == "zero-shot":
        return ""
    offered = [cell["samples_available"] for cell in cells.get((line, model), {}).values()]
    return refused_amount(offered, row["train_set"])


def absent(numbers: Sequence[Number]) -> list[tuple[list[str], int, str]]:
    """(models, how many numbers, reason) of the models that the experiment does not have."""
    groups: dict[str, list[str]] = {}
    for number in numbers:
        if not number.has_model:
            groups.setdefault(number.reason, []).append(number.row["model"])
    return [(list(dict.fromkeys(models)), len(models), reason) for reason, models in groups.items()]


def tidy_paper(numbers: Sequence[Number]) -> pl.DataFrame:
    """One row per published number; those of models that we do not have are one row a model and reason (`numbers`)."""
    rows = []
    for number in numbers:
        if not number.has_model:
            continue
        row = {name: value for name, value in number.row.items() if name != "score"}
        rows.append(
            row
            | {"published": number.row["score"], "ours": number.ours, "low": number.low, "high": number.high}
            | {"difference": number.difference, "seeds": number.seeds, "numbers": 1}
            | {"status": number.status, "reason": number.reason or None}
        )
    for models, count, reason in absent(numbers):
        some = numbers[0].row
        rows.append(
            {"table": some["table"], "train_set": some["train_set"], "model": " ".join(models), "numbers": count}
            | {"status": "not comparable", "reason": reason}
        )
    return pl.DataFrame(rows, schema=CSV_SCHEMA).with_columns(pl.selectors.float().round(6))


CSV_SCHEMA: dict[str, pl.DataType] = {
    "table": pl.Int64(),
    **dict.fromkeys(("train_set", "model", "setting"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("sample_pruner", "token_pruner", "benchmark"), pl.String()),
    **dict.fromkeys(("published", "ours", "low", "high", "difference"), pl.Float64()),
    **dict.fromkeys(("seeds", "numbers"), pl.Int64()),
    **dict.fromkeys(("status", "reason"), pl.String()),
}
"""Columns of the CSV beside the paper, in order; ratios in per cent, as published."""
