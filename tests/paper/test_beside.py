"""Published and ours, number by number: verdicts on a table worked out by hand."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from our_runs import Row, evaluation, options, rows_of

from qtuning.paper.beside import Number, compare_with_paper, paper_page, prediction_interval, tidy_numbers
from qtuning.paper.published import PaperRow, Published, changed_in, read_published
from qtuning.paper.signs import compare_signs, count_signs, tidy_signs
from qtuning.statistics.summary import AVERAGE, Summary, summarise
from qtuning.store.schema import SCHEMA
from qtuning.tables.markdown import render_markdown

MINI: dict[str, Any] = {
    "experiment": "table2-mini",
    "model": "mini",
    "model_label": "Mini",
    "train_set": "mini",
    "train_set_label": "Mini SFT",
    "evaluation_config": evaluation(source="mini-world"),
}
Q_TUNING = ("q-tuning", "llama3-8b", "gsm8k", 40.49)


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


def our_rows(**changes: Any) -> list[Row]:
    """LLaMA3-8B, both benchmarks alike, two seeds: full 50, 54; random 30, 33; q-tuning 40, 41; zero-shot 30."""
    by_seed = {"full": (50, 54), "random+random": (30, 33), "q-tuning": (40, 41), "zero-shot": (30,)}
    scores = {method: values.__getitem__ for method, values in by_seed.items()}
    rows = rows_of("table2", "llama3-8b", "mathinstruct", scores, (0, 1), ("gsm8k", "math"))
    # the model without training has no train set
    fixed = {name: value for name, value in changes.items() if not name.startswith("train_set")}
    return [row | (changes if row["seed"] else fixed) for row in rows]


def summary_of(rows: list[Row]) -> Summary:
    return summarise(pl.DataFrame(rows, schema=SCHEMA))


def beside(rows: list[Row], theirs: Published) -> list[Number]:
    return compare_with_paper(summary_of(rows), theirs, 2)


def verdicts(rows: list[Row], *theirs: tuple[str, str, str, float]) -> list[tuple[str, str]]:
    return [(number.status, number.reason) for number in beside(rows, published(*theirs))]


def test_matched_and_off() -> None:
    numbers = beside(
        our_rows(),
        published(
            ("q-tuning", "llama3-8b", "gsm8k", 47.92),
            ("q-tuning", "llama3-8b", "math", 52.0),
            ("random", "llama3-8b", AVERAGE, 31.5),
            ("full", "llama3-8b", "gsm8k", 52.01),
            ("zero_shot", "llama3-8b", "gsm8k", 27.82),
            ("zero_shot", "llama3-8b", "math", 28.5),
        ),
    )
    assert [number.status for number in numbers] == ["matched", "off", "matched", "matched", "matched", "off"]
    assert not any(number.reason for number in numbers)
    first = numbers[0]
    # sd of 40, 41 = 0.7071; t(0.975; 1) = 12.706; half-width 12.706 * 0.7071 * sqrt(1.5) = 11.004
    assert (first.ours, first.values) == (40.5, (40.0, 41.0))
    assert (first.low, first.high) == (pytest.approx(29.496, abs=0.001), pytest.approx(51.504, abs=0.001))
    assert numbers[1].difference == pytest.approx(-11.5)
    # no seeds: 1.96 sqrt(0.3 * 0.7 / 1319) = 2.473 points
    assert (numbers[4].low, numbers[4].high) == (pytest.approx(27.527, abs=0.001), pytest.approx(32.473, abs=0.001))


def test_interval_of_an_average_with_one_seed() -> None:
    summary = summary_of(our_rows())
    line = next(line for line in summary.lines if line.method == "zero-shot")
    # half of 1.96 sqrt(0.21 / 1319 + 0.21 / 5000)
    half = 0.5 * 1.959964 * (0.21 / 1319 + 0.21 / 5000) ** 0.5 * 100
    found = prediction_interval(summary, line, "llama3-8b", AVERAGE)
    assert found == (pytest.approx(30 - half), pytest.approx(30 + half))


def test_holes_and_absent_rows_are_not_run() -> None:
    rows = [row for row in our_rows() if (row["method"], row["seed"]) != ("q-tuning", "1")]
    theirs = (Q_TUNING, ("longest", "llama3-8b", "gsm8k", 30.02))
    assert verdicts(rows, *theirs) == [
        ("not run", "seed 1 not run: no row of this cell in the score store; collect the scores again"),
        ("not run", "not part of this experiment"),
    ]
    assert [number.ours for number in beside(rows, published(*theirs))] == [None, None]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"evaluation_config": evaluation(limit=100)}, "limit: the first 100 items of each benchmark"),
        (
            {"evaluation_config": evaluation(limit=100, limit_seed=3)},
            "limit: 100 items of each benchmark (a draw with seed 3)",
        ),
        ({"evaluation_config": evaluation(fewshot=2)}, "fewshot: 2 instead of each benchmark's own"),
        ({"evaluation_config": "{}"}, "setting unknown: source; setting unknown: limit; setting unknown: fewshot"),
        ({"train_set": "gsm8k", "train_set_label": "GSM8K train"}, "the train set is GSM8K train"),
        (
            {"samples_available": 3e3},
            "scale: 3,000 samples in all epochs, where 3 epochs of the whole set have 786,117",
        ),
        ({"samples_available": None}, "setting unknown: how many samples it was trained on"),
    ],
)
def test_not_comparable(changes: dict[str, Any], reason: str) -> None:
    rows = our_rows(**changes)
    assert verdicts(rows, Q_TUNING) == [("not comparable", reason)]
    assert beside(rows, published(Q_TUNING))[0].ours == 40.5, "the number is shown all the same"


def test_other_items_are_seen_from_the_published_numbers() -> None:
    rows = [row | {"items": 500 if row["benchmark"] == "math" else 1319} for row in our_rows()]
    row = read_published().row(2, "llama3-8b", "full")
    numbers = beside(rows, Published({row: read_published().scores[row]}))
    assert {number.benchmark: (number.status, number.reason) for number in numbers} == {
        "gsm8k": ("matched", ""),
        "math": ("not comparable", "benchmark split: 1 of the 1 published MATH scores are no share of 500 items"),
        AVERAGE: ("not comparable", "the average holds MATH: another benchmark split"),
    }


def test_other_readings_are_not_the_published_method() -> None:
    changed = {"options": options(**{"lambda": 0.3})}
    rows = [row | changed if row["method"] == "q-tuning" else row for row in our_rows()]
    reason = "run only with other options or readings: lambda=0.3"
    assert verdicts(rows, Q_TUNING) == [("not comparable", reason)]


def test_a_mini_edition_is_one_line() -> None:
    rows = our_rows(**MINI)
    numbers = beside(rows, read_published())
    assert len(numbers) == 171
    assert tidy_numbers(numbers, ["mini"]).select("model", "numbers", "status", "reason").rows() == [
        (
            "llama3-8b mistral-7b smollm2-1.7b",
            171,
            "not comparable",
            "the model is Mini; the train set is Mini SFT; the questions are those of the mini world",
        )
    ]
    page = render_markdown(paper_page(summary_of(rows), numbers, []))
    assert page.count("not comparable because the model is Mini;") == 1
    assert "171 published numbers: 0 matched, 0 off, 0 not run, 171 not comparable." in page
    assert "published and ours" not in page


def test_csv_has_a_row_per_number_of_our_models() -> None:
    theirs = published(("q-tuning", "llama3-8b", "gsm8k", 36.32), ("q-tuning", "mistral-7b", "gsm8k", 41.47))
    rows = tidy_numbers(beside(our_rows(), theirs), ["llama3-8b"]).to_dicts()
    assert [(row["model"], row["published"], row["status"]) for row in rows] == [
        ("llama3-8b", 36.32, "matched"),
        ("mistral-7b", None, "not comparable"),
    ]
    assert rows[0]["difference"] == pytest.approx(4.18)
    assert rows[1]["reason"] == "the model is llama3-8b"


def test_page_shows_published_ours_interval_and_verdict() -> None:
    theirs = published(("q-tuning", "llama3-8b", "gsm8k", 47.92), ("q-tuning", "llama3-8b", "math", 52.0))
    page = render_markdown(paper_page(summary_of(our_rows()), beside(our_rows(), theirs), []))
    assert "47.92 / 40.50 [29.5, 51.5] ✓" in page
    assert "52.00 / 40.50 [29.5, 51.5] ↓11.5" in page
    assert "2 published numbers: 1 matched, 1 off, 0 not run, 0 not comparable." in page


def averages(**rows: tuple[float, ...]) -> Published:
    """Averages of LLaMA3-8B and, where there are two, of Mistral-7B."""
    models = ("llama3-8b", "mistral-7b")
    names = {name: name.replace("q_", "q-") for name in rows}
    return published(*((names[name], models[i], AVERAGE, score) for name in rows for i, score in enumerate(rows[name])))


def test_signs() -> None:
    """Ours: q-tuning minus random 10, 8; minus full -10, -13; minus zero-shot 10, 11."""
    theirs = averages(q_tuning=(20, 22), random=(13, 14), full=(18, 21), zero_shot=(25, 11), longest=(15,))
    signs = compare_signs(summary_of(our_rows(**MINI)), theirs, 2)
    assert [(sign.rival.setting, sign.rival.sample_pruner, sign.same_sign) for sign in signs] == [
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


def test_signs_of_a_model_the_paper_has_are_compared_with_that_model() -> None:
    (sign,) = compare_signs(summary_of(our_rows()), averages(q_tuning=(20, 22), zero_shot=(25, 11)), 2)
    assert (sign.paper, sign.same_sign) == ({"llama3-8b": -5.0}, "no")


def test_seeds_that_disagree_decide_nothing() -> None:
    # random + random at seed 1: 45, above q-tuning's 41
    crossed = ("random+random", "1")
    rows = [row | {"score": 45.0} if (row["method"], row["seed"]) == crossed else row for row in our_rows()]
    (sign,) = compare_signs(summary_of(rows), averages(q_tuning=(20, 22), random=(13, 14)), 2)
    assert sign.same_sign == "seeds disagree"


def other_rows(experiment: str, train_set: str, method: str, budget: tuple[float, float], **changes: Any) -> list[Row]:
    """Mistral-7B at two seeds, all benchmarks 50 and 51."""
    benchmarks = ("arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa")
    rows = rows_of(experiment, "mistral-7b", train_set, {method: (50, 51).__getitem__}, (0, 1), benchmarks, budget)
    return [row | changes for row in rows]


def found_in(table: int, rows: list[Row]) -> list[str]:
    """The rows of the paper's table that ours stand beside."""
    numbers = compare_with_paper(summary_of(rows), read_published(), table)
    return list(dict.fromkeys(str(number.row) for number in numbers if number.ours is not None))


