"""The edition by cost and the Pareto front, against brute force and numbers worked out by hand."""

from collections.abc import Callable

import polars as pl
import pytest
from cell_folders import Folders
from hypothesis import given
from hypothesis import strategies as st
from score_tables import TWO, fill, scores_of

from qtuning.statistics.summary import summarise
from qtuning.tables.by_cost import cost_page, pareto_front, tidy_costs

Make = Callable[..., Folders]
few = st.integers(0, 4).map(float)


@given(st.lists(st.tuples(few, few), max_size=12))
def test_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and (a[0] < b[0] or a[1] > b[1])

    assert pareto_front(points) == [not any(dominates(other, point) for other in points) for point in points]


def test_what_is_not_known_is_on_no_front() -> None:
    assert pareto_front([(None, 9.0), (1.0, None), (2.0, 5.0), (3.0, 4.0)]) == [False, False, True, False]


@pytest.fixture
def scores(make_folders: Make) -> pl.DataFrame:
    """Averages: zero-shot 10; full 40, 44; random 25x50 20, 24; q-tuning 22, 26, at 12e12, 9e12 + 12e12 FLOPs."""
    folders = make_folders(evaluation=TWO, budgets=["25x50"])
    fractions = {
        "zero-shot": 0.10,
        "mini-full-s0": 0.40,
        "mini-full-s1": 0.44,
        "random+random-25x50-s0": 0.20,
        "random+random-25x50-s1": 0.24,
        "q-tuning-25x50-s0": 0.22,
        "q-tuning-25x50-s1": 0.18,
    }
    fill(folders, {text: (fraction, fraction) for text, fraction in fractions.items()})
    return scores_of(folders)


def test_rows_by_cost(scores: pl.DataFrame) -> None:
    table = tidy_costs(summarise(scores))
    assert table["method"].to_list() == ["zero-shot", "random+random", "q-tuning", "full"]
    rows = {row["method"]: row for row in table.to_dicts()}
    # q-tuning: 25% of 3.6e13 for training and 1.2e13 for scoring; 4.5 of 18 seconds and 6
    assert rows["q-tuning"]["flops"] == 2.1e13
    assert rows["q-tuning"]["flops_scoring"] == 1.2e13
    assert rows["q-tuning"]["flops_share"] == pytest.approx(21 / 36, abs=1e-6)
    assert rows["q-tuning"]["seconds_share"] == pytest.approx(10.5 / 18, abs=1e-6)
    assert rows["q-tuning"]["nominal"] == 0.125
    assert rows["q-tuning"]["score_per_cost"] == pytest.approx(20 * 36 / 21, abs=1e-5)
    assert rows["q-tuning"]["gain_per_cost"] == pytest.approx(10 * 36 / 21, abs=1e-5)
    assert rows["random+random"]["score_per_cost"] == pytest.approx(22 / 0.25, abs=1e-5)
    assert rows["full"]["gain_per_cost"] == 32
    assert {name: row["pareto"] for name, row in rows.items()} == {
        "zero-shot": False,  # no way to train, though nothing is cheaper
        "random+random": True,
        "q-tuning": False,  # 20 points for more than random's 22 cost
        "full": True,
    }


def test_controls_are_on_no_front(make_folders: Make) -> None:
    """An oracle that beats everything at the lowest cost: nobody can have it."""
    folders = make_folders(evaluation=TWO, budgets=["25x50"], methods=["full", "random+random", "oracle"], seeds=[0])
    fill(folders, {"mini-full": (0.4, 0.4), "random+random": (0.2, 0.2), "oracle": (0.9, 0.9), "zero-shot": (0.1, 0.1)})
    summary = summarise(scores_of(folders))
    on_front = {row["method"]: row["pareto"] for row in tidy_costs(summary).to_dicts()}
    assert on_front == {"zero-shot": False, "random+random": True, "oracle": False, "full": True}
    assert "Controls know what no method knows" in " ".join(cost_page(summary).tables[0].notes)


def test_page_marks_the_front_and_shows_the_nominal_budget_beside_the_cost(scores: pl.DataFrame) -> None:
    page = cost_page(summarise(scores))
    (table,) = page.tables
    rows = {row[1]: dict(zip((column.name for column in table.columns), row, strict=True)) for row in table.rows}
    assert rows["Q-Tuning"]["Nominal"] == "12.5%"
    assert rows["Q-Tuning"]["FLOPs"] == "2.10e13"
    assert rows["Q-Tuning"]["FLOPs share"] == "58.3%"
    assert rows["Q-Tuning"]["of it scoring"] == "57.1%"
    assert [name for name, row in rows.items() if row["Pareto"]] == ["random + random", "Full data"]


def test_a_missing_seed_has_no_cost_and_is_on_no_front(scores: pl.DataFrame) -> None:
    """Even where the store has no row of the cell at all."""
    without = scores.filter(~((pl.col("method") == "random+random") & (pl.col("seed") == "1")))
    rows = {row["method"]: row for row in tidy_costs(summarise(without)).to_dicts()}
    assert tidy_costs(summarise(without))["method"].to_list()[-1] == "random+random"
    assert [rows["random+random"][key] for key in ("flops", "seconds", "mean", "flops_share")] == [None] * 4
    assert rows["random+random"]["reason"].startswith("seed 1 not run: no row of this cell")
    assert not rows["random+random"]["pareto"]
    assert rows["q-tuning"]["pareto"], "nothing that is known beats it now"


def test_shares_are_of_full_training_in_the_same_way(scores: pl.DataFrame) -> None:
    """A batch size of its own is compared with the full data at that batch size."""
    large = scores.filter(pl.col("method").is_in(["full", "q-tuning"])).with_columns(
        cell=pl.col("cell") + "-large", training=pl.lit("batch_size=16"), flops_total=2 * pl.col("flops_total")
    )
    both = pl.concat([scores.with_columns(training=pl.lit("")), large])
    rows = tidy_costs(summarise(both)).filter(pl.col("method") == "q-tuning").to_dicts()
    assert [row["variant"] for row in rows] == ["", "batch_size=16"]
    assert [row["flops"] for row in rows] == [2.1e13, 4.2e13]
    assert rows[0]["flops_share"] == rows[1]["flops_share"]


def test_without_full_data_costs_are_absolute(scores: pl.DataFrame) -> None:
    page = cost_page(summarise(scores.filter(pl.col("method") != "full")))
    (table,) = page.tables
    names = [column.name for column in table.columns]
    assert not {"FLOPs share", "Seconds share", "Score per cost", "Gain per cost"} & set(names)
    rows = {row[1]: dict(zip(names, row, strict=True)) for row in table.rows}
    assert rows["Q-Tuning"]["FLOPs"] == "2.10e13" and rows["Q-Tuning"]["Seconds"] == "10.5"
    assert [name for name, row in rows.items() if row["Pareto"]] == ["random + random"]
    text = " ".join(table.notes)
    assert "no training on the full data to compare with" in text and "Shares are of" not in text
