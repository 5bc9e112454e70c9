"""The page of the paper's numbers beside ours: whether each of ours agrees, or why no verdict is possible.

`compare_with_paper` judges every published number of a table. `paper_editions` gives the page and the CSV files.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import polars as pl

from qtuning.paper.published import (
    EPOCHS,
    MODEL_LABEL,
    NOT_PUBLISHED,
    TRAIN_SAMPLES,
    PaperRow,
    Published,
    count_impossible,
    place_of,
    read_published,
    table_number,
)
from qtuning.paper.signs import Sign, compare_signs, sign_table, tidy_signs
from qtuning.statistics.summary import AVERAGE, Entry, Hole, Summary
from qtuning.store.lines import Line
from qtuning.tables.html import render_html
from qtuning.tables.labels import benchmark_label, percent, signed
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Block, Column, Field, Footnotes, Page, Table
from qtuning.tables.write import Edition

Status = Literal["matched", "off", "not run", "not comparable"]

CONFIDENCE = 0.95

LOST = 0.02
"""Share of the samples that may be missing: unusable rows of a train set."""

OTHER_ITEMS = 0.25
"""Share of a benchmark's published scores that our number of items may not be able to give; typing errors happen."""

INTERVAL = (
    "Interval: where one more run of ours would lie in 95 of 100 cases, mean ± t sd sqrt(1 + 1/n) over n seeds, since "
    "the published number is such a single run. With one seed only the choice of items is known: mean ± 1.96 standard "
    "errors of so many right or wrong answers."
)

