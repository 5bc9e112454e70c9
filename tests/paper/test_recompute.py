"""Claims asked of our own runs: paired by seed and item, never over fewer seeds, only of comparable runs."""

import json
import operator
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from cell_folders import of_store

from qtuning.errors import UserError
from qtuning.paper import claims
from qtuning.paper.claims import check_claims, claims_page
from qtuning.paper.published import read_published
from qtuning.paper.recompute import read_ours
from qtuning.statistics.compare import compare, score_intervals
from qtuning.store.schema import ITEM_SCHEMA, SCHEMA
from qtuning.store.store import Store

PUBLISHED = read_published()
TABLE1 = ("arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa")
# what the published scores are shares of (docs/tables.md)
ITEMS = {"arc_easy": 567, "arc_challenge": 295, "gsm8k": 1319, "squad": 10_570, "triviaqa": 8837, "math": 5000}
SAMPLES, TOKENS = ("random", "longest", "infobatch", "entropy"), ("random", "ppl", "fastv", "sparsevlm")
ANSWERED = 40
"""Items of each benchmark that the stores below hold answers to."""

Row = dict[str, Any]


def row(
    experiment: str,
    model: str,
    train_set: str,
    method: str,
    seed: int,
    score: float | None,
    benchmark: str,
    **changes: Any,
) -> Row:
    """One headline row, as collecting leaves it."""
    sample, _, token = {"q-tuning": "q-tuning+q-tuning", "full": "full+none"}.get(method, method).partition("+")
    place = {"experiment": experiment, "model": model, "train_set": train_set, "method": method, "seed": str(seed)}
    pruning = {"sample_pruner": sample, "token_pruner": token, "sample_ratio": 0.125, "token_ratio": 0.5}
    values = (
        place
        | (pruning if method != "full" else pruning | {"sample_ratio": 1.0, "token_ratio": 1.0})
        | {"cell": f"{model}-{train_set}-{method}-{seed}", "evaluation": "evaluation", "backend": "{}", "digest": "0"}
        | {"options": json.dumps({"sample": {}, "token": {}, "method": {}}), "training": "", "headline": True}
        | {"benchmark": benchmark, "score": score, "status": "done", "items": ITEMS[benchmark]}
        | {"metric": "f1" if benchmark == "squad" else "acc", "samples_available": 3 * 70_000.0}
        | {"evaluation_config": json.dumps({"source": "hub", "limit": None, "fewshot": None})}
    )
    return dict.fromkeys(SCHEMA) | values | changes


def table1(
    gain: Callable[[int], float],
    seeds: Sequence[int] = (0, 1, 2),
    experiment: str = "table1",
    model: str = "llama2-7b",
    train_set: str = "wizardlm",
    best: str = "longest+ppl",
) -> list[Row]:
    """Q-Tuning, 16 baselines and full data; `gain(seed)` is Q-Tuning's over the best baseline (40)."""
    rng = np.random.default_rng(1)
    rows = []
    for seed in seeds:
        baselines = {f"{sample}+{token}": 30 + 0.2 * rng.normal() for sample in SAMPLES for token in TOKENS}
        scores = baselines | {best: 40.0, "full": 35 + 0.2 * rng.normal(), "q-tuning": 40.0 + gain(seed)}
        for benchmark in TABLE1:
            # the seeds differ by one point in every row; only pairing takes that out
            rows += [row(experiment, model, train_set, m, seed, s + seed, benchmark) for m, s in scores.items()]
    return rows


def store_of(rows: list[Row]) -> Store:
    """A store in memory: answers whose means are the scores, an item as hard for all methods but for a little."""
    store = Store(Path("nowhere"))
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    known = {(r["cell"], r["benchmark"]): r["score"] for r in rows if r["score"] is not None}
    items = []
    for (cell, benchmark), score in sorted(known.items()):
        rng = np.random.default_rng(list(f"{cell} {benchmark}".encode()))
        hard = np.linspace(-0.2, 0.2, ANSWERED) + 0.01 * rng.normal(size=ANSWERED)
        answers = score / 100 + hard - hard.mean()
        place = {"cell": cell, "evaluation": "evaluation", "benchmark": benchmark}
        items += [place | {"item": i, "item_hash": str(i), "score": answer} for i, answer in enumerate(answers)]
    # what the store reads from its files on first use
    vars(store).update(scores=frame, items=pl.DataFrame(items, schema=ITEM_SCHEMA))
    return store


def judged(
    rows: list[Row], claim: Callable[..., Any] = claims.llama2_leads_by_3_3, answers: bool = True
) -> tuple[str, str]:
    """What our runs say of a claim: (verdict, numbers)."""
    store = store_of(rows)
    if not answers:
        vars(store)["items"] = store.items.clear()
    ours = claim(PUBLISHED, read_ours(store, PUBLISHED)).ours
    return ours.verdict, ours.numbers


