"""Claims asked of our own cells: paired by seed and item, never over fewer seeds, never of other models as evidence."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from qtuning.errors import UserError
from qtuning.paper.audit import audit
from qtuning.paper.audit_report import audit_markdown
from qtuning.paper.claims import read_claims
from qtuning.paper.ours import read_store
from qtuning.paper.reference import read_published
from qtuning.statistics.compare import compare, score_intervals
from qtuning.statistics.interval import Intervals
from qtuning.store.schema import ITEM_SCHEMA, SCHEMA
from qtuning.store.store import Store

PUBLISHED = read_published()
CLAIMS = read_claims(PUBLISHED)
TABLE1 = ("arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa")
# what the published scores are shares of (docs/tables.md)
ITEMS = {"arc_easy": 567, "arc_challenge": 295, "gsm8k": 1319, "squad": 10_570, "triviaqa": 8837, "math": 5000}
SAMPLES, TOKENS = ("random", "longest", "infobatch", "entropy"), ("random", "ppl", "fastv", "sparsevlm")
ANSWERED = 40
"""Items of each benchmark that the stores below hold answers to."""


def row(experiment, model, train_set, method, seed, score, benchmark, **changes):
    """One headline row, as collecting leaves it."""
    sample, token = {"q-tuning": ("q-tuning", "q-tuning"), "full": ("full", "none")}.get(
        method, tuple(method.split("+")) if "+" in method else (None, None)
    )
    ratios = {"full": (1.0, 1.0)}.get(method, (0.125, 0.5))
    options = {"sample": {}, "token": {}, "method": {}}
    values = {
        "experiment": experiment,
        "cell": f"{model}-{train_set}-{method}-{seed}",
        "evaluation": "evaluation",
        "backend": "{}",
        "digest": "0" * 64,
        "model": model,
        "train_set": train_set,
        "method": method,
        "sample_pruner": sample,
        "token_pruner": token,
        "sample_ratio": ratios[0],
        "token_ratio": ratios[1],
        "options": json.dumps(options),
        "training": "",
        "seed": str(seed),
        "benchmark": benchmark,
        "headline": True,
        "score": score,
        "status": "done",
        "metric": "f1" if benchmark == "squad" else "acc",
        "items": ITEMS[benchmark],
        "evaluation_config": json.dumps({"source": "hub", "limit": None, "fewshot": None}),
        "samples_available": 3 * 70_000.0,
    }
    return dict.fromkeys(SCHEMA) | values | changes


def table1(gain, seeds=(0, 1, 2), experiment="table1", model="llama2-7b", train_set="wizardlm", best="longest+ppl"):
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


def store_of(rows):
    """A store in memory: answers whose means are the scores, an item as hard for all methods but for a little."""
    store = Store(Path("nowhere"))
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    parts = []
    for r in (
        frame.filter(pl.col("score").is_not_null())
        .unique(["cell", "benchmark"], keep="first")
        .sort("cell", "benchmark")
        .iter_rows(named=True)
    ):
        rng = np.random.default_rng(list(f"{r['cell']} {r['benchmark']}".encode()))
        hard = np.linspace(-0.2, 0.2, ANSWERED) + 0.01 * rng.normal(size=ANSWERED)
        answers = {"item": range(ANSWERED), "score": r["score"] / 100 + hard - hard.mean()}
        parts.append(
            pl.DataFrame(answers).with_columns(
                pl.lit(r["cell"]).alias("cell"),
                pl.lit("evaluation").alias("evaluation"),
                pl.lit(r["benchmark"]).alias("benchmark"),
                pl.col("item").cast(pl.String).alias("item_hash"),
            )
        )
    # what the store reads from its files on first use
    vars(store).update(scores=frame, items=pl.concat(parts).select(list(ITEM_SCHEMA)).cast(ITEM_SCHEMA))
    return store


def judged(rows, name="llama2-12x50-margin", answers=True):
    store = store_of(rows)
    found = audit(PUBLISHED, CLAIMS, store.scores, Intervals(store) if answers else None)
    (ruling,) = [ruling for ruling in found.rulings if ruling.claim.id == name]
    return ruling.ours


def printed(text):
    """The interval of a printed term: low, high, and the number of seeds."""
    (found,) = re.findall(r"95% interval over seeds and items (\S+) to (\S+) \((\d+) seeds\)", text)
    return pytest.approx((float(found[0]), float(found[1])), abs=0.001), int(found[2])


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        ((3.1, 3.3, 3.5), "holds"),
        ((2.0, 2.1, 2.2), "contradicted"),
        ((-2.0, 3.0, 8.0), "not testable"),  # holds the claim and nothing at all
    ],
)
@pytest.mark.parametrize("best", ["longest+ppl", "random+random"])
def test_a_margin_is_judged_by_its_interval_over_seeds_and_items(gain, verdict, best):
    rows = table1(lambda seed: gain[seed], best=best)
    ours = judged(rows)
    assert ours.verdict == verdict
    assert ours.reason == ""
    assert ours.terms[0].value == pytest.approx(sum(gain) / 3)
    assert f"{best.replace('+', ' + ')}, best of 16 baselines" in ours.terms[0].arithmetic
    interval, seeds = printed(ours.terms[0].comparison)
    assert seeds == 3
    if best == "random+random":  # which `compare` compares with, too
        against = (pl.col("method") == "q-tuning") & (pl.col("against") == best) & (pl.col("benchmark") == "avg")
        (same,) = compare(store_of(rows), "table1").filter(against).to_dicts()
        assert (same["low"], same["high"]) == interval


def test_the_differences_from_full_data_are_those_of_the_comparisons():
    rows = table1(lambda seed: -5.0 + 0.1 * seed, seeds=(0, 1), experiment="table1-mini", model="mini", train_set="m")
    against = (pl.col("method") == "q-tuning") & (pl.col("against") == "full") & (pl.col("benchmark") == "avg")
    (same,) = compare(store_of(rows), "table1-mini").filter(against).to_dicts()
    (line,) = judged(rows, "beats-full-data").analogous
    interval, seeds = printed(line)
    assert ((same["low"], same["high"]), seeds) == (interval, 2)
    assert ("cannot be told from zero" in line) == (same["low"] <= 0 <= same["high"])


def test_a_score_has_the_interval_of_score_intervals_and_stays_within_what_a_score_can_be():
    for level, ending in ((3.0, None), (-39.0, "0.000 to ")):
        rows = table1(lambda seed, level=level: level + seed, (0, 1), "table1-mini", "mini", "m")
        rows = [r | {"sample_ratio": 0.25} if r["sample_ratio"] < 1 else r for r in rows]  # the budget of the claim
        (line,) = judged(rows, "llama2-25x50").analogous
        of_line = (pl.col("method") == "q-tuning") & (pl.col("benchmark") == "avg")
        (same,) = score_intervals(store_of(rows), "table1-mini").filter(of_line).to_dicts()
        assert (same["low"], same["high"]) == printed(line)[0]
        assert ending is None or ending in line


def test_an_interval_of_everything_is_none():
    rows = table1(lambda seed: 30.0 * seed - 10, (0, 1), "table1-mini", "mini", "m")
    rows = [r | {"sample_ratio": 0.25} for r in rows if r["method"] == "q-tuning"]  # nobody to borrow from
    (line,) = judged(rows, "llama2-25x50").analogous
    assert line.endswith("no interval: 2 seeds, it would be all of 0 to 100")


def test_a_relative_change_is_that_of_the_means_and_its_range_that_of_both_intervals():
    def table2(full):
        rows = []
        for seed in (0, 1, 2, 3):
            for benchmark in ("gsm8k", "math"):
                scores = {"q-tuning": 24.0 + 0.2 * (seed % 2), "full": full + 0.2 * (seed % 3), "random+random": 20.0}
                rows += [row("table2-mini", "mini", "m", m, seed, s, benchmark) for m, s in scores.items()]
        return [r | {"sample_ratio": 0.25} if r["sample_ratio"] < 1 else r for r in rows]

    (line,) = judged(table2(20.0), "smollm2-plus-38-percent").analogous
    assert "(24.10 - 20.15) / 20.15 x 100 = +19.60%" in line
    low, high = printed(line)[0].expected
    (same,) = (
        compare(store_of(table2(20.0)), "table2-mini")
        .filter((pl.col("method") == "q-tuning") & (pl.col("against") == "full") & (pl.col("benchmark") == "avg"))
        .to_dicts()
    )
    assert 0 < low < 100 * same["low"] / 20.15 < 19.60 < 100 * same["high"] / 20.15 < high
    (line,) = judged(table2(0.2), "smollm2-plus-38-percent").analogous
    assert "no interval: 4 seeds, the score that it is relative to, full, cannot be told from zero" in line


def test_one_seed_is_not_testable_and_its_figure_is_shown():
    ours = judged(table1(lambda seed: 3.3, seeds=(0,)))
    assert ours.verdict == "not testable"
    assert "+3.30" in str(ours.terms[0]) and "no interval: 1 seed" in str(ours.terms[0])


def test_without_answers_item_by_item_there_is_no_interval():
    rows = table1(lambda seed: 3.3)
    ours = judged(rows, answers=False)
    assert ours.verdict == "not testable"
    assert str(ours.terms[0]).endswith("no interval: 3 seeds, no answers item by item")
    store = store_of(rows)
    vars(store)["items"] = store.items.filter(pl.col("benchmark") != "squad")
    found = audit(PUBLISHED, CLAIMS, store.scores, Intervals(store))
    (text,) = [str(r.ours.terms[0]) for r in found.rulings if r.claim.id == "llama2-12x50-margin"]
    assert "no interval: 3 seeds, the store has no items of squad" in text


def test_an_average_over_the_papers_benchmarks_alone_has_an_interval_of_these():
    rows = table1(lambda seed: 3.3)
    more = [r | {"benchmark": "math", "items": ITEMS["math"], "score": 1.0} for r in rows if r["benchmark"] == "gsm8k"]
    assert judged(rows + more).terms[0].comparison == judged(rows).terms[0].comparison


def test_a_hole_a_missing_baseline_and_a_variant_are_no_evidence():
    rows = table1(lambda seed: 3.3)
    (hole,) = [r for r in rows if (r["method"], r["seed"], r["benchmark"]) == ("random+fastv", "1", "squad")]
    hole.update(score=None, status="failed", reason="out of memory")
    assert "squad: seed 1 failed: out of memory" in judged(rows).reason
    fewer = [r for r in table1(lambda seed: 3.3) if r["method"] != "entropy+sparsevlm"]
    assert "entropy + sparsevlm, avg: no such cell" in judged(fewer).reason
    other = json.dumps({"sample": {"lambda": 0.3}, "token": {}, "method": {}})
    variant = [r | {"options": other} if r["method"] == "q-tuning" else r for r in table1(lambda seed: 3.3)]
    assert "Q-Tuning, avg: no such cell" in judged(variant).reason
    twice = table1(lambda seed: 3.3)
    twice.append(next(r for r in twice if r["method"] == "q-tuning"))
    assert "more than one cell fits" in judged(twice).reason


def test_seeds_that_do_not_pair_are_not_subtracted():
    rows = [r for r in table1(lambda seed: 3.3) if (r["method"], r["seed"]) != ("longest+ppl", "2")]
    ours = judged(rows)
    assert ours.verdict == "not testable"
    assert "the two rows have other seeds" in ours.terms[0].comparison


def test_other_models_are_shown_as_analogous_and_never_as_evidence():
    rows = table1(lambda seed: 3.3, experiment="table1-mini", model="mini", train_set="mini")
    ours = judged(rows)
    assert (ours.verdict, ours.reason) == ("not testable", "no cells of llama2-7b on wizardlm")
    assert ours.terms == ()
    (line,) = ours.analogous
    assert line.startswith("table1-mini (train set mini), mini, 12.5x50, Q-Tuning, avg: 44.30 - 41.00 (longest + ppl")
    assert "= +3.30; 95% interval over seeds and items" in line
    store = store_of(rows)
    text = audit_markdown(audit(PUBLISHED, CLAIMS, store.scores, Intervals(store)))
    assert f"ours, analogous, not evidence: {line}" in text


def test_the_experiment_named_after_the_table_goes_first():
    rows = table1(lambda seed: 9.0, experiment="another") + table1(lambda seed: 3.3)
    assert judged(rows).terms[0].value == pytest.approx(3.3)


def test_a_limited_experiment_is_no_evidence():
    """500 samples and 20 items of each benchmark: a clear margin, and nothing that the paper's claim is about."""
    limited = {
        "evaluation_config": json.dumps({"source": "hub", "limit": 20, "fewshot": None}),
        "items": 20,
        "samples_available": 1500.0,
    }
    rows = [r | limited for r in table1(lambda seed: 2.0 + 0.1 * seed, experiment="try")]
    ours = judged(rows)
    assert (ours.verdict, ours.terms, ours.experiments) == ("not testable", (), ("try",))
    assert ours.reason.startswith("limit: the first 20 items of each benchmark; ")
    assert "scale: 1,500 samples in all epochs, where 3 epochs of the whole set have 210,000" in ours.reason
    # each alone is reason enough
    whole = table1(lambda seed: 2.0 + 0.1 * seed, experiment="try")
    assert judged(whole).verdict == "contradicted"
    for change, reason in (
        ({"samples_available": 1500.0}, "scale: 1,500"),
        ({"evaluation_config": json.dumps({"source": "hub", "limit": None, "fewshot": 2})}, "fewshot: 2 instead"),
        ({"evaluation_config": json.dumps({"source": "mini-world", "limit": None, "fewshot": None})}, "the questions"),
        ({"evaluation_config": None}, "setting unknown: source"),
        ({"items": 2376}, "the average holds"),
    ):
        ours = judged([r | change for r in whole])
        assert (ours.verdict, ours.terms) == ("not testable", ()) and reason in ours.reason
    text = audit_markdown(audit(PUBLISHED, CLAIMS, pl.DataFrame(rows, schema=SCHEMA, orient="row")))
    assert "ours (try): not testable: limit: the first 20 items" in text


