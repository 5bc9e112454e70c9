"""The smallest difference an experiment can be expected to find, before it is run."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

POINTS = 4000
"""Equally likely values of the estimated variance that the power is averaged over."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the paired difference of two lines, percentage points (estimate.py names the terms).

    seed: from seed to seed, of the model itself, sqrt(var(u)). item: from item to item, the same at every seed,
    sqrt(var(g)). rest: of one answer, sqrt(var(e)).
    """

    seed: float
    item: float
    rest: float


def detectable_difference(
    spreads: Mapping[str, Spread],
    items: Mapping[str, int],
    seeds: int,
    lines: int = 2,
    *,
    seed_of_average: float | None = None,
    comparisons: int = 1,
    prior: float = np.inf,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """The true difference, averaged over the benchmarks, that `compare` would call significant with this power.

    spreads: by benchmark. items: how many clusters of items each has, which are the items where these are independent.
    lines: of the same budget, which lend each other their seed variance. prior: degrees of freedom that this adds at
    most (`prior_freedom`); default: as if all variances agreed. seed_of_average: standard deviation of the difference
    of two averages from seed to seed; default: as if benchmarks moved together, which is the most it can be.
    comparisons: of the family; alpha is divided by it (Holm's first step).

    The power is taken over the estimate of the seed variance as well: with 2 seeds and 2 lines it has one degree of
    freedom, and the usual sum of two quantiles would be far too small. Being on the wrong side is not counted as
    detection. With one seed nothing is known of seeds: what is returned is the difference of two trained models that
    the items could show, a lower bound.

    Unit: percentage points. Raises ValueError where a benchmark has no items or there are no seeds.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr
    from scipy.stats import chi2, t

    if seeds < 1 or lines < 2 or not spreads or any(items[name] < 2 for name in spreads):
        raise ValueError("a comparison needs a seed, two lines, and two items of every benchmark")
    count = len(spreads)
    seed = seed_of_average if seed_of_average is not None else sum(s.seed for s in spreads.values()) / count
    by_item = sum(s.item**2 / items[name] for name, s in spreads.items()) / count**2
    rest = sum(s.rest**2 / items[name] for name, s in spreads.items()) / count**2
    tail = alpha / comparisons / 2
    item_quantile = t.isf(tail, sum(items[name] - 1 for name in spreads))
    if seeds == 1:
        sd, critical = np.sqrt(by_item + rest), item_quantile * np.full(1, np.sqrt(by_item + rest))
    else:
        freedom = min(prior, (lines - 2) * (seeds - 1)) + seeds - 1
        over_seeds = (seed**2 + rest) / seeds
        drawn = chi2.ppf((np.arange(POINTS) + 0.5) / POINTS, freedom) / freedom
        # the estimate is never less than what items alone explain (estimate.py)
        estimated = np.maximum(over_seeds * drawn, rest / seeds)
        critical = np.sqrt(t.isf(tail, freedom) ** 2 * estimated + item_quantile**2 * by_item)
        sd = np.sqrt(over_seeds + by_item)
    if sd == 0:
        return 0.0

    def lack(difference: float) -> float:
        return float(np.mean(ndtr((difference - critical) / sd))) - power

    upper = float(critical.max() + 10 * sd)
    return float(brentq(lack, 0.0, upper))