def interval(text: str) -> Any:
    """The interval of a printed figure: low, high."""
    (found,) = re.findall(r"95% interval (\S+) to (\S+?)(?:;|,|$)", text)
    return pytest.approx(tuple(map(float, found)), abs=0.00501)


def compared(rows: list[Row], against: str, experiment: str = "table1") -> tuple[float, float]:
    """Q-Tuning's row of `compare`, on the average: low, high."""
    of_row = (pl.col("method") == "q-tuning") & (pl.col("against") == against) & (pl.col("benchmark") == "avg")
    (row,) = of_store(compare, store_of(rows), experiment).filter(of_row).to_dicts()
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
    assert f"41.00 ({label}, best of 16 baselines) = {sum(gain) / 3:+.2f}, 95% interval" in numbers
    if best == "random+random":  # which `compare` compares with, too
        assert compared(rows, best) == interval(numbers)


def test_the_difference_from_full_data_is_that_of_the_comparisons() -> None:
    rows = table1(lambda seed: -9.0 + 0.1 * seed, seeds=(0, 1))
    verdict, numbers = judged(rows, claims.q_tuning_beats_full_data)
    (mine,) = [text for text in numbers.split("; ") if text.startswith("LLaMA2-7B 12.5x50: ")]
    assert compared(rows, "full") == interval(mine)
    # one row below the full data contradicts a claim about all of them; that others are missing does not matter
    assert verdict == "contradicted"
    assert "0 of 15 averages are above" in numbers and "no runs of LLaMA3-8B for table 2" in numbers


def test_every_row_is_needed_for_a_claim_about_all_of_them() -> None:
    verdict, numbers = judged(table1(lambda seed: 3.3), claims.q_tuning_beats_full_data)
    assert verdict == "cannot be judged"
    assert numbers.startswith("1 of 15 averages are above those of the full data, by ")
    assert "table 1, LLaMA2-7B, 25x50, Q-Tuning, Avg: not part of this experiment" in numbers


def test_a_score_has_the_interval_of_score_intervals_and_stays_within_what_a_score_can_be() -> None:
    for level, ending in ((3.0, None), (-39.0, "95% interval 0.00 to ")):
        rows = table1(partial(operator.add, level), (0, 1))
        rows = [r | {"sample_ratio": 0.25} if r["sample_ratio"] < 1 else r for r in rows]  # the budget of the claim
        _, numbers = judged(rows, claims.llama2_reaches_36_5)
        of_line = (pl.col("method") == "q-tuning") & (pl.col("benchmark") == "avg")
        (same,) = of_store(score_intervals, store_of(rows), "table1").filter(of_line).to_dicts()
        assert (same["low"], same["high"]) == interval(numbers)
        assert ending is None or ending in numbers


def test_an_interval_of_everything_is_none() -> None:
    rows = table1(lambda seed: 30.0 * seed - 10, (0, 1))
    rows = [r | {"sample_ratio": 0.25} for r in rows if r["method"] == "q-tuning"]  # nobody to borrow from
    verdict, numbers = judged(rows, claims.llama2_reaches_36_5)
    assert verdict == "cannot be judged"
    assert numbers.endswith("no interval: it would be all of 0 to 100")


def table2(method_scores: dict[str, Callable[[int], float]], seeds: Sequence[int] = (0, 1, 2, 3)) -> list[Row]:
    """SmolLM2-1.7B at 25x50: benchmarks alike, scores by method as a function of the seed."""
    rows = [
        row(
            "table2",
            "smollm2-1.7b",
            "mathinstruct",
            method,
            seed,
            score(seed),
            benchmark,
            samples_available=3.0 * 262_039,
        )
        for seed in seeds
        for benchmark in ("gsm8k", "math")
        for method, score in method_scores.items()
    ]
    return [r | {"sample_ratio": 0.25} if r["sample_ratio"] < 1 else r for r in rows]


def test_a_relative_change_is_that_of_the_means_and_its_range_that_of_both_intervals() -> None:
    def rows(full: float) -> list[Row]:
        return table2(
            {
                "q-tuning": lambda seed: 24.0 + 0.2 * (seed % 2),
                "full": lambda seed: full + 0.2 * (seed % 3),
                "random+random": lambda seed: 20.0,
            }
        )

    _, numbers = judged(rows(20.0), claims.smollm2_gains_38_percent)
    assert "(24.10 - 20.15) / 20.15 (Full data) = +19.60%" in numbers
    low, high = interval(numbers).expected
    least, most = (100 * bound / 20.15 for bound in compared(rows(20.0), "full", "table2"))
    assert 0 < low < least < 19.60 < most < high
    _, numbers = judged(rows(0.2), claims.smollm2_gains_38_percent)
    assert "no interval: the score that it is relative to, full, cannot be told from zero" in numbers


