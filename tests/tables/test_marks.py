"""Marks of significance beside scores."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from cell_folders import Folders

from qtuning.statistics.compare import MARKS
from qtuning.statistics.summary import summarise
from qtuning.store.store import Store, write_store
from qtuning.tables.page import Parts
from qtuning.tables.scores import score_page

TWO = {"benchmarks": ["gsm8k", "math"], "source": "mini-world", "batch_size": 64, "max_length": 256}


@pytest.fixture
def scores(make_folders: Callable[..., Folders]) -> pl.DataFrame:
    folders = make_folders(evaluation=TWO, budgets=["25x50"], seeds=[0])
    for cell in folders.grid.cells:
        folders.finish(cell)
    write_store([folders.grid], folders.results)
    return Store(folders.results).experiment("mini")


def comparison(
    scores: pl.DataFrame, benchmark: str, against: str, significant: bool | None, **more: Any
) -> dict[str, Any]:
    row = scores.filter(pl.col("method") == "q-tuning").to_dicts()[0]
    names = ("experiment", "model", "train_set", "method", "options", "training", "sample_ratio", "token_ratio")
    place = {name: row[name] for name in names}
    return (
        place
        | {"benchmark": benchmark, "against": against, "p_holm": 0.01, "note": ""}
        | {"mark": MARKS[against] if significant else None}
        | more
    )


def test_marks_stand_beside_the_scores_they_belong_to(scores: pl.DataFrame) -> None:
    comparisons = pl.DataFrame(
        [
            comparison(scores, "gsm8k", "random+random", True),
            comparison(scores, "gsm8k", "full", True),
            comparison(scores, "math", "random+random", False),
            comparison(scores, "math", "full", None, p_holm=None, note="no such row"),
            comparison(scores, "avg", "full", True, note="two seeds"),
            comparison(scores, "math", "full", True, experiment="another"),
        ]
    )
    table = score_page(summarise(scores), comparisons).tables[0]
    found = {row[0]: [field.marks for field in row if isinstance(field, Parts)] for row in table.rows}
    assert found == {
        "Zero-shot": ["", "", ""],
        "Full data": ["", "", ""],
        "random": ["", "", ""],
        "Q-Tuning": [" †‡", "", " ‡"],
    }
    (legend,) = [note for note in table.notes if note.startswith("†")]
    assert "Holm's correction (4 comparisons tested, the others are not marked)" in legend
    assert [note for note in table.notes if note.startswith("Significance")] == ["Significance: two seeds."]


def test_no_comparisons_no_legend(scores: pl.DataFrame) -> None:
    assert not any("†" in note for note in score_page(summarise(scores)).tables[0].notes)


def test_marks_know_how_a_cell_was_trained(scores: pl.DataFrame) -> None:
    both = pl.concat(
        [
            scores.with_columns(training=pl.lit("")),
            scores.filter(pl.col("method") == "q-tuning").with_columns(
                cell=pl.col("cell") + "-16", training=pl.lit("batch_size=16")
            ),
        ]
    )
    comparisons = pl.DataFrame([comparison(scores, "gsm8k", "full", True, training="batch_size=16")])
    rows = [
        row for row in score_page(summarise(both), comparisons).tables[0].rows if str(row[0]).startswith("Q-Tuning")
    ]
    assert [(row[0], getattr(row[2], "marks", None)) for row in rows] == [
        ("Q-Tuning", ""),
        ("Q-Tuning (batch_size=16)", " ‡"),
    ]
