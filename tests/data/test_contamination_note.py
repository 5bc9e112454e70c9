"""The line under a table, from reports in the store."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from qtuning.data.contamination import checks_of, notes_from_store, notes_of_checks
from qtuning.errors import UserError
from qtuning.files import write_json
from qtuning.manifest import write_sealed
from qtuning.store.collect import collect


def report(store: Path, name: str, ngram: int = 13, **benchmarks: tuple[int, int, int]) -> None:
    counts = {key: dict(zip(("items", "contaminated", "short"), values)) for key, values in benchmarks.items()}  # noqa: B905
    values = {"train_set": "mathinstruct", "label": "MathInstruct", "benchmark_source": "hub", "ngram": ngram}
    write_json(store / "contamination" / f"{name}.json", values | {"benchmarks": counts, "read": 5})


def note(store: Path, *benchmarks: str, train_set: str = "mathinstruct", source: Any = "hub") -> str:
    """From the store alone, of an experiment with one train set."""
    config = json.dumps({"source": source, "benchmarks": benchmarks})
    rows = {
        "train_set": [train_set, None],
        "train_set_label": ["MathInstruct", None],
        "evaluation_config": [config] * 2,
    }
    (line,) = notes_from_store(store, pl.DataFrame(rows))
    return line


def test_counts_shares_and_what_was_not_checked(tmp_path: Path) -> None:
    report(tmp_path, "mathinstruct-hub-1", gsm8k=(791, 0, 0), triviaqa=(6788, 68, 3439))
    assert note(tmp_path, "gsm8k", "triviaqa", "math") == (
        "Contamination: items that share a 13-gram with MathInstruct: GSM8K 0 of 791, "
        "TriviaQA 68 of 6,788 (1.0%; 3,439 shorter, compared whole), MATH not checked."
    )


def test_nothing_checked_is_said_with_what_to_type(tmp_path: Path) -> None:
    report(tmp_path, "mathinstruct-hub-1", gsm8k=(791, 0, 0))
    expected = (
        "Contamination: not checked (MathInstruct against GSM8K, MATH); run `qtuning contamination mathinstruct`."
    )
    assert note(tmp_path / "empty", "gsm8k", "math") == expected
    assert note(tmp_path, "gsm8k", "math", source="data-dir") == expected
    assert "run `qtuning contamination other`" in note(tmp_path, "gsm8k", train_set="other")


def test_the_report_that_covers_the_benchmarks_is_taken(tmp_path: Path) -> None:
    report(tmp_path, "mathinstruct-hub-1", gsm8k=(791, 1, 0))
    report(tmp_path, "mathinstruct-hub-2", gsm8k=(791, 2, 0), math=(5000, 50, 0))
    report(tmp_path, "mathinstruct-hub-3", ngram=8, gsm8k=(791, 3, 0), math=(5000, 100, 0))
    both = (
        "Contamination: items that share a 13-gram with MathInstruct: GSM8K 2 of 791 (0.3%), MATH 50 of 5,000 (1.0%)."
    )
    assert note(tmp_path, "gsm8k", "math") == both
    assert note(tmp_path, "gsm8k") == (
        "Contamination: several reports on MathInstruct that differ (mathinstruct-hub-1, mathinstruct-hub-2); "
        "`qtuning tables` knows which."
    )
    # of another copy that says the same, one is as good as the other
    report(tmp_path, "mathinstruct-hub-4", gsm8k=(791, 2, 0), math=(5000, 50, 0))
    assert note(tmp_path, "gsm8k", "math") == both


def test_a_count_that_changed_on_the_disk_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "contamination/x.json"
    counts = {"gsm8k": {"items": 791, "contaminated": 12, "short": 0}}
    write_sealed(file, {"train_set": "a", "benchmark_source": "hub", "ngram": 13, "benchmarks": counts})
    assert "12 of 791" in note(tmp_path, "gsm8k", train_set="a")
    file.write_text(file.read_text().replace("12", "13"))
    with pytest.raises(UserError, match=r"x\.json: damaged \(its checksum differs\); delete it"):
        note(tmp_path, "gsm8k", train_set="a")


def test_a_damaged_report_is_refused_with_its_key(tmp_path: Path) -> None:
    report(tmp_path, "mathinstruct-hub-1", gsm8k=(0, 0, 0))
    with pytest.raises(UserError, match=r"mathinstruct-hub-1\.json: benchmarks\.gsm8k\.items = 0"):
        note(tmp_path, "gsm8k")


def test_a_grid_reads_the_report_of_its_own_check(folders: Any) -> None:
    (check,) = checks_of([folders.grid]).values()
    assert notes_of_checks(folders.results, [check])[0].startswith("Contamination: not checked (Mini SFT against ARC-E")
    report(folders.results, "mini-mini-world-0", gsm8k=(240, 9, 0))  # of another check
    assert "not checked (Mini SFT" in notes_of_checks(folders.results, [check])[0]
    report(folders.results, check.name, gsm8k=(240, 6, 0), squad=(200, 0, 0))
    (line,) = notes_of_checks(folders.results, [check])
    assert line.startswith("Contamination: items that share a 13-gram with Mini SFT: ARC-E not checked, ")
    assert "GSM8K 6 of 240 (2.5%), SQuAD 0 of 200" in line


def test_an_experiment_has_a_line_for_each_train_set(folders: Any) -> None:
    """From the score table as collecting makes it."""
    scores = collect([folders.grid], folders.results)[0]
    (line,) = notes_from_store(folders.results, scores)
    assert line == (
        "Contamination: not checked (Mini SFT against ARC-E, ARC-C, GSM8K, SQuAD, TriviaQA, MATH, Retention); "
        "run `qtuning contamination mini`."
    )
    report(folders.results, "mini-mini-world-1", gsm8k=(240, 6, 0))
    other = scores.with_columns(train_set=pl.lit("mathinstruct"), train_set_label=pl.lit("MathInstruct"))
    hub = other.with_columns(evaluation_config=pl.lit('{"source": "hub", "benchmarks": ["gsm8k"]}'))
    assert notes_from_store(folders.results, hub) == [
        "Contamination: items that share a 13-gram with MathInstruct: GSM8K 6 of 240 (2.5%)."
    ]