def test_rows_that_are_the_same_at_two_budgets() -> None:
    def rows(other: Any) -> list[Row]:
        start = table2({f"{sample}+sparsevlm": lambda seed: 20.0 + seed for sample in SAMPLES})
        more = [r | {"token_ratio": 0.7, "cell": f"{r['cell']}-70", "score": r["score"] + other} for r in start]
        return start + more

    for other, same in ((0.0, 4), (0.1, 0)):
        verdict, numbers = judged(rows(other), claims.sparsevlm_rows_differ)
        assert verdict == "cannot be judged"
        assert numbers == f"{same} of 12 pairs of rows have the same score on every benchmark, 8 pairs are missing"


def test_one_seed_says_nothing_and_its_figure_is_shown() -> None:
    verdict, numbers = judged(table1(lambda seed: 3.3, seeds=(0,)))
    assert verdict == "cannot be judged"
    assert numbers.endswith("= +3.30, no interval: one seed")


def test_without_answers_item_by_item_there_is_no_interval() -> None:
    rows = table1(lambda seed: 3.3)
    verdict, numbers = judged(rows, answers=False)
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
    (hole,) = [r for r in rows if (r["method"], r["seed"], r["benchmark"]) == ("random+fastv", "1", "squad")]
    hole.update(score=None, status="failed", reason="out of memory")
    assert "seed 1 failed: no average without squad: out of memory" in judged(rows)[1]
    fewer = [r for r in table1(lambda seed: 3.3) if r["method"] != "entropy+sparsevlm"]
    assert "entropy + SparseVLM, Avg: not part of this experiment" in judged(fewer)[1]
    other = json.dumps({"sample": {"lambda": 0.3}, "token": {}, "method": {}})
    variant = [r | {"options": other} if r["method"] == "q-tuning" else r for r in table1(lambda seed: 3.3)]
    assert "Q-Tuning, Avg: run only with other options or readings" in judged(variant)[1]
    lost = [r for r in table1(lambda seed: 3.3) if (r["method"], r["seed"]) != ("longest+ppl", "2")]
    assert "longest + PPL, Avg: seed 2 not run" in judged(lost)[1]
    for each in (rows, fewer, variant, lost):
        assert judged(each)[0] == "cannot be judged"
    twice = table1(lambda seed: 3.3)
    twice.append(next(r for r in twice if r["method"] == "q-tuning"))
    with pytest.raises(UserError, match="claim the same place"):
        judged(twice)


def test_other_models_and_other_experiments_are_no_evidence() -> None:
    changes: tuple[dict[str, Any], ...] = (
        {"experiment": "table1-mini", "model": "mini", "train_set": "mini"},
        {"experiment": "another"},
    )
    for change in changes:
        ours = read_ours(store_of(table1(lambda seed: 3.3, **change)), PUBLISHED)
        assert ours is None
    (table, _) = claims_page(check_claims(PUBLISHED, ours), PUBLISHED).tables
    assert [column.name for column in table.columns] == ["Claim", "Verdict", "The paper's numbers"]


def test_the_page_tells_what_our_runs_show() -> None:
    ours = read_ours(store_of(table1(lambda seed: 3.3)), PUBLISHED)
    (table, _) = claims_page(check_claims(PUBLISHED, ours), PUBLISHED).tables
    assert table.columns[-1].name == "Our runs"
    texts = [row[-1] for row in table.rows]
    assert texts[0] == "cannot be judged: no runs of SmolLM2-1.7B for table 2"
    assert texts[4].startswith("holds: LLaMA2-7B 12.5x50: 44.30 - 41.00 (longest + PPL, best of 16 baselines) = +3.30")
    assert texts[7] == "cannot be judged: our averages are computed, not typed"


def test_a_limited_experiment_is_no_evidence() -> None:
    """500 samples and 20 items of each benchmark: a clear margin, and nothing that the paper's claim is about."""
    limited = {
        "evaluation_config": json.dumps({"source": "hub", "limit": 20, "fewshot": None}),
        "items": 20,
        "samples_available": 1500.0,
    }
    whole = table1(lambda seed: 2.0 + 0.1 * seed, experiment="table1-try")
    assert judged(whole)[0] == "contradicted"
    verdict, numbers = judged([r | limited for r in whole])
    assert verdict == "cannot be judged"
    assert "Q-Tuning, Avg: limit: the first 20 items of each benchmark; " in numbers
    assert "scale: 1,500 samples in all epochs, where 3 epochs of the whole set have 210,000" in numbers


def test_the_edition_with_the_most_comparable_scores_is_taken() -> None:
    limit = json.dumps({"source": "hub", "limit": 20, "fewshot": None})
    refused = [r | {"evaluation_config": limit} for r in table1(lambda seed: 9.0, experiment="table1-a")]
    varied = [r | {"training": "batch_size=16"} for r in table1(lambda seed: 8.0, experiment="table1-b")]
    assert "+3.30" in judged(refused + varied + table1(lambda seed: 3.3, experiment="table1-c"))[1]
