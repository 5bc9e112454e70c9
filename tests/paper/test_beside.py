"""Published and ours, number by number: verdicts on a table worked out by hand."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from cell_folders import Folders

from qtuning.paper.beside import Number, compare_with_paper, paper_page, prediction_interval, tidy_numbers
from qtuning.paper.published import PaperRow, Published, read_published
from qtuning.paper.signs import compare_signs, count_signs, tidy_signs
from qtuning.statistics.summary import AVERAGE, summarise
from qtuning.store.store import Store, write_store
from qtuning.tables.markdown import render_markdown

Make = Callable[..., Folders]
TWO: dict[str, Any] = {"benchmarks": ["gsm8k", "math"], "source": "hub"}


def published(*rows: tuple[str, str, str, float]) -> Published:
    """Rows of table 2 at 25x50: (sample pruner, model, benchmark, score); `full` and `zero_shot` are settings."""
    scores: dict[PaperRow, dict[str, Decimal]] = {}
    for pruner, model, benchmark, score in rows:
        if pruner in ("full", "zero_shot"):
            share = Decimal(100 * (pruner == "full"))
            row = PaperRow(2, "mathinstruct", model, pruner, share, share, "none", "none")  # type: ignore[arg-type]
        else:
            token = "q-tuning" if pruner == "q-tuning" else "random"
            row = PaperRow(2, "mathinstruct", model, "pruned", Decimal(25), Decimal(50), pruner, token)
        scores.setdefault(row, {})[benchmark] = Decimal(str(score))
    return Published(scores)


def beside(scores: pl.DataFrame, theirs: Published) -> list[Number]:
    return compare_with_paper(summarise(scores), theirs, 2)


@pytest.fixture
def make_scores(make_folders: Make) -> Callable[..., pl.DataFrame]:
    """LLaMA3-8B, both benchmarks alike: zero-shot 30; full 50, 54; random 30, 33; q-tuning 40, 41."""

    def make(**changes: Any) -> pl.DataFrame:
        changes = {
            "name": "table2",
            "models": ["llama3-8b"],
            "train_sets": ["mathinstruct"],
            "budgets": ["25x50"],
            "methods": ["full", "random+random", "q-tuning"],
            "evaluation": TWO,
        } | changes
        folders = make_folders(**changes)
        for text, fraction in {
            "full-s0": 0.50,
            "full-s1": 0.54,
            "random+random-25x50-s0": 0.30,
            "random+random-25x50-s1": 0.33,
            "q-tuning-25x50-s0": 0.40,
            "q-tuning-25x50-s1": 0.41,
            "zero-shot": 0.30,
        }.items():
            for cell in folders.grid.cells:
                if text in folders.folder(cell).name:
                    folders.finish(cell, lambda _, value=fraction: value)  # type: ignore[misc]
        write_store([folders.grid], folders.results)
        items = pl.col("benchmark").replace_strict({"gsm8k": 1319, "math": 5000}, default=pl.col("items"))
        trained = pl.when(pl.col("train_set").is_not_null()).then(3.0 * 262_039)
        return Store(folders.results).experiment(changes["name"]).with_columns(items=items, samples_available=trained)

    return make


def verdicts(numbers: list[Number]) -> list[tuple[str, str]]:
    return [(number.status, number.reason) for number in numbers]


def test_matched_and_off(make_scores: Callable[..., pl.DataFrame]) -> None:
    scores = make_scores()
    numbers = beside(
        scores,
        published(
            ("q-tuning", "llama3-8b", "gsm8k", 47.92),
            ("q-tuning", "llama3-8b", "math", 52.0),
            ("random", "llama3-8b", AVERAGE, 31.5),
            ("full", "llama3-8b", "gsm8k", 52.01),
            ("zero_shot", "llama3-8b", "gsm8k", 27.82),
            ("zero_shot", "llama3-8b", "math", 28.5),
        ),
    )
    assert verdicts(numbers) == [(status, "") for status in ("matched", "off", "matched", "matched", "matched", "off")]
    first = numbers[0]
    # sd of 40, 41 = 0.7071; t(0.975; 1) = 12.706; half-width 12.706 * 0.7071 * sqrt(1.5) = 11.004
    assert (first.ours, first.values) == (40.5, (40.0, 41.0))
    assert (first.low, first.high) == (pytest.approx(29.496, abs=0.001), pytest.approx(51.504, abs=0.001))
    assert numbers[1].difference == pytest.approx(-11.5)
    # no seeds: 1.96 sqrt(0.3 * 0.7 / 1319) = 2.473 points
    assert (numbers[4].low, numbers[4].high) == (pytest.approx(27.527, abs=0.001), pytest.approx(32.473, abs=0.001))


def test_interval_of_an_average_with_one_seed(make_scores: Callable[..., pl.DataFrame]) -> None:
    summary = summarise(make_scores())
    line = next(line for line in summary.lines if line.method == "zero-shot")
    # half of 1.96 sqrt(0.21 / 1319 + 0.21 / 5000)
    half = 0.5 * 1.959964 * (0.21 / 1319 + 0.21 / 5000) ** 0.5 * 100
    found = prediction_interval(summary, line, "llama3-8b", AVERAGE)
    assert found == (pytest.approx(30 - half), pytest.approx(30 + half))


def test_holes_and_absent_rows_are_not_run(make_scores: Callable[..., pl.DataFrame]) -> None:
    scores = make_scores().filter(~((pl.col("method") == "q-tuning") & (pl.col("seed") == "1")))
    numbers = beside(
        scores, published(("q-tuning", "llama3-8b", "gsm8k", 36.32), ("longest", "llama3-8b", "gsm8k", 30.02))
    )
    assert verdicts(numbers) == [
        ("not run", "seed 1 not run: no row of this cell in the score store; collect the scores again"),
        ("not run", "not part of this experiment"),
    ]
    assert [number.ours for number in numbers] == [None, None]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"evaluation": TWO | {"limit": 100}}, "limit: the first 100 items of each benchmark"),
        ({"evaluation": TWO | {"fewshot": 2}}, "fewshot: 2 instead of each benchmark's own"),
        ({"train_sets": ["gsm8k"]}, "the train set is GSM8K train"),
    ],
)
def test_not_comparable(make_scores: Callable[..., pl.DataFrame], change: dict[str, Any], reason: str) -> None:
    numbers = beside(make_scores(**change), published(("q-tuning", "llama3-8b", "gsm8k", 40.49)))
    ((status, found),) = verdicts(numbers)
    assert status == "not comparable"
    assert reason in found
    assert numbers[0].ours == 40.5, "the number is shown all the same"


def test_other_items_are_seen_from_the_published_numbers(make_scores: Callable[..., pl.DataFrame]) -> None:
    scores = make_scores().with_columns(items=pl.when(pl.col("benchmark") == "math").then(500).otherwise(1319))
    row = read_published().row(2, "llama3-8b", "full")
    numbers = beside(scores, Published({row: read_published().scores[row]}))
    found = {number.benchmark: (number.status, number.reason) for number in numbers}
    assert found["gsm8k"] == ("matched", "")
    assert found["math"] == (
        "not comparable",
        "benchmark split: 1 of the 1 published MATH scores are no share of 500 items",
    )
    assert found[AVERAGE] == ("not comparable", "the average holds MATH: another benchmark split")


def test_scale_and_unknown_settings(make_scores: Callable[..., pl.DataFrame]) -> None:
    rows = published(("q-tuning", "llama3-8b", "gsm8k", 40.49))
    small = make_scores().with_columns(samples_available=pl.lit(3000.0))
    ((status, reason),) = verdicts(beside(small, rows))
    assert (status, reason) == (
        "not comparable",
        "scale: 3,000 samples in all epochs, where 3 epochs of the whole set have 786,117",
    )
    unknown = make_scores().with_columns(samples_available=pl.lit(None, pl.Float64))
    assert verdicts(beside(unknown, rows)) == [
        ("not comparable", "setting unknown: how many samples it was trained on")
    ]
    ((status, reason),) = verdicts(beside(make_scores().with_columns(evaluation_config=pl.lit("{}")), rows))
    assert (status, reason[:23]) == ("not comparable", "setting unknown: source")


def test_other_readings_are_not_the_published_method(make_scores: Callable[..., pl.DataFrame]) -> None:
    scores = make_scores(methods=["full", "random+random", {"method": "q-tuning", "options": {"lambda": 0.3}}])
    numbers = beside(scores, published(("q-tuning", "llama3-8b", "gsm8k", 40.49)))
    assert verdicts(numbers) == [("not comparable", "run only with other options or readings: lambda=0.3")]


def test_a_mini_edition_is_one_line(make_scores: Callable[..., pl.DataFrame]) -> None:
    mini = {"source": "mini-world", "batch_size": 64, "max_length": 256, "benchmarks": ["gsm8k", "math"]}
    scores = make_scores(name="table2-mini", models=["mini"], train_sets=["mini"], evaluation=mini)
    numbers = beside(scores, read_published())
    assert len(numbers) == 477
    frame = tidy_numbers(numbers)
    assert frame.select("model", "numbers", "status", "reason").rows() == [
        (
            "llama3-8b mistral-7b smollm2-1.7b",
            477,
            "not comparable",
            "the model is Mini; the train set is Mini SFT; the questions are those of the mini world",
        )
    ]
    page = render_markdown(paper_page(summarise(scores), numbers, []))
    assert page.count("not comparable because the model is Mini;") == 1
    assert "477 published numbers: 0 matched, 0 off, 0 not run, 477 not comparable." in page
    assert "published and ours" not in page


def test_csv_has_a_row_per_number_of_our_models(make_scores: Callable[..., pl.DataFrame]) -> None:
    numbers = beside(
        make_scores(),
        published(("q-tuning", "llama3-8b", "gsm8k", 36.32), ("q-tuning", "mistral-7b", "gsm8k", 41.47)),
    )
    rows = tidy_numbers(numbers).to_dicts()
    assert [(row["model"], row["published"], row["status"]) for row in rows] == [
        ("llama3-8b", 36.32, "matched"),
        ("mistral-7b", None, "not comparable"),
    ]
    assert rows[0]["difference"] == pytest.approx(4.18)
    assert rows[1]["reason"] == "the model is LLaMA3-8B"


def test_page_shows_published_ours_interval_and_verdict(make_scores: Callable[..., pl.DataFrame]) -> None:
    rows = published(("q-tuning", "llama3-8b", "gsm8k", 47.92), ("q-tuning", "llama3-8b", "math", 52.0))
    scores = make_scores()
    page = render_markdown(paper_page(summarise(scores), beside(scores, rows), []))
    assert "47.92 / 40.50 [29.5, 51.5] ✓" in page
    assert "52.00 / 40.50 [29.5, 51.5] ↓11.5" in page
    assert "2 published numbers: 1 matched, 1 off, 0 not run, 0 not comparable." in page


def test_signs(make_scores: Callable[..., pl.DataFrame]) -> None:
    """Ours: q-tuning minus random 10, 8; minus full -10, -13; minus zero-shot 10, 11."""
    mini = {"source": "mini-world", "batch_size": 64, "max_length": 256, "benchmarks": ["gsm8k", "math"]}
    scores = make_scores(name="table2-mini", models=["mini"], train_sets=["mini"], evaluation=mini)
    rows = published(
        ("q-tuning", "llama3-8b", AVERAGE, 20.0),
        ("q-tuning", "mistral-7b", AVERAGE, 22.0),
        ("random", "llama3-8b", AVERAGE, 13.0),
        ("random", "mistral-7b", AVERAGE, 14.0),
        ("full", "llama3-8b", AVERAGE, 18.0),
        ("full", "mistral-7b", AVERAGE, 21.0),
        ("zero_shot", "llama3-8b", AVERAGE, 25.0),
        ("zero_shot", "mistral-7b", AVERAGE, 11.0),
        ("longest", "llama3-8b", AVERAGE, 15.0),
        ("random", "llama3-8b", "gsm8k", 99.0),
    )
    signs = compare_signs(summarise(scores), rows, 2)
    found = [(sign.rival.setting, sign.rival.sample_pruner, sign.same_sign) for sign in signs]
    assert found == [
        ("zero_shot", "none", "paper divided"),
        ("full", "none", "no"),
        ("pruned", "random", "yes"),
        ("pruned", "longest", "–"),
    ]
    assert signs[2].paper == {"llama3-8b": 7.0, "mistral-7b": 8.0}
    assert signs[2].ours == pytest.approx((10, 8))
    assert count_signs(signs) == (
        "Same sign in 1 of 2 comparisons that can be decided; besides: 1 where the paper's models do, "
        "1 with a score missing."
    )
    table = tidy_signs(signs, "table2-mini")
    assert len(table) == 7
    assert table.filter(pl.col("method") == "full")["difference"].to_list() == [-11.5, -11.5]


def test_signs_of_a_model_the_paper_has_are_compared_with_that_model(
    make_scores: Callable[..., pl.DataFrame],
) -> None:
    rows = published(
        ("q-tuning", "llama3-8b", AVERAGE, 20.0),
        ("q-tuning", "mistral-7b", AVERAGE, 22.0),
        ("zero_shot", "llama3-8b", AVERAGE, 25.0),
        ("zero_shot", "mistral-7b", AVERAGE, 11.0),
    )
    (sign,) = compare_signs(summarise(make_scores()), rows, 2)
    assert (sign.paper, sign.same_sign) == ({"llama3-8b": -5.0}, "no")


def test_seeds_that_disagree_decide_nothing(make_scores: Callable[..., pl.DataFrame]) -> None:
    scores = make_scores()
    # random + random at seed 1: 45, above q-tuning's 41
    crossed = (pl.col("method") == "random+random") & (pl.col("seed") == "1") & pl.col("headline")
    scores = scores.with_columns(score=pl.when(crossed).then(45.0).otherwise(pl.col("score")))
    rows = published(("q-tuning", "llama3-8b", AVERAGE, 20.0), ("random", "llama3-8b", AVERAGE, 13.0))
    (sign,) = compare_signs(summarise(scores), rows, 2)
    assert sign.same_sign == "seeds disagree"
