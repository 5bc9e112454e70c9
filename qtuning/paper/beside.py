"""The page of the paper's numbers beside ours: whether each of ours agrees, or why no verdict is possible.

`compare_with_paper` judges every published number of a table. `paper_files` gives the page and the CSV files.
"""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import sqrt
from typing import Literal, get_args

import polars as pl

from qtuning.paper.published import (
    MODEL_LABEL,
    PaperRow,
    Published,
    changed_in,
    place_of,
    possible,
    read_published,
    table_number,
)
from qtuning.paper.signs import Sign, compare_signs, sign_table, tidy_signs
from qtuning.statistics.summary import AVERAGE, Entry, Summary
from qtuning.store.lines import Line
from qtuning.tables.html import render_html
from qtuning.tables.labels import benchmark_label, items_asked, signed
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Block, Column, Footnotes, Page, Table
from qtuning.tables.write import PageFiles

Status = Literal["matched", "off", "not run", "not comparable"]

QUANTILE = 0.975
"""Upper end of a two-sided interval at 95%."""

LOST = 0.02
"""Share of the samples that may be missing: unusable rows of a train set."""

OTHER_ITEMS = 0.25
"""Share of a benchmark's published scores that our number of items may not be able to give; typing errors happen."""

TRAIN_SAMPLES = {"wizardlm": 70_000, "mathinstruct": 262_039, "openhermes": 1_001_551}
"""Rows of the train sets, as their pages on the hub give them."""

EPOCHS = 3
"""docs/method.md, Hyper-parameters."""

NOT_PUBLISHED = (
    "LoRA alpha, dropout and layers, warm-up, precision (ours are LLaMA-Factory's defaults), prompts, shots, "
    "generation lengths, number of seeds (random pruning is said to be a mean of five runs)"
)
"""What the paper does not say, so that ours can only be a choice (docs/method.md, Hyper-parameters)."""

OTHER_SPLIT = ("arc_easy", "arc_challenge")
"""Benchmarks that the paper asks on another split than lm-eval; the protocol `paper` does so, too."""

INTERVAL = (
    "Interval: where one more run of ours would lie in 95 of 100 cases, mean ± t sd sqrt(1 + 1/n) over n seeds, since "
    "the published number is such a single run. With one seed only the choice of items is known: mean ± 1.96 standard "
    "errors of so many right or wrong answers."
)

