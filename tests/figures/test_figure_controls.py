"""The dose response with its controls: data against the store, places of names, and better upwards."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from figure_frames import cell_rows, table
from hypothesis import given
from hypothesis import strategies as st

from qtuning.figures.controls import apart, controlled, draw_controls
from qtuning.statistics.summary import summarise
from qtuning.store.schema import ITEM_SCHEMA

SEEDS = (0, 1, 2)
LEVELS = {
    ("random+none", 0.125): 20,
    ("random+none", 0.25): 30,
    ("random+none", 0.5): 40,
    ("oracle", 0.25): 45,
    ("adversary", 0.25): 22,
    ("q-tuning", 0.25): 34,
    ("longest+none", 0.25): 27,
}


@pytest.fixture(scope="module")
def scores() -> pl.DataFrame:
    """Random pruning at three budgets, controls and two methods at one of them; all tokens."""
    cells = [cell_rows("zero-shot", seed=None, score=10.0)]
    cells += [cell_rows("full", seed=seed, score=50.0 + seed) for seed in SEEDS]
    cells += [
        cell_rows(method, samples, 1.0, seed, score=level + seed)
        for (method, samples), level in LEVELS.items()
        for seed in SEEDS
    ]
    return table(*cells)


@pytest.fixture(scope="module")
def items(scores: pl.DataFrame) -> pl.DataFrame:
    """Fifty answers of each cell that have its scores as their mean."""
    rows = scores.select("cell", "evaluation", "benchmark", "metric", "score")
    ten = rows.join(pl.DataFrame({"item": range(50)}), how="cross")
    wave = pl.lit(0.1) * (pl.col("item") % 2 * 2 - 1)
    named = pl.format("{}-{}", "benchmark", "item")
    full = ten.with_columns(score=pl.col("score") / 100 + wave, item_hash=named, cluster=named)
    return full.select(list(ITEM_SCHEMA)).cast(dict(ITEM_SCHEMA))  # type: ignore[arg-type]


def test_data_are_the_scores_with_roles(scores: pl.DataFrame, items: pl.DataFrame) -> None:
    frame = controlled(summarise(scores), items)
    found = {(row["method"], row["sample_ratio"]): row for row in frame.to_dicts()}
    assert {key: row["mean"] for key, row in found.items() if key in LEVELS} == pytest.approx(
        {key: level + 1.0 for key, level in LEVELS.items()}
    )
    roles = {method: row["role"] for (method, _), row in found.items()}
    assert roles == {
        "zero-shot": "zero-shot",
        "full": "full",
        "random+none": "random",
        "oracle": "oracle",
        "adversary": "adversary",
        "q-tuning": "method",
        "longest+none": "method",
    }
    # seeds 0, 1, 2 around the mean, and items that answer alike at every seed
    assert all(row["low"] < row["mean"] < row["high"] for row in found.values() if row["method"] != "zero-shot")


def test_curve_and_points_stand_where_the_scores_are(scores: pl.DataFrame, items: pl.DataFrame) -> None:
    drawing = draw_controls(controlled(summarise(scores), items))
    (panel,) = drawing.figure.axes
    curve = next(line for line in panel.get_lines() if np.size(line.get_xdata()) == 4)
    assert list(np.asarray(curve.get_xdata())) == [0, 1, 2, 3]
    assert list(np.asarray(curve.get_ydata())) == pytest.approx([21, 31, 41, 51])  # the last are the full data
    texts = {text.get_text() for text in panel.texts}
    assert texts == {"full data", "zero-shot", "random", "oracle", "adversary", "Q-Tuning", "longest"}
    assert [label.get_text() for label in panel.get_xticklabels()] == ["12.5%", "25%", "50%", "100%"]
    low, high = panel.get_ylim()
    assert low < 10 and high > 51


def test_a_lower_nll_is_drawn_higher(scores: pl.DataFrame, items: pl.DataFrame) -> None:
    nll = scores.with_columns(metric=pl.lit("nll"), headline=pl.lit(False), score=(60 - pl.col("score")) / 20)
    answers = items.with_columns(metric=pl.lit("nll"), score=(0.6 - pl.col("score")) * 5)
    drawing = draw_controls(controlled(summarise(pl.concat([scores, nll]), "nll"), pl.concat([items, answers])))
    (panel,) = drawing.figure.axes
    assert panel.yaxis_inverted()
    assert panel.get_ylabel() == "NLL per token, average"
    assert "A lower score is better, and is drawn higher." in drawing.text


def test_without_controls_nothing_is_drawn(scores: pl.DataFrame, items: pl.DataFrame) -> None:
    plain = scores.filter(~pl.col("method").is_in(["oracle", "adversary"]))
    assert controlled(summarise(plain), items).is_empty()


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.floats(0, 20))
def test_names_move_no_more_than_they_must(values: list[float], gap: float) -> None:
    values = sorted(values)
    placed = apart(values, gap)
    assert all(after - before >= gap - 1e-9 for before, after in pairwise(placed))
    if all(after - before >= gap for before, after in pairwise(values)):
        assert placed == pytest.approx(values, abs=1e-9)
    assert sum(placed) == pytest.approx(sum(values), abs=1e-6)
