"""The published numbers, and which numbers of items can have given them."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtuning.errors import UserError
from qtuning.paper.published import SCHEMA, impossible, possible, read_published, table_number


def test_shipped() -> None:
    published = read_published()
    assert dict(published.schema) == SCHEMA
    assert published["table"].value_counts(sort=True).rows() == [(1, 636), (2, 477)]
    best = published.filter(
        (pl.col("model") == "mistral-7b") & (pl.col("sample_ratio") == 50) & (pl.col("sample_pruner") == "q-tuning")
    )
    assert best.select("benchmark", "score").rows() == [("gsm8k", 48.07), ("math", 6.14), ("avg", 26.57)]


@pytest.mark.parametrize(
    ("name", "number"),
    [("table1", 1), ("table2-mini", 2), ("table1-smollm2", 1), ("table4", None), ("mini", None), ("table12", None)],
)
def test_table_number(name: str, number: int | None) -> None:
    assert table_number(name) == number


@given(st.integers(1, 400), st.data())
def test_possible_scores_are_those_of_some_count(items: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, items))
    assert possible(round(100 * count / items, 2), items)
    score = data.draw(st.integers(0, 10_000)) / 100
    by_counting = any(abs(100 * k / items - score) <= 0.005 + 1e-9 for k in range(items + 1))
    assert possible(score, items) == by_counting


def test_what_the_published_scores_say_of_their_items() -> None:
    """ARC was measured on the 567 and 295 validation questions with four choices, not on the test split of 1,172."""
    published = read_published()

    def scores(benchmark: str) -> list[float]:
        return published.filter(pl.col("benchmark") == benchmark)["score"].to_list()

    assert impossible(scores("arc_challenge"), 295) == 0
    assert impossible(scores("arc_challenge"), 1172) == 90
    assert impossible(scores("arc_easy"), 567) == 8
    assert impossible(scores("arc_easy"), 2376) == 80
    assert impossible(scores("gsm8k"), 1319) == 1
    assert impossible(scores("math"), 5000) == 0
    assert impossible(scores("math"), 500) == 140
    assert impossible(scores("triviaqa"), 8837) == 0


def test_malformed() -> None:
    with pytest.raises(UserError, match=r"column.* score missing"):
        read_published(pl.DataFrame({name: [] for name in SCHEMA if name != "score"}))
    with pytest.raises(UserError, match=r"published scores: .*conversion"):
        read_published(pl.DataFrame({name: ["x"] for name in SCHEMA}))