NUMBER_SCHEMA: dict[str, pl.DataType] = {
    "table": pl.Int64(),
    **dict.fromkeys(("train_set", "model", "setting"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("sample_pruner", "token_pruner", "variant", "benchmark"), pl.String()),
    **dict.fromkeys(("published", "ours", "low", "high", "difference"), pl.Float64()),
    **dict.fromkeys(("seeds", "numbers"), pl.Int64()),
    **dict.fromkeys(("status", "reason"), pl.String()),
}
"""Columns of `tidy_numbers`, in order; ratios in per cent, as published."""


@dataclass(frozen=True)
class Number:
    """A published score and ours, in per cent.

    ours: the mean of `values`, one for each seed; low, high: its interval (INTERVAL); line: our row. All four are
    absent where we have no score. reason: why there is no verdict; empty for `matched` and `off`.
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
    line: Line | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus published."""
        return None if self.ours is None else self.ours - self.published


def compare_with_paper(summary: Summary, published: Published, table: int) -> list[Number]:
    """Every published number of a table beside ours, in the order of the publication.

    Ours are the rows with default options and readings, but for what the paper changes itself (tables 4, 5, 15).
    """
    settings, benchmarks = _refusals(summary, published, table)
    absent = "; ".join(filter(None, (f"the model is {', '.join(summary.models.values())}", settings)))
    return [
        _number(row, benchmark, float(score), summary, (settings, benchmarks.get(benchmark, "")))
        if row.model in summary.models
        else Number(row, benchmark, float(score), "not comparable", absent)
        for row in published.rows(table)
        for benchmark, score in published.scores[row].items()
    ]


def _number(row: PaperRow, benchmark: str, score: float, summary: Summary, refused: tuple[str, ...]) -> Number:
    candidates = [line for line in summary.lines if place_of(line) == row.place]
    line = next((line for line in candidates if changed_in(line) == row.line.variant), None)
    if line is None and candidates:
        variants = ", ".join(line.variant or "the defaults" for line in candidates)
        reason = f"run only with other options or readings: {variants}"
        return Number(row, benchmark, score, "not comparable", reason)
    entry = None if line is None else summary.entries.get((line, row.model, benchmark))
    if line is None or not isinstance(entry, Entry):
        return Number(row, benchmark, score, "not run", str(entry or "not part of this experiment"))
    low, high = prediction_interval(summary, line, row.model, benchmark)
    reason = "; ".join(filter(None, (*refused, _refused_amount(line, row, summary))))
    # compared as printed: two decimals
    inside = round(low, 2) <= score <= round(high, 2)
    status: Status = "not comparable" if reason else "matched" if inside else "off"
    return Number(row, benchmark, score, status, reason, entry.mean, low, high, entry.values, line)


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
        half = float(t.ppf(QUANTILE, n - 1)) * entry.sd * sqrt(1 + 1 / n)
    else:
        parts = summary.averaged if benchmark == AVERAGE else (benchmark,)
        found = (summary.entries[line, model, part] for part in parts)
        shares = [(part.mean / 100, part.items) for part in found if isinstance(part, Entry) and part.items]
        variances = [share * (1 - share) / items for share, items in shares]
        half = 100 * float(norm.ppf(QUANTILE)) * sqrt(sum(variances)) / len(variances)
    return max(0.0, entry.mean - half), min(100.0, entry.mean + half)


def _refusals(summary: Summary, published: Published, table: int) -> tuple[str, dict[str, str]]:
    """Why no number of an experiment can be compared (empty where it can), and why none of a benchmark can."""
    scores = summary.scores
    config = json.loads(scores["evaluation_config"][0] or "{}")
    reasons = []
    if summary.train_sets and published.rows(table)[0].train_set not in summary.train_sets:
        reasons.append(f"the train set is {', '.join(summary.train_sets.values())}")
    if config.get("source") == "mini-world":
        reasons.append("the questions are those of the mini world")
    if config.get("limit") is not None:
        reasons.append(f"limit: {items_asked(config)}")
    if config.get("fewshot") is not None:
        reasons.append(f"fewshot: {config['fewshot']} instead of each benchmark's own")
    reasons += [f"setting unknown: {name}" for name in ("source", "limit", "fewshot") if name not in config]
    benchmarks = {}
    for benchmark in published.benchmarks(table):
        found = scores.filter((pl.col("benchmark") == benchmark) & pl.col("headline") & (pl.col("status") == "done"))
        # F1 is graded, so that any value is possible
        if found.is_empty() or found["metric"][0] == "f1":
            continue
        items = int(found["items"][0])
        rows = [published.scores[row] for row in published.rows(table)]
        printed = [float(row[benchmark]) for row in rows if benchmark in row]
        impossible = sum(not possible(score, items) for score in printed)
        if impossible > OTHER_ITEMS * len(printed):
            asked = "; evaluation.protocol: paper asks the published ones" if benchmark in OTHER_SPLIT else ""
            benchmarks[benchmark] = (
                f"benchmark split: {impossible} of the {len(printed)} published {benchmark_label(benchmark)} scores "
                f"are no share of {items:,} items{asked}"
            )
    ours = summary.averaged
    if set(ours) != set(published.benchmarks(table)):
        benchmarks[AVERAGE] = f"our average is over {', '.join(map(benchmark_label, ours))}"
    elif benchmarks:
        others = ", ".join(map(benchmark_label, benchmarks))
        benchmarks[AVERAGE] = f"the average holds {others}: another benchmark split"
    return "; ".join(reasons), benchmarks


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


def tidy_numbers(numbers: Sequence[Number], models: Collection[str]) -> pl.DataFrame:
    """One row per published number of a model among ours (`models`), and one for all others (`numbers`: how many)."""
    rows = [
        vars(number.row)
        | vars(number)
        | {"sample_ratio": float(number.row.sample_ratio), "token_ratio": float(number.row.token_ratio)}
        | {"difference": number.difference, "seeds": len(number.values), "numbers": 1, "reason": number.reason or None}
        for number in numbers
        if number.row.model in models
    ]
    if absent := [number for number in numbers if number.row.model not in models]:
        names = dict.fromkeys(number.row.model for number in absent)
        place = {"table": absent[0].row.table, "train_set": absent[0].row.train_set, "model": " ".join(names)}
        rows.append(place | {"numbers": len(absent), "status": "not comparable", "reason": absent[0].reason})
    return pl.DataFrame(rows, schema=NUMBER_SCHEMA).with_columns(pl.selectors.float().round(6))


def paper_files(summary: Summary) -> list[PageFiles]:
    """The page of an edition of a table that has published scores, with its CSV files; else empty."""
    table = table_number(summary.experiment)
    if table is None:
        return []
    published = read_published()
    numbers = compare_with_paper(summary, published, table)
    signs = compare_signs(summary, published, table)
    texts = {"paper.md": render_markdown, "paper.html": render_html}
    frames = {
        "paper.csv": tidy_numbers(numbers, summary.models),
        "signs.csv": tidy_signs(signs, summary.experiment),
    }
    return [PageFiles(paper_page(summary, numbers, signs), texts, frames)]


def paper_page(summary: Summary, numbers: Sequence[Number], signs: Sequence[Sign]) -> Page:
    """The signs of the paper's findings, then its numbers beside ours; the models that we lack in one line."""
    by_model: dict[str, list[Number]] = {}
    for number in numbers:
        by_model.setdefault(number.row.model, []).append(number)
    tables = [sign_table(signs, summary.models)] if signs else []
    tables += [_numbers_table(summary.models[name], by_model[name]) for name in by_model if name in summary.models]
    counts = Counter(number.status for number in numbers)
    verdicts = ", ".join(f"{counts[status]} {status}" for status in get_args(Status))
    lead = [f"Experiment {summary.experiment} beside the paper. {len(numbers)} published numbers: {verdicts}."]
    if absent := [name for name in by_model if name not in summary.models]:
        count, labels = sum(len(by_model[name]) for name in absent), " and ".join(MODEL_LABEL[name] for name in absent)
        lead.append(f"{count} numbers of {labels}: not comparable because {by_model[absent[0]][0].reason}.")
    return Page(f"{summary.experiment}-paper", f"{summary.title}: the paper and ours", tuple(lead), tuple(tables))


def _numbers_table(label: str, numbers: Sequence[Number]) -> Table:
    """The numbers of one model: a block per budget, a row per method, a column per benchmark."""
    rows = {row: list(found) for row, found in groupby(numbers, key=lambda number: number.row)}
    footnotes = Footnotes()
    blocks: dict[str, list[tuple[str, ...]]] = {}
    # what prunes nothing comes first, then the budgets from the smallest, Q-Tuning last in its block
    for row in sorted(rows, key=lambda row: (row.setting == "pruned", row.sample_ratio, row.token_ratio, row.q_tuning)):
        fields = (_field(number, footnotes) for number in rows[row])
        blocks.setdefault(row.block, []).append((*row.labels, *fields))
    columns = (
        *(Column(name, words=True) for name in ("Sample pruner", "Token pruner")),
        *(Column(benchmark_label(number.benchmark)) for number in next(iter(rows.values()))),
    )
    inferred = "Inferred: the paper's text leaves open which row it is (docs/audit.md)."
    notes = (
        *([inferred] if any(row.changed.inferred for row in rows) else []),
        "Published / ours [interval] and verdict: ✓ the published number lies in our interval; ↑ ↓ it does not, and "
        "ours is so much higher or lower.",
        INTERVAL,
        f"Not published, so that ours is our choice: {NOT_PUBLISHED}.",
    )
    drawn = tuple(Block(title, tuple(found)) for title, found in blocks.items())
    title = f"{label}: published and ours"
    return Table(f"numbers-{numbers[0].row.model}", title, columns, drawn, tuple(footnotes.texts), notes)


def _field(number: Number, footnotes: Footnotes) -> str:
    ours = "–" if number.ours is None else f"{number.ours:.2f} [{number.low:.1f}, {number.high:.1f}]"
    if number.reason:
        verdict = footnotes.mark(f"{number.status}: {number.reason}")
    else:
        verdict = " ✓" if number.status == "matched" else signed(number.difference)
    return f"{number.published:.2f} / {ours}{verdict}"
