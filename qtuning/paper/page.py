"""The page that shows the paper's numbers beside ours."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from qtuning.paper.beside import INTERVAL, Number, absent
from qtuning.paper.published import LABEL, NOT_PUBLISHED, published_labels, published_place
from qtuning.paper.signs import sign_table
from qtuning.tables.labels import Footnotes, benchmark_label, named, percent, signed
from qtuning.tables.page import Block, Column, Field, Page, Table, check
from qtuning.tables.summary import summarise


def paper_page(scores: pl.DataFrame, numbers: Sequence[Number]) -> Page:
    """Signs of the paper's findings, then its numbers beside ours; models we do not have in one line each."""
    experiment = scores["experiment"][0]
    summary = summarise(scores)
    tables = []
    signs = sign_table(scores, summary, [number.row for number in numbers])
    if signs is not None:
        tables.append(signs)
    counts = Counter(number.status for number in numbers)
    verdicts = ", ".join(f"{counts[status]} {status}" for status in ("matched", "off", "not run", "not comparable"))
    tables += [
        _numbers_table(scores, model, numbers)
        for model in dict.fromkeys(number.row["model"] for number in numbers)
        if model in summary.models
    ]
    lead = [f"Experiment {experiment} beside the paper. {len(numbers)} published numbers: {verdicts}."]
    lead += [
        f"{count} numbers of {_models(names)}: not comparable because {reason}."
        for names, count, reason in absent(numbers)
    ]
    return check(Page(f"{experiment}-paper", f"{scores['title'][0]}: the paper and ours", tuple(lead), tuple(tables)))


def _models(names: Iterable[str]) -> str:
    return " and ".join(LABEL.get(name, name) for name in names)


def _numbers_table(scores: pl.DataFrame, model: str, numbers: Sequence[Number]) -> Table:
    """The numbers of one model: a block per budget, a row per method, a column per benchmark."""
    label = named(scores, "model")[model]
    mine = [number for number in numbers if number.row["model"] == model]
    benchmarks = list(dict.fromkeys(number.row["benchmark"] for number in mine))
    footnotes = Footnotes()
    blocks: dict[str, dict[tuple[Any, ...], dict[str, Number]]] = {}
    for number in sorted(mine, key=lambda number: number.row["setting"] == "pruned"):
        block = blocks.setdefault(_title(number.row), {})
        block.setdefault(published_place(number.row), {})[number.row["benchmark"]] = number
    rows = tuple(
        Block(
            title,
            tuple(
                (
                    *published_labels(next(iter(found.values())).row),
                    *(_field(found.get(benchmark), footnotes) for benchmark in benchmarks),
                )
                for found in sorted(block.values(), key=_last)
            ),
        )
        for title, block in blocks.items()
    )
    columns = (Column("Sample pruner", words=True), Column("Token pruner", words=True))
    notes = (
        "Published / ours [interval] and verdict: ✓ the published number lies in our interval; ↑ ↓ it does not, and "
        "ours is so much higher or lower.",
        INTERVAL,
        f"Not published, so that ours is our choice: {NOT_PUBLISHED}.",
    )
    headers = (*columns, *(Column(benchmark_label(name)) for name in benchmarks))
    return Table(f"numbers-{model}", f"{label}: published and ours", headers, rows, tuple(footnotes.texts), notes)


def _title(row: dict[str, Any]) -> str:
    if row["setting"] != "pruned":
        return "Reference"
    return f"Samples {percent(row['sample_ratio'] / 100)} x Tokens {percent(row['token_ratio'] / 100)}"


def _last(found: dict[str, Number]) -> bool:
    """Q-Tuning comes last in its block, the model without training first in its."""
    row = next(iter(found.values())).row
    return row["sample_pruner"] == "q-tuning" or row["setting"] == "full"


def _field(number: Number | None, footnotes: Footnotes) -> Field:
    if number is None:
        return "–"
    text = f"{number.row['score']:.2f} / "
    if number.ours is None or number.low is None or number.high is None:
        return text + "–" + footnotes.mark(f"{number.status}: {number.reason}")
    text += f"{number.ours:.2f} [{number.low:.1f}, {number.high:.1f}]"
    if number.status == "matched":
        return f"{text} ✓"
    if number.status == "off":
        return text + signed(number.difference)
    return text + footnotes.mark(f"{number.status}: {number.reason}")
