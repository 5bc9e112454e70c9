"""The line under a table that says how far its train sets and benchmarks overlap, from `contamination/*.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qtuning.errors import UserError
from qtuning.evaluation.headline import LABEL
from qtuning.explain import explain

if TYPE_CHECKING:
    import polars as pl

Count = Annotated[int, Field(ge=0)]


class _Benchmark(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    items: Annotated[int, Field(gt=0)]
    contaminated: Count
    short: Count


class _Report(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    train_set: str
    label: str
    benchmark_source: str
    ngram: Annotated[int, Field(gt=0)]
    benchmarks: dict[str, _Benchmark]


def contamination_notes(store: Path, scores: "pl.DataFrame") -> list[str]:
    """One line for each train set of an experiment. scores: its rows of the score table."""
    config = json.loads(scores["evaluation_config"][0])
    pairs = scores.select("train_set", "train_set_label").drop_nulls().unique(maintain_order=True)
    return [
        contamination_note(store, name, label, config["source"], config["benchmarks"]) for name, label in pairs.rows()
    ]


def contamination_note(store: Path, train_set: str, label: str, source: str, benchmarks: Sequence[str]) -> str:
    """One line for a table: overlap of a train set with each of its benchmarks, or that it was not checked.

    store: folder that has `contamination/`. source: where the benchmarks' questions come from (evaluation.source).
    `Contamination: items that share a 13-gram with MathInstruct: GSM8K 0 of 791, MATH not checked.`
    """
    reports = [
        report
        for path in sorted((Path(store) / "contamination").glob("*.json"))
        if (report := _read(path)).train_set == train_set and report.benchmark_source == source
    ]
    sizes = sorted({report.ngram for report in reports}, reverse=True)
    sentences = []
    for ngram in sizes:
        found = [report for report in reports if report.ngram == ngram]
        parts = [f"{LABEL.get(name, name)} {_overlap(name, found)}" for name in benchmarks]
        sentences.append(f"items that share {_article(ngram)} {ngram}-gram with {label}: {', '.join(parts)}")
    if not sentences:
        names = ", ".join(LABEL.get(name, name) for name in benchmarks)
        return f"Contamination: not checked ({label} against {names}); run `qtuning contamination {train_set}`."
    return f"Contamination: {'. Also, '.join(sentences)}."


def _overlap(benchmark: str, reports: Sequence[_Report]) -> str:
    """`12 of 791 (1.5%; 8 shorter, compared whole)`; of reports that differ (another copy of the data), all."""
    texts = []
    for report in reports:
        if (result := report.benchmarks.get(benchmark)) is None:
            continue
        remarks = [f"{100 * result.contaminated / result.items:.1f}%"] if result.contaminated else []
        remarks += [f"{result.short:,} shorter, compared whole"] if result.short else []
        texts.append(f"{result.contaminated:,} of {result.items:,}" + (f" ({'; '.join(remarks)})" if remarks else ""))
    return " or ".join(dict.fromkeys(texts)) if texts else "not checked"


def _article(number: int) -> str:
    return "an" if number in (8, 11, 18) or 80 <= number < 90 else "a"


def _read(path: Path) -> _Report:
    try:
        return _Report.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError("\n".join(explain(error, str(path), _Report))) from None
