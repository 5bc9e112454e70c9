"""The published numbers, and which numbers of items can have given them."""

from decimal import Decimal
from pathlib import Path

import pytest
from claim_oracle import lines, write
from hypothesis import given
from hypothesis import strategies as st

from qtuning.paper.published import possible, read_efficiency, read_figure7, read_published, table_number

PUBLISHED = read_published()


def test_every_line_is_read() -> None:
    assert [sum(len(PUBLISHED.scores[row]) for row in PUBLISHED.rows(table)) for table in (1, 2)] == [636, 477]
    flat = [
        (str(row.table), row.train_set, row.setting, row.model, row.sample_pruner, row.token_pruner, name, score)
        for row, scores in PUBLISHED.scores.items()
        for name, score in scores.items()
    ]
    names = ("table", "train_set", "setting", "model", "sample_pruner", "token_pruner", "benchmark")
    assert flat == [(*(line[name] for name in names), Decimal(line["score"])) for line in lines()]
    best = PUBLISHED.row(2, "mistral-7b", 0.5, 0.7, "q-tuning", "q-tuning")
    assert PUBLISHED.scores[best] == {"gsm8k": Decimal("48.07"), "math": Decimal("6.14"), "avg": Decimal("26.57")}
    assert str(best) == "table 2, Mistral-7B, 50x70, Q-Tuning"


def test_rows_are_found_by_what_they_are() -> None:
    row = PUBLISHED.row(1, "llama2-7b", 0.125, 0.5, "q-tuning", "q-tuning")
    baselines = PUBLISHED.baselines(row)
    assert len(baselines) == 16 and row not in baselines
    assert {other.budget for other in baselines} == {"12.5x50"}
    assert PUBLISHED.row(1, "llama2-7b", "full").method == "Full data"
    assert PUBLISHED.benchmarks(1) == ["arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa"]
    with pytest.raises(KeyError):
        PUBLISHED.row(1, "llama3-8b", "full")  # it is in table 2 only


def test_two_scores_in_one_place_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "scores.csv", [lines()[0], lines()[0]])
    with pytest.raises(ValueError, match="table 2, LLaMA3-8B, 25x50, random \\+ random: two scores on gsm8k"):
        read_published(path)


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

    def count(benchmark: str, items: int) -> int:
        printed = [float(scores[benchmark]) for scores in PUBLISHED.scores.values() if benchmark in scores]
        return sum(not possible(score, items) for score in printed)

    assert (count("arc_challenge", 295), count("arc_challenge", 1172)) == (0, 90)
    assert (count("arc_easy", 567), count("arc_easy", 2376)) == (8, 80)
    assert count("gsm8k", 1319) == 1
    assert (count("math", 5000), count("math", 500)) == (0, 140)
    assert count("triviaqa", 8837) == 0


def test_table_6_and_figure_7() -> None:
    rows = {row.budget: row for row in read_efficiency()}
    assert [(name, float(row.selection), float(row.total), float(row.peak_memory)) for name, row in rows.items()] == [
        ("12.5x50", 42.84, 65, 27),
        ("25x50", 46.13, 70, 35),
        ("50x50", 52.72, 80, 50),
        ("100x100", 0, 90, 78),
    ]
    shares = read_figure7()
    assert len(shares) == 6
    # each run of six is a whole, but for its rounding
    assert [float(sum(of[part] for of in shares.values())) for part in ("pruned", "kept")] == [100.1, 100.0]
    assert float(shares["gold-answer-spans"]["kept"]) == 3.5