NUMBER_SCHEMA: dict[str, pl.DataType] = {
    "table": pl.Int64(),
    **dict.fromkeys(("train_set", "model", "setting"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("sample_pruner", "token_pruner", "benchmark"), pl.String()),
    **dict.fromkeys(("published", "ours", "low", "high", "difference"), pl.Float64()),
    **dict.fromkeys(("seeds", "numbers"), pl.Int64()),
    **dict.fromkeys(("status", "reason"), pl.String()),
}
"""Columns of `tidy_numbers`, in order; ratios in per cent, as published."""


@dataclass(frozen=True)
class Number:
    """A published score and ours, in per cent.

    ours: the mean of `values`, one for each seed; low, high: its interval (INTERVAL); line: our row. All four are
    absent where we have no score. reason: why there is no verdict; empty for `matched` and `off`. has_model: whether
    our experiment has the model.
    """

    row: PaperRow
    benchmark: str
    published: float
    status: Status
    reason: str = ""
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()
    has_model: bool = True
    line: Line | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus published."""
        return None if self.ours is None else self.ours - self.published


@dataclass(frozen=True)
class Refusals:
    """Why numbers cannot be compared: all of the experiment's, or those of one benchmark. models: labels of ours."""

    everything: str
    benchmarks: dict[str, str]
    models: str


def compare_with_paper(summary: Summary, published: Published, table: int) -> list[Number]:
    """Every published number of a table beside ours, in the order of the publication.

    Ours are the rows with default options and readings.
    """
    refused = _refusals(summary, published, table)
    return [
        _number(row, benchmark, float(score), summary, refused)
        for row in published.rows(table)
        for benchmark, score in published.scores[row].items()
    ]


def _number(row: PaperRow, benchmark: str, score: float, summary: Summary, refused: Refusals) -> Number:
    def without(status: Status, reason: str, has_model: bool = True) -> Number:
        return Number(row, benchmark, score, status, reason, has_model=has_model)

    if row.model not in summary.models:
        reasons = (f"the model is {refused.models}", refused.everything)
        return without("not comparable", "; ".join(filter(None, reasons)), has_model=False)
    candidates = [line for line in summary.lines if place_of(line) == row.place]
    line = next((line for line in candidates if not line.variant), None)
    if line is None and candidates:
        variants = ", ".join(line.variant for line in candidates)
        return without("not comparable", f"run only with other options or readings: {variants}")
    entry = None if line is None else summary.entries.get((line, row.model, benchmark))
    if line is None or entry is None:
        return without("not run", "not part of this experiment")
    if isinstance(entry, Hole):
        return without("not run", str(entry))
    low, high = prediction_interval(summary, line, row.model, benchmark)
    reason = "; ".join(
        filter(None, (refused.everything, refused.benchmarks.get(benchmark), _refused_amount(line, row, summary)))
    )
    # compared as printed: two decimals
    inside = round(low, 2) <= score <= round(high, 2)
    status: Status = "not comparable" if reason else "matched" if inside else "off"
    return Number(row, benchmark, score, status, reason, entry.mean, low, high, entry.values, line=line)


def prediction_interval(summary: Summary, line: Line, model: str, benchmark: str) -> tuple[float, float]:
    """Where a further run would lie (INTERVAL), in per cent, within 0 and 100. The entry must be no hole.

    Every run answers the same items, so they add no variance over seeds. With one seed only their variance is known:
    p (1 - p) for a right or wrong answer, which is also the largest variance that a graded answer (F1) can have.
    """
    # imported here, since it takes a second
    from scipy.stats import norm, t

    entry = summary.entries[line, model, benchmark]
    assert isinstance(entry, Entry)
    n = len(entry.values)
    if entry.sd is not None:
        half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * entry.sd * sqrt(1 + 1 / n)
    else:
        parts = [name for name in summary.benchmarks if name != AVERAGE] if benchmark == AVERAGE else [benchmark]
        found = [summary.entries[line, model, part] for part in parts]
        variances = [
            part.mean / 100 * (1 - part.mean / 100) / part.items
            for part in found
            if isinstance(part, Entry) and part.items
        ]
        half = 100 * float(norm.ppf((1 + CONFIDENCE) / 2)) * sqrt(sum(variances)) / len(variances)
    return max(0.0, entry.mean - half), min(100.0, entry.mean + half)


def _refusals(summary: Summary, published: Published, table: int) -> Refusals:
    """What of an experiment's settings is not the paper's: other questions, shots, items, benchmarks or train set."""
    scores = summary.scores
    config = json.loads(scores["evaluation_config"][0] or "{}")
    reasons = []
    if config.get("source") == "mini-world":
        reasons.append("the questions are those of the mini world")
    if config.get("limit") is not None:
        reasons.append(f"limit: the first {config['limit']} items of each benchmark")
    if config.get("fewshot") is not None:
        reasons.append(f"fewshot: {config['fewshot']} instead of each benchmark's own")
    reasons += [f"setting unknown: {name}" for name in ("source", "limit", "fewshot") if name not in config]
    trained = summary.train_sets
    if trained and published.rows(table)[0].train_set not in trained:
        reasons.insert(0, f"the train set is {', '.join(trained.values())}")
    benchmarks = {}
    for benchmark in published.benchmarks(table):
        found = scores.filter((pl.col("benchmark") == benchmark) & pl.col("headline") & (pl.col("status") == "done"))
        # F1 is graded, so that any value is possible
        if found.is_empty() or found["metric"][0] == "f1":
            continue
        items = int(found["items"][0])
        rows = [published.scores[row] for row in published.rows(table)]
        printed = [float(row[benchmark]) for row in rows if benchmark in row]
        if (count := count_impossible(printed, items)) > OTHER_ITEMS * len(printed):
            benchmarks[benchmark] = (
                f"benchmark split: {count} of the {len(printed)} published {benchmark_label(benchmark)} scores are no "
                f"share of {items:,} items"
            )
    ours = [name for name in summary.benchmarks if name != AVERAGE]
    if set(ours) != set(published.benchmarks(table)):
        benchmarks[AVERAGE] = f"our average is over {', '.join(map(benchmark_label, ours))}"
    elif benchmarks:
        benchmarks[AVERAGE] = (
            f"the average holds {', '.join(map(benchmark_label, benchmarks))}: another benchmark split"
        )
    return Refusals("; ".join(reasons), benchmarks, ", ".join(summary.models.values()))


def _refused_amount(line: Line, row: PaperRow, summary: Summary) -> str:
    """What is wrong with the number of samples that the cells of a line could choose from; else empty."""
    if line.method == "zero-shot" or row.train_set not in TRAIN_SAMPLES:
        return ""
    offered = [cell["samples_available"] for cell in summary.cells.get((line, row.model), {}).values()]
    known = [value for value in offered if value is not None]
    if not known:
        return "setting unknown: how many samples it was trained on"
    wanted = EPOCHS * TRAIN_SAMPLES[row.train_set]
    if min(known) < (1 - LOST) * wanted or max(known) > wanted:
        return f"scale: {min(known):,.0f} samples in all epochs, where {EPOCHS} epochs of the whole set have {wanted:,}"
    return ""


def tidy_numbers(numbers: Sequence[Number]) -> pl.DataFrame:
    """One row per published number; those of models that we do not have are one row a reason (`numbers`: how many)."""
    rows = []
    for number in numbers:
        if number.has_model:
            row = {name: value for name, value in vars(number.row).items() if name in NUMBER_SCHEMA}
            rows.append(
                row
                | {name: float(row[name]) for name in ("sample_ratio", "token_ratio")}
                | {"benchmark": number.benchmark, "published": number.published, "ours": number.ours}
                | {"low": number.low, "high": number.high, "difference": number.difference}
                | {"seeds": len(number.values), "numbers": 1, "status": number.status, "reason": number.reason or None}
            )
    for models, count, reason in _absent(numbers):
        some = numbers[0].row
        rows.append(
            {"table": some.table, "train_set": some.train_set, "model": " ".join(models), "numbers": count}
            | {"status": "not comparable", "reason": reason}
        )
    return pl.DataFrame(rows, schema=NUMBER_SCHEMA).with_columns(pl.selectors.float().round(6))


def _absent(numbers: Sequence[Number]) -> list[tuple[list[str], int, str]]:
    """(models, how many numbers, reason) of the models that the experiment does not have."""
    groups: dict[str, list[str]] = {}
    for number in numbers:
        if not number.has_model:
            groups.setdefault(number.reason, []).append(number.row.model)
    return [(list(dict.fromkeys(models)), len(models), reason) for reason, models in groups.items()]


def paper_editions(summary: Summary) -> list[Edition]:
    """The page of an edition of table 1 or 2 with its CSV files; empty for any other experiment."""
    table = table_number(summary.experiment)
    if table is None:
        return []
    published = read_published()
    numbers = compare_with_paper(summary, published, table)
    signs = compare_signs(summary, published, table)
    texts = {"paper.md": render_markdown, "paper.html": render_html}
    frames = {"paper.csv": tidy_numbers(numbers), "signs.csv": tidy_signs(signs, summary.experiment)}
    return [Edition(paper_page(summary, numbers, signs), texts, frames)]


def paper_page(summary: Summary, numbers: Sequence[Number], signs: Sequence[Sign]) -> Page:
    """The signs of the paper's findings, then its numbers beside ours; the models that we lack in one line."""
    tables = [sign_table(signs, summary.models)] if signs else []
    tables += [
        _numbers_table(summary.models[model], [number for number in numbers if number.row.model == model])
        for model in dict.fromkeys(number.row.model for number in numbers)
        if model in summary.models
    ]
    counts = Counter(number.status for number in numbers)
    verdicts = ", ".join(f"{counts[status]} {status}" for status in ("matched", "off", "not run", "not comparable"))
    lead = [f"Experiment {summary.experiment} beside the paper. {len(numbers)} published numbers: {verdicts}."]
    lead += [
        f"{count} numbers of {' and '.join(MODEL_LABEL[name] for name in names)}: not comparable because {reason}."
        for names, count, reason in _absent(numbers)
    ]
    return Page(f"{summary.experiment}-paper", f"{summary.title}: the paper and ours", tuple(lead), tuple(tables))


def _numbers_table(label: str, numbers: Sequence[Number]) -> Table:
    """The numbers of one model: a block per budget, a row per method, a column per benchmark."""
    benchmarks = list(dict.fromkeys(number.benchmark for number in numbers))
    blocks: dict[str, dict[PaperRow, dict[str, Number]]] = {}
    for number in sorted(numbers, key=lambda number: number.row.setting == "pruned"):
        row = number.row
        title = "Reference"
        if row.setting == "pruned":
            title = f"Samples {percent(row.place[0])} x Tokens {percent(row.place[1])}"
        blocks.setdefault(title, {}).setdefault(row, {})[number.benchmark] = number
    footnotes = Footnotes()
    drawn = tuple(
        Block(
            title,
            tuple(
                (*row.labels, *(_field(block[row].get(benchmark), footnotes) for benchmark in benchmarks))
                # Q-Tuning comes last in its block, the model without training first in its
                for row in sorted(block, key=lambda row: row.q_tuning or row.setting == "full")
            ),
        )
        for title, block in blocks.items()
    )
    notes = (
        "Published / ours [interval] and verdict: ✓ the published number lies in our interval; ↑ ↓ it does not, and "
        "ours is so much higher or lower.",
        INTERVAL,
        f"Not published, so that ours is our choice: {NOT_PUBLISHED}.",
    )
    columns = (
        *(Column(name, words=True) for name in ("Sample pruner", "Token pruner")),
        *(Column(benchmark_label(name)) for name in benchmarks),
    )
    title = f"{label}: published and ours"
    return Table(f"numbers-{numbers[0].row.model}", title, columns, drawn, tuple(footnotes.texts), notes)


def _field(number: Number | None, footnotes: Footnotes) -> Field:
    if number is None:
        return "–"
    text = f"{number.published:.2f} / "
    if number.ours is None:
        return text + "–" + footnotes.mark(f"{number.status}: {number.reason}")
    text += f"{number.ours:.2f} [{number.low:.1f}, {number.high:.1f}]"
    if number.status == "not comparable":
        return text + footnotes.mark(f"{number.status}: {number.reason}")
    return f"{text} ✓" if number.status == "matched" else text + signed(number.difference)
