"""Claims asked of our own runs: paired by seed and item, never over fewer seeds, only of comparable runs."""

import re
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from cell_folders import of_store
from our_runs import ITEMS, SAMPLES, Row, evaluation, options, store_of, table1, table2

from qtuning.errors import UserError
from qtuning.paper.audit import audit_page
from qtuning.paper.claims import check_claims
from qtuning.paper.published import read_published
from qtuning.paper.recompute import read_ours
from qtuning.statistics.compare import compare, score_intervals

PUBLISHED = read_published()
EVERY_ROW = "outperform full-data training"


def judged(rows: list[Row], claim: str = "LLaMA2-7B 3.3 above", answers: bool = True) -> tuple[str, str]:
    """What our runs say of the claim whose statement has these words: (verdict, numbers)."""
    store = store_of(rows)
    if not answers:
        vars(store)["items"] = store.items.clear()
    findings = check_claims(PUBLISHED, read_ours(store, PUBLISHED))
    (ours,) = [finding.ours for finding in findings if claim in finding.statement]
    assert ours is not None
    return ours.verdict, ours.numbers


def interval(text: str) -> Any:
    """The interval of a printed figure: low, high."""
    (found,) = re.findall(r"95% interval (\S+) to (\S+?)(?:;|,|$)", text)
    return pytest.approx(tuple(map(float, found)), abs=0.00501)


def q_tuning(make: Callable[..., pl.DataFrame], rows: list[Row], **place: str) -> tuple[float, float]:
    """Q-Tuning's row of `compare` or `score_intervals`, on the average: low, high."""
    frame = of_store(make, store_of(rows), rows[0]["experiment"])
    (row,) = frame.filter(method="q-tuning", benchmark="avg", **place).to_dicts()
    return row["low"], row["high"]


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        ((3.1, 3.3, 3.5), "holds"),
        ((2.0, 2.1, 2.2), "contradicted"),
        ((-2.0, 3.0, 8.0), "cannot be judged"),  # it agrees with the claim, and with no gain
    ],
)
@pytest.mark.parametrize("best", ["longest+ppl", "random+random"])
def test_a_margin_is_judged_by_its_interval_over_seeds_and_items(gain: Any, verdict: Any, best: Any) -> None:
    rows = table1(lambda seed: gain[seed], best=best)
    found, numbers = judged(rows)
    assert found == verdict
    label = {"longest+ppl": "longest + PPL", "random+random": "random + random"}[best]
    assert f"41.00 ({label}, best of 16) = {sum(gain) / 3:+.2f}, 95% interval" in numbers
    if best == "random+random":  # which `compare` compares with, too
        assert q_tuning(compare, rows, against=best) == interval(numbers)


def test_the_difference_from_full_data_is_that_of_the_comparisons() -> None:
    rows = table1(lambda seed: -9.0 + 0.1 * seed, seeds=(0, 1))
    _, numbers = judged(rows, "best averages 37.74")
    (mine,) = [text for text in numbers.split("; ") if text.startswith("LLaMA2-7B 12.5x50: ") and "Full data" in text]
    assert q_tuning(compare, rows, against="full") == interval(mine)


@pytest.mark.parametrize(("gain", "found"), [(3.3, "1 above"), (-9.0, "0 above, 1 below")])
def test_every_row_is_needed_for_a_claim_about_all_of_them(gain: float, found: str) -> None:
    verdict, numbers = judged(table1(lambda seed: gain + 0.01 * seed), EVERY_ROW)
    assert verdict == "cannot be judged"
    missing = "26 cannot be told (no runs of Mistral-7B for table 1)"
    assert numbers == f"averages against full data: {found} of 27, {missing}"


