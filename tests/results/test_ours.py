"""Claims asked of our own cells: paired by seed, never over fewer seeds, and never from other models as evidence."""

import json
from pathlib import Path

import polars as pl
import pytest

from qtuning.errors import UserError
from qtuning.results.audit import audit
from qtuning.results.audit_report import audit_markdown
from qtuning.results.claims import read_claims
from qtuning.results.ours import read_store
from qtuning.results.reference import read_published
from qtuning.results.schema import SCHEMA

PUBLISHED = read_published()
CLAIMS = read_claims(PUBLISHED)
TABLE1 = ("arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa")
# what the published scores are shares of (docs/tables.md)
ITEMS = {"arc_easy": 567, "arc_challenge": 295, "gsm8k": 1319, "squad": 10_570, "triviaqa": 8837, "math": 5000}
SAMPLES, TOKENS = ("random", "longest", "infobatch", "entropy"), ("random", "ppl", "fastv", "sparsevlm")
# Student's t at 97.5%, from printed tables: 1 and 2 degrees of freedom
T = {2: 12.7062, 3: 4.30265}


def row(experiment, model, train_set, method, seed, score, benchmark, **changes):
    """One headline row, as collecting leaves it."""
    sample, token = {"q-tuning": ("q-tuning", "q-tuning"), "full": ("full", "none")}.get(
        method, tuple(method.split("+")) if "+" in method else (None, None)
    )
    ratios = {"full": (1.0, 1.0)}.get(method, (0.125, 0.5))
    options = {"sample": {}, "token": {}, "method": {}}
    values = {
        "experiment": experiment,
        "model": model,
        "train_set": train_set,
        "method": method,
        "sample_pruner": sample,
        "token_pruner": token,
        "sample_ratio": ratios[0],
        "token_ratio": ratios[1],
        "options": json.dumps(options),
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


def table1(gain, seeds=(0, 1, 2), experiment="table1", model="llama2-7b", train_set="wizardlm"):
    """Q-Tuning, 16 baselines and full data; `gain(seed)` is Q-Tuning's over the best baseline (longest+ppl: 40)."""
    rows = []
    for seed in seeds:
        for benchmark in TABLE1:
            baselines = {f"{sample}+{token}": 30.0 for sample in SAMPLES for token in TOKENS}
            scores = baselines | {"longest+ppl": 40.0 + seed, "full": 35.0, "q-tuning": 40.0 + seed + gain(seed)}
            rows += [row(experiment, model, train_set, m, seed, s, benchmark) for m, s in scores.items()]
    return rows


def judged(rows, name="llama2-12x50-margin"):
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    (ruling,) = [ruling for ruling in audit(PUBLISHED, CLAIMS, frame).rulings if ruling.claim.id == name]
    return ruling.ours


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        ((3.1, 3.3, 3.5), "holds"),  # mean 3.3, sd 0.2: 2.80 to 3.80
        ((2.0, 2.1, 2.2), "contradicted"),  # 1.85 to 2.35
        ((0.0, 3.0, 6.0), "not testable"),  # -4.5 to 10.5: holds the claim and nothing at all
    ],
)
def test_a_margin_is_judged_by_its_paired_interval_over_seeds(gain, verdict):
    ours = judged(table1(lambda seed: gain[seed]))
    assert ours.verdict == verdict
    assert ours.reason == ""
    mean = sum(gain) / 3
    half = T[3] * (sum((g - mean) ** 2 for g in gain) / 2) ** 0.5 / 3**0.5
    assert ours.terms[0].value == pytest.approx(mean)
    # the seeds alone differ by one point in every row; only pairing takes that out
    assert f"range {mean - half:.3f} to {mean + half:.3f}" in ours.terms[0].comparison
    assert "longest + ppl, best of 16 baselines" in ours.terms[0].arithmetic


def test_two_seeds_have_the_wide_interval_of_one_degree_of_freedom():
    ours = judged(table1(lambda seed: 3.0 + 0.02 * seed, seeds=(0, 1)))
    half = T[2] * 0.01
    assert f"range {3.01 - half:.3f} to {3.01 + half:.3f}" in ours.terms[0].comparison
    assert ours.verdict == "contradicted"


def test_one_seed_is_not_testable_and_its_figure_is_shown():
    ours = judged(table1(lambda seed: 3.3, seeds=(0,)))
    assert ours.verdict == "not testable"
    assert "+3.30" in str(ours.terms[0]) and "one seed: its spread is not known" in str(ours.terms[0])


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
    assert "= +3.30, range" in line.replace("; range", ", range")
    text = audit_markdown(audit(PUBLISHED, CLAIMS, pl.DataFrame(rows, schema=SCHEMA, orient="row")))
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