def test_a_comparable_experiment_is_preferred_and_one_that_varies_no_training():
    limit = json.dumps({"source": "hub", "limit": 20, "fewshot": None})
    refused = [r | {"evaluation_config": limit} for r in table1(lambda seed: 9.0, experiment="a")]
    varied = [r | {"training": "batch_size=16"} for r in table1(lambda seed: 8.0, experiment="b")]
    ours = judged(refused + varied + table1(lambda seed: 3.3, experiment="c"))
    assert ours.experiments == ("c",)
    assert ours.terms[0].value == pytest.approx(3.3)
    assert judged(refused + varied).experiments == ("b",)


def test_averages_of_ours_are_not_put_to_the_test():
    ours = judged(table1(lambda seed: 3.3), "mistral-table2-averages")
    assert (ours.verdict, ours.analogous) == ("not testable", ())


def test_every_published_row_is_needed_for_the_claim_about_all_of_them():
    ours = judged(table1(lambda seed: 3.3), "beats-full-data")
    assert ours.verdict == "not testable"
    assert "scores are missing" in ours.reason


def test_a_store_of_another_version_is_refused(tmp_path: Path):
    assert read_store(tmp_path) is None
    frame = pl.DataFrame(table1(lambda seed: 3.3), schema=SCHEMA, orient="row")
    frame.write_parquet(tmp_path / "scores.parquet")
    stored = read_store(tmp_path)
    assert stored is not None and len(stored) == len(frame)
    frame.drop("seed").write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match="not a score store of this version"):
        read_store(tmp_path)
    frame.with_columns(pl.col("score").cast(pl.String)).write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match="columns of another type: score"):
        read_store(tmp_path)