def test_rows_of_the_small_tables_find_ours() -> None:
    """Tables 13 and 14 have methods that prune only samples, or only tokens."""
    for pair in ("full+rho-1", "random+rho-1"):  # random pruning of nothing is no pruning
        rows = other_rows("table14", "wizardlm", pair, (1.0, 0.5))
        rows += other_rows("table14", "wizardlm", "random+rho-1", (0.25, 0.5))
        assert found_in(14, rows) == [
            "table 14, Mistral-7B, 25x50, random + Rho-1",
            "table 14, Mistral-7B, 100x50, full + Rho-1",
        ]
    for pair in ("less+none", "less+random"):
        (row,) = found_in(13, other_rows("table13", "wizardlm", pair, (0.125, 1.0)))
        assert row.startswith("table 13, Mistral-7B, 12.5x100, ")


def test_a_preset_is_not_the_published_method() -> None:
    pair = dict.fromkeys(("sample_pruner", "token_pruner"), "q-tuning")
    assert found_in(3, other_rows("table3", "wizardlm", "q-tuning", (0.125, 0.5), **pair))
    assert not found_in(3, other_rows("table3", "wizardlm", "q-tuning-budget", (0.125, 0.5), **pair))


def test_the_reference_model_of_ours_is_not_a_variant() -> None:
    """The paper does not name its reference models."""
    reference = json.dumps({"sample": {}, "token": {}, "method": {"reference": "10% of the data, then 4 parts"}})
    rows = other_rows("table14", "wizardlm", "random+rho-1", (0.25, 0.5), options=reference)
    assert found_in(14, rows) == ["table 14, Mistral-7B, 25x50, random + Rho-1"]
    (line,) = summary_of(rows).lines
    assert line.variant == "reference=10% of the data, then 4 parts" and changed_in(line) == ""
    both = replace(line, variant=f"batch_size=4, {line.variant}, within=sample")
    assert changed_in(both) == "batch_size=4, within=sample"


