"""Statistics against simulation and hand calculation."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import ttest_1samp

from qtuning.errors import UserError
from qtuning.results.statistics import item_interval, minimum_detectable_effect, paired_differences


def items(scores: np.ndarray, hashes: list[str] | None = None) -> pl.DataFrame:
    n = len(scores)
    return pl.DataFrame(
        {
            "benchmark": ["gsm8k"] * n,
            "item": range(n),
            "item_hash": hashes or [f"h{i}" for i in range(n)],
            "metric": ["acc"] * n,
            "score": np.asarray(scores, dtype=float),
            "response": [""] * n,
        },
        schema_overrides={"item_hash": pl.String, "benchmark": pl.String, "metric": pl.String},
    )


def test_paired_differences_pair_by_seed() -> None:
    assert paired_differences({"0": 3.0, "1": 5.0}, {"1": 4.0, "0": 1.0}) == (2.0, 1.0)
    with pytest.raises(UserError, match="seed 2: not on both sides"):
        paired_differences({"0": 3.0, "2": 5.0}, {"0": 1.0})


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_minimum_detectable_effect_is_detected_with_the_stated_power(n: int) -> None:
    rng = np.random.default_rng(n)
    standard = rng.standard_normal(n)
    standard = (standard - standard.mean()) / standard.std(ddof=1)  # sample standard deviation exactly 1
    effect = minimum_detectable_effect((2 * standard).tolist(), alpha=0.05, power=0.8)
    # if the true spread is 2 and the true effect is this, an independent t test must find it 80% of the time
    samples = rng.normal(effect, 2.0, size=(20_000, n))
    test = ttest_1samp(samples, 0.0, axis=1)
    detected = float(np.mean((test.pvalue < 0.05) & (test.statistic > 0)))
    assert detected == pytest.approx(0.8, abs=0.012)  # 4 standard errors


def test_minimum_detectable_effect_edges() -> None:
    assert minimum_detectable_effect([1.5, 1.5, 1.5]) == 0
    # two seeds: the critical value is 12.7, so the effect must be many times the spread (0.71)
    assert minimum_detectable_effect([0.0, 1.0]) > 10 * 0.71
    with pytest.raises(ValueError, match="at least 2"):
        minimum_detectable_effect([1.0])


def test_item_interval_covers_the_true_difference() -> None:
    rng = np.random.default_rng(0)
    n, repeats, covered, true = 150, 400, 0, 5.0
    for seed in range(repeats):
        reference = (rng.random(n) < 0.40).astype(float)
        # each item flips by a fresh draw: P(ours) = 0.45, correlated with the reference
        ours = np.where(rng.random(n) < 0.5, reference, rng.random(n) < 0.50)
        interval = item_interval(items(ours), items(reference), "gsm8k", "acc", resamples=1000, seed=seed)
        covered += interval.low <= true <= interval.high
    assert 0.92 <= covered / repeats <= 0.98


def test_item_interval_is_paired_and_deterministic() -> None:
    rng = np.random.default_rng(1)
    reference = (rng.random(300) < 0.5).astype(float)
    ours = reference.copy()
    ours[np.flatnonzero(reference == 0)[:6]] = 1.0
    first = item_interval(items(ours), items(reference), "gsm8k", "acc")
    assert first.difference == pytest.approx(2.0)
    assert first.n == 300
    # unpaired, two halves at 50% on 300 items could not be told apart (standard error 4 points); paired they can
    assert 0 < first.low < 2 < first.high < 4
    shuffled = items(ours).sample(fraction=1.0, shuffle=True, seed=0)
    assert item_interval(shuffled, items(reference), "gsm8k", "acc") == first


def test_item_interval_without_any_difference() -> None:
    same = items(np.array([0.0, 1.0, 1.0]))
    interval = item_interval(same, same, "gsm8k", "acc")
    assert (interval.difference, interval.low, interval.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("other", [items(np.ones(2)), items(np.ones(3), ["h0", "h1", "changed"]), items(np.ones(0))])
def test_item_interval_refuses_other_items(other: pl.DataFrame) -> None:
    with pytest.raises(UserError, match="needs the same items"):
        item_interval(items(np.ones(3)), other, "gsm8k", "acc")
