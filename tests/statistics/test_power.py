"""The detectable difference: against the exact paired t test, and by simulating what it promises."""

import numpy as np
import pytest
from scipy.stats import nct, t

from benchmarks.power import found
from qtuning.statistics.power import Spread, detectable_difference


def noncentrality(freedom: int, alpha: float, power: float) -> float:
    """Of the noncentral t that exceeds the two-sided critical value with probability `power`; by bisection."""
    critical, low, high = t.isf(alpha / 2, freedom), 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if nct.sf(critical, freedom, middle) < power else (low, middle)
    return low


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.01, 0.9)])
def test_with_seeds_alone_it_is_that_of_the_paired_t_test(seeds: int, alpha: float, power: float) -> None:
    differences = np.arange(seeds) - (seeds - 1) / 2  # any: what counts is their standard deviation
    sd = float(differences.std(ddof=1))
    exact = noncentrality(seeds - 1, alpha, power) * sd / np.sqrt(seeds)
    spread = {"gsm8k": Spread(seed=sd, item=0, rest=0)}
    assert detectable_difference(spread, {"gsm8k": 100}, seeds, alpha=alpha, power=power) == pytest.approx(
        exact, rel=5e-3
    )


@pytest.mark.parametrize(("seeds", "lines", "comparisons"), [(2, 17, 1), (3, 6, 10), (5, 2, 1)])
def test_it_is_found_as_often_as_promised(seeds: int, lines: int, comparisons: int) -> None:
    """Two benchmarks; line 1 is better than line 0 by the detectable difference, on the average."""
    spreads, items = {"a": Spread(1.5, 20, 30), "b": Spread(0.5, 10, 40)}, {"a": 60, "b": 150}
    of_average = np.sqrt((1.5**2 + 0.5**2) / 4)
    effect = detectable_difference(spreads, items, seeds, lines, seed_of_average=of_average, comparisons=comparisons)
    share = found(spreads, items, of_average, seeds, lines, effect, comparisons, repeats=600)
    assert share == pytest.approx(0.8, abs=3 * np.sqrt(0.8 * 0.2 / 600))


def test_what_helps_and_what_does_not() -> None:
    spread, items = {"a": Spread(2, 20, 30)}, {"a": 100}
    two, five = (detectable_difference(spread, items, seeds) for seeds in (2, 5))
    assert two > 2.5 * five  # alone, two seeds have one degree of freedom
    shared = detectable_difference(spread, items, 2, lines=17)
    assert shared < 0.4 * two
    assert detectable_difference(spread, items, 2, lines=17, comparisons=100) > 1.3 * shared
    # lines whose variances do not agree lend less, those that do not agree at all nothing
    assert detectable_difference(spread, items, 2, lines=17, prior=0) == pytest.approx(two)
    assert shared < detectable_difference(spread, items, 2, lines=17, prior=4) < two
    # one seed, the lower bound: 99 degrees of freedom, all variance that items know of
    assert detectable_difference(spread, items, 1) == pytest.approx((1.9842 + 0.8416) * np.sqrt(1300 / 100), rel=1e-3)
    assert detectable_difference({"a": Spread(0, 0, 0)}, items, 3) == 0
    for seeds, few in ((0, items), (2, {"a": 1})):
        with pytest.raises(ValueError, match="needs a seed"):
            detectable_difference(spread, few, seeds)