def test_two_different_answers_make_a_claim_partly_true_whatever_is_missing() -> None:
    """Table 1: Q-Tuning is above random pruning, and below the best baseline."""
    verdict, numbers = judged(table1(lambda seed: -4.0 + 0.01 * seed), "consistent gains on all benchmarks")
    assert verdict == "partly"
    assert "against random + random: 5 above of 10, 5 cannot be told (no runs of Mistral-7B for table 1)" in numbers
    assert "against the best of 16: 0 above, 5 below of 10" in numbers


def test_a_score_has_the_interval_of_score_intervals_and_stays_within_what_a_score_can_be() -> None:
    for level, part in ((3.0, "95% interval "), (-39.0, "95% interval 0.00 to ")):
        rows = table1(lambda seed, level=level: level + seed, (0, 1), "table8", samples=0.25)  # type: ignore[misc]
        _, numbers = judged(rows, "LLaMA2-7B 36.5")
        assert q_tuning(score_intervals, rows) == interval(numbers)
        assert part in numbers


def test_an_interval_of_everything_is_none() -> None:
    rows = table1(lambda seed: 30.0 * seed - 10, (0, 1), "table8", samples=0.25)
    alone = [row for row in rows if row["method"] == "q-tuning"]  # nobody to borrow from
    verdict, numbers = judged(alone, "LLaMA2-7B 36.5")
    assert verdict == "cannot be judged"
    assert numbers.endswith("no interval: it would be all of 0 to 100")


def test_a_relative_change_is_that_of_the_means_and_its_range_that_of_both_intervals() -> None:
    def rows(full: float) -> list[Row]:
        scores = {"q-tuning": lambda seed: 24.0 + 0.2 * (seed % 2), "full": lambda seed: full + 0.2 * (seed % 3)}
        return table2(scores | {"random+random": lambda seed: 20.0})

    _, numbers = judged(rows(20.0), "+38% average")
    assert "24.10 - 20.15 (Full data) = +3.95, +19.60% of 20.15, 95% interval" in numbers
    low, high = interval(numbers).expected
    least, most = (100 * bound / 20.15 for bound in q_tuning(compare, rows(20.0), against="full"))
    assert 0 < low < least < 19.60 < most < high
    _, numbers = judged(rows(0.2), "+38% average")
    assert "no interval: the score that it is relative to, full, cannot be told from zero" in numbers


@pytest.mark.parametrize(("other", "same"), [(0.0, 4), (0.1, 0)])
def test_rows_that_are_the_same_at_two_budgets(other: float, same: int) -> None:
    pairs = [f"{sample}+sparsevlm" for sample in SAMPLES]
    rows = table2(dict.fromkeys(pairs, lambda seed: 20.0 + seed))
    rows += table2(dict.fromkeys(pairs, lambda seed: 20.0 + seed + other), (0.25, 0.7), "table12")
    numbers = f"{same} of 12 pairs of rows have the same score on every benchmark; 8 pairs are missing"
    assert judged(rows, "SparseVLM rows") == ("cannot be judged", numbers)


def test_one_seed_says_nothing_and_its_figure_is_shown() -> None:
    verdict, numbers = judged(table1(lambda seed: 3.3, seeds=(0,)))
    assert verdict == "cannot be judged"
    assert numbers.endswith("= +3.30, no interval: one seed")


def test_without_answers_item_by_item_there_is_no_interval() -> None:
    verdict, numbers = judged(table1(lambda seed: 3.3), answers=False)
    assert verdict == "cannot be judged"
    assert "no interval: the store has no items of arc_easy" in numbers


def test_an_average_over_other_benchmarks_is_refused() -> None:
    rows = table1(lambda seed: 3.3)
    more = [r | {"benchmark": "math", "items": ITEMS["math"], "score": 1.0} for r in rows if r["benchmark"] == "gsm8k"]
    assert judged(rows + more) == (
        "cannot be judged",
        "table 1, LLaMA2-7B, 12.5x50, Q-Tuning, Avg: our average is over ARC-E, ARC-C, GSM8K, SQuAD, TriviaQA, MATH",
    )