def test_methods_that_only_prune_samples_or_tokens_are_compared_at_their_share() -> None:
    """Table 13's full-token rows stand at 12.5x100 and compete with Q-Tuning at 12.5x50."""
    rows = other_rows("table13", "wizardlm", "q-tuning", (0.125, 0.5))
    signs = compare_signs(summary_of(rows), read_published(), 13)
    budgets = {(sign.rival.budget, sign.rival.token_pruner) for sign in signs if sign.rival.setting == "pruned"}
    assert budgets == {("12.5x50", "random"), ("12.5x100", "none")}
    assert {sign.rival.setting for sign in signs} == {"pruned", "full", "zero_shot"}


@pytest.mark.parametrize(("items", "status"), [(567, "matched"), (2376, "not comparable")])
def test_arc_is_comparable_on_the_questions_that_the_paper_asked(items: int, status: str) -> None:
    rows = [
        row | {"items": items, "score": 70.0 + int(row["seed"])} if row["benchmark"] == "arc_easy" else row
        for row in other_rows("table8", "wizardlm", "q-tuning", (0.25, 0.5))
    ]
    numbers = compare_with_paper(summary_of(rows), read_published(), 8)
    (number,) = [each for each in numbers if each.ours is not None and each.benchmark == "arc_easy"]
    assert number.status == status
    assert ("evaluation.protocol: paper" in number.reason) == (status == "not comparable")


def test_rows_that_are_inferred_are_marked_and_explained() -> None:
    for table, told in ((15, True), (3, False)):
        rows = other_rows(f"table{table}", "wizardlm", "q-tuning", (0.125, 0.5))
        summary = summary_of(rows)
        page = render_markdown(paper_page(summary, compare_with_paper(summary, read_published(), table), []))
        assert ("samples lost in Q3 only (inferred)" in page) == ("Inferred: the paper's text" in page) == told
