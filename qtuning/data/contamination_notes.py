"""The line under a table that says how far its train sets and benchmarks overlap, from `contamination/*.json`."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qtuning.errors import UserError
from qtuning.experiment.benchmarks import label_of
from qtuning.experiment.yaml_files import explain

if TYPE_CHECKING:
    import polars as pl

    from qtuning.data.contamination import Check

NGRAM = 13
"""What experiments ask for (data/contamination.py, which needs more than reading its reports does)."""

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


def notes_of_checks(store: Path, checks: "Iterable[Check]") -> list[str]:
    """One line for each check that an experiment asks for (`qtuning.data.contamination.checks`), of its own report.

    store: folder that has `contamination/`. `Contamination: items that share a 13-gram with MathInstruct: GSM8K 0 of
    791, MATH 50 of 5,000 (1.0%).`, or that it was not checked.
    """
    notes = []
    for check in checks:
        path = check.path(store)
        found = [_read(path)] if path.is_file() else []
        notes.append(_note(found, check.train_set.name, check.train_set.label, check.benchmarks))
    return notes


def contamination_notes(store: Path, scores: "pl.DataFrame") -> list[str]:
    """One line for each train set of an experiment, where its configuration is not at hand. scores: its rows.

    The store does not say which check the experiment asks for: it is taken to be that of this train set with 13-grams
    which covers most of the experiment's benchmarks. Several such that differ (another copy of the data, another
    configuration of the train set) are named, not quoted.
    """
    config = json.loads(scores["evaluation_config"][0])
    asked = config["benchmarks"]
    paths = sorted((Path(store) / "contamination").glob("*.json"))
    known = [(path.stem, _read(path)) for path in paths]
    notes = []
    for name, label in scores.select("train_set", "train_set_label").drop_nulls().unique(maintain_order=True).rows():
        fitting = [
            (stem, report)
            for stem, report in known
            if (report.train_set, report.benchmark_source, report.ngram) == (name, config["source"], NGRAM)
        ]
        covered = {stem: len(report.benchmarks.keys() & set(asked)) for stem, report in fitting}
        best = [(stem, report) for stem, report in fitting if covered[stem] == max(covered.values())]
        if len({_overlaps(report, asked) for _, report in best}) > 1:
            several = ", ".join(stem for stem, _ in best)
            notes.append(
                f"Contamination: several reports on {label} that differ ({several}); `qtuning tables` knows which."
            )
        else:
            notes.append(_note([report for _, report in best[:1]], name, label, asked))
    return notes


def _note(reports: Sequence[_Report], train_set: str, label: str, benchmarks: Sequence[str]) -> str:
    """Of no report or one."""
    for report in reports:
        sized = f"{_article(report.ngram)} {report.ngram}-gram"
        return f"Contamination: items that share {sized} with {label}: {_overlaps(report, benchmarks)}."
    names = ", ".join(label_of(name) for name in benchmarks)
    return f"Contamination: not checked ({label} against {names}); run `qtuning contamination {train_set}`."


def _overlaps(report: _Report, benchmarks: Sequence[str]) -> str:
    """`GSM8K 0 of 791, MATH not checked`."""
    return ", ".join(f"{label_of(name)} {_overlap(report.benchmarks.get(name))}" for name in benchmarks)


def _overlap(result: _Benchmark | None) -> str:
    """`12 of 791 (1.5%; 8 shorter, compared whole)`."""
    if result is None:
        return "not checked"
    remarks = [f"{100 * result.contaminated / result.items:.1f}%"] if result.contaminated else []
    remarks += [f"{result.short:,} shorter, compared whole"] if result.short else []
    return f"{result.contaminated:,} of {result.items:,}" + (f" ({'; '.join(remarks)})" if remarks else "")


def _article(number: int) -> str:
    return "an" if number in (8, 11, 18) or 80 <= number < 90 else "a"


def _read(path: Path) -> _Report:
    try:
        return _Report.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError("\n".join(explain(error, str(path), _Report))) from None