def test_a_hole_a_missing_baseline_and_a_variant_are_no_evidence() -> None:
    rows = table1(lambda seed: 3.3)
    hole = {"score": None, "status": "failed", "reason": "out of memory"}
    failed = ("random+fastv", "1", "squad")
    for each, reason in (
        (
            [r | hole if (r["method"], r["seed"], r["benchmark"]) == failed else r for r in rows],
            "seed 1 failed: no average without squad: out of memory",
        ),
        (
            [r for r in rows if r["method"] != "entropy+sparsevlm"],
            "entropy + SparseVLM, Avg: not part of this experiment",
        ),
        (
            [r | {"options": options(**{"lambda": 0.3})} if r["method"] == "q-tuning" else r for r in rows],
            "Q-Tuning, Avg: run only with other options or readings",
        ),
        (
            [r for r in rows if (r["method"], r["seed"]) != ("longest+ppl", "2")],
            "longest + PPL, Avg: seed 2 not run",
        ),
    ):
        verdict, numbers = judged(each)
        assert verdict == "cannot be judged"
        assert reason in numbers
    with pytest.raises(UserError, match="claim the same place"):
        judged([*rows, next(r for r in rows if r["method"] == "q-tuning")])


def test_other_models_and_other_experiments_are_no_evidence() -> None:
    mini = table1(lambda seed: 3.3, experiment="table1-mini", model="mini", train_set="mini")
    for rows in (mini, table1(lambda seed: 3.3, experiment="another")):
        assert read_ours(store_of(rows), PUBLISHED) is None
    table = audit_page(check_claims(PUBLISHED), PUBLISHED).tables[0]
    assert [column.name for column in table.columns] == ["Where", "Claim", "The paper's numbers"]


def test_the_page_tells_what_our_runs_show() -> None:
    ours = read_ours(store_of(table1(lambda seed: 3.3)), PUBLISHED)
    page = audit_page(check_claims(PUBLISHED, ours), PUBLISHED)
    assert not any("no runs" in text for text in page.lead)
    table = page.tables[0]
    assert table.columns[-1].name == "Our runs"
    texts = {str(row[1]): str(row[-1]) for row in table.rows if row[0] == "v1"}
    assert texts["MathInstruct, Mistral-7B: each average is the mean of its two benchmarks"] == "", "ours are computed"
    mine = texts["12.5% samples, 50% tokens: LLaMA2-7B 3.3 above the best baseline"]
    assert mine.startswith("holds: LLaMA2-7B 12.5x50: 44.30 - 41.00 (longest + PPL, best of 16) = +3.30")
    gain = next(text for claim, text in texts.items() if claim.startswith("+38%"))
    assert gain == "cannot be judged: no runs of SmolLM2-1.7B for table 2"


def test_a_limited_experiment_is_no_evidence() -> None:
    """500 samples and 20 items of each benchmark: a clear margin, and nothing that the paper's claim is about."""
    limited = {"evaluation_config": evaluation(limit=20), "items": 20, "samples_available": 1500.0}
    whole = table1(lambda seed: 2.0 + 0.1 * seed, experiment="table1-try")
    assert judged(whole)[0] == "contradicted"
    verdict, numbers = judged([r | limited for r in whole])
    assert verdict == "cannot be judged"
    assert "Q-Tuning, Avg: limit: the first 20 items of each benchmark; " in numbers
    assert "scale: 1,500 samples in all epochs, where 3 epochs of the whole set have 210,000" in numbers


def test_the_edition_with_the_most_comparable_scores_is_taken() -> None:
    refused = [r | {"evaluation_config": evaluation(limit=20)} for r in table1(lambda seed: 9.0, experiment="table1-a")]
    varied = [r | {"training": "batch_size=16"} for r in table1(lambda seed: 8.0, experiment="table1-b")]
    assert "+3.30" in judged(refused + varied + table1(lambda seed: 3.3, experiment="table1-c"))[1]
