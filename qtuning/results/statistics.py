"""How much a difference between two methods means: over seeds, and over the items of a benchmark.

All comparisons are paired: at one seed every method saw the same data in the same order, and every model answered
the same items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

import polars as pl

from qtuning.errors import UserError


@dataclass(frozen=True)
class Interval:
    """A difference in percentage points with a confidence interval. n: how many pairs it rests on."""

    difference: float
    low: float
    high: float
    n: int


def paired_differences(scores: Mapping[str, float], reference: Mapping[str, float]) -> tuple[float, ...]:
    """score - reference for each seed, in the order of `scores`; both map seeds to scores.

    Raises UserError where one of them lacks a seed: dropping it would average over fewer.
    """
    if scores.keys() != reference.keys():
        alone = ", ".join(sorted(scores.keys() ^ reference.keys()))
        raise UserError(f"paired comparison: seed {alone}: not on both sides; run the missing cells")
    return tuple(score - reference[seed] for seed, score in scores.items())


def minimum_detectable_effect(differences: Sequence[float], alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference that a paired t test on as many seeds would detect with this power.

    The two-sided test of n differences rejects where |mean| / (sd / sqrt(n)) > t(1 - alpha/2; n - 1). Under a true mean
    difference d the statistic is noncentral t with noncentrality d sqrt(n) / sd; this solves for the d at which it
    exceeds the critical value with probability `power`, taking the sample standard deviation (n - 1) for sd. With few
    seeds that is an estimate of an estimate: read it as an order of magnitude.

    Unit: that of the differences. Raises ValueError for fewer than two differences.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    n = len(differences)
    if n < 2:
        raise ValueError(f"the spread of {n} difference(s) is not known; at least 2 are needed")
    critical = t.ppf(1 - alpha / 2, n - 1)

    def lack(noncentrality: float) -> float:
        """Power minus what is wanted; the chance to reject on the wrong side is not counted as detection."""
        return float(nct.sf(critical, n - 1, noncentrality)) - power

    # at noncentrality 0 the power is alpha / 2; the bracket doubles until the power is reached
    upper = 2 * critical
    while lack(upper) < 0:
        upper *= 2
    return float(brentq(lack, 0.0, upper)) * stdev(differences) / sqrt(n)


def item_interval(
    items: pl.DataFrame,
    reference: pl.DataFrame,
    benchmark: str,
    metric: str,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Paired bootstrap over items: difference of two cells' mean scores on a benchmark, in percentage points.

    items, reference: `items.parquet` of the two cells. Items are drawn with replacement, each with the scores of both
    cells; the interval holds the central `confidence` of the resampled means (percentile method). It covers the
    choice of items, not that of seeds.

    Raises UserError where the two cells did not answer the same items.
    """
    import numpy as np
    from scipy.stats import bootstrap

    key = ["item", "item_hash"]
    ours, theirs = (
        table.filter((pl.col("benchmark") == benchmark) & (pl.col("metric") == metric)).select(*key, "score")
        for table in (items, reference)
    )
    pairs = ours.join(theirs, on=key, how="inner", validate="1:1").sort(key)
    if len(pairs) == 0 or len(pairs) != len(ours) or len(pairs) != len(theirs):
        raise UserError(
            f"{benchmark}, {metric}: {len(ours)} and {len(theirs)} items, {len(pairs)} in common: a paired comparison "
            "needs the same items in both cells"
        )
    differences = 100 * (pairs["score"] - pairs["score_right"]).to_numpy()
    if np.ptp(differences) == 0:  # every resample is the same, which scipy would warn about
        value = float(differences[0])
        return Interval(value, value, value, len(pairs))
    result = bootstrap(
        (differences,),
        np.mean,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(differences)),  # bounds the memory of the drawn indices to some 16 MB
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = (float(bound) for bound in result.confidence_interval)
    return Interval(fmean(differences), low, high, len(pairs))
