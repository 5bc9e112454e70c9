"""Intervals of means over seeds and items, which are crossed: at every seed a model answers the same items.

The score of line l at seed s on item i is y = mean_l + c_s + u_ls + b_i + g_li + e_lsi: what a seed does to all lines
(c), to one line (u), how hard an item is for all (b), for one line (g), and the rest (e). The paired difference of two
lines has no c and no b. Its mean over S seeds and n items has the variance

    V = var(u) / S + var(g) / n + var(e) / (S n)        (variances of the paired difference)

The first and the last term together are the variance of the per-seed differences over S; the middle one is what the
choice of items adds. The two are estimated apart, with degrees of freedom of their own, and combined by Banerjee's
inequality (Banerjee 1960, Sankhya 22): mean +- sqrt(sum_j t(f_j)^2 V_j) covers with at least the stated confidence
whatever the shares of the V_j, where Satterthwaite's single t falls short with few seeds. The inequality is proved for
independent variance estimates of normal data. Ours are only nearly so; benchmarks/coverage.py measures the coverage.

From S seeds alone the seed variance has S - 1 degrees of freedom, and t(1) = 12.7. So it is pooled with the seed
variances of other lines, more strongly the more alike they are (the moderated t of Smyth 2004, Stat. Appl. Genet. Mol.
Biol. 3).

All arrays are float64; scores of one benchmark are [L, S, n] with lines, seeds and items in one order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SMALLEST_P = 1e-30
ZERO_QUANTILE = 0.01
"""Variances below this quantile of their distribution count as that quantile where logarithms of them are taken."""


@dataclass(frozen=True)
class Estimate:
    """Means of several lines with what is known of their errors.

    mean: [L]. variances: [C, L], independent parts of the variance of the mean; freedom: [C, L], degrees of freedom of
    each. seeds: how many; with one, the seeds' part is not among the variances, because nothing is known of it.
    """

    mean: Array
    variances: Array
    freedom: Array
    seeds: int

    def at(self, line: int) -> "Estimate":
        """The estimate of one line alone; its arrays lack the axis L."""
        return Estimate(self.mean[line], self.variances[:, line], self.freedom[:, line], self.seeds)

    def half_width(self, confidence: float = 0.95) -> Array:
        """[L] half the width of the interval, sqrt(sum_j t(f_j)^2 V_j)."""
        return self._half_width(np.full(self.mean.shape, (1 - confidence) / 2))

    def p_value(self) -> Array:
        """[L] two-sided p of the mean being zero: 1 - the confidence of the interval that just reaches it.

        1 where mean and variances are zero; never below SMALLEST_P.
        """
        target = np.abs(self.mean)
        low, high = np.full(self.mean.shape, np.log(SMALLEST_P)), np.zeros(self.mean.shape)
        for _ in range(50):  # the half width falls as p rises; 50 halvings of 69 are 6e-14
            middle = (low + high) / 2
            wide = self._half_width(np.exp(middle) / 2) >= target
            low, high = np.where(wide, middle, low), np.where(wide, high, middle)
        return np.where(target == 0, 1.0, np.exp((low + high) / 2))

    def _half_width(self, tail: Array) -> Array:
        from scipy.special import stdtrit

        quantile = -stdtrit(self.freedom, np.broadcast_to(tail, self.freedom.shape))
        # a part without variance counts nothing, even where its quantile is infinite
        parts = np.where(self.variances > 0, quantile**2 * self.variances, 0.0)
        return np.asarray(np.sqrt(np.sum(parts, axis=0)))


def mean_squares(scores: Array) -> tuple[Array, Array, Array]:
    """[L, S, n] -> mean squares of seeds, items and their interaction, each [L]; two-way ANOVA without replication.

    Expectations: n var(u) + var(e); S var(g) + var(e); var(e). Needs at least 2 seeds and 2 items.
    """
    _, seeds, items = scores.shape
    centred = scores - scores.mean(axis=(1, 2), keepdims=True)
    by_seed, by_item = centred.mean(axis=2), centred.mean(axis=1)
    rest = centred - by_seed[:, :, None] - by_item[:, None, :]
    return (
        items * (by_seed**2).sum(axis=1) / (seeds - 1),
        seeds * (by_item**2).sum(axis=1) / (items - 1),
        (rest**2).sum(axis=(1, 2)) / ((seeds - 1) * (items - 1)),
    )


def estimate_differences(benchmarks: Sequence[Array], reference: int, prior: float = np.inf) -> Estimate:
    """Means of the paired differences from line `reference`, averaged over benchmarks, with their errors.

    benchmarks: [L, S, n_k] each; items of different benchmarks are independent. The lines lend each other their seed
    variance: a difference has S - 1 degrees of freedom of its own, and the L - 2 contrasts orthogonal to it add at most
    `prior` (`prior_freedom`).

    The variance has two parts. The part over seeds includes the interaction of seeds and items, and is never less than
    what items alone explain of it. The other part is over items. With one seed there is only the latter, with the
    interaction in it. Row `reference` is all zero.
    """
    differences = [scores - scores[reference] for scores in benchmarks]
    lines, seeds, _ = differences[0].shape
    mean = np.mean([d.mean(axis=(1, 2)) for d in differences], axis=0)
    items, floor, item_freedom = _over_items(differences)
    if seeds == 1:
        return Estimate(mean, items[None], item_freedom[None], 1)
    by_seed = np.mean([scores.mean(axis=2) for scores in benchmarks], axis=0)
    own = (by_seed - by_seed[reference]).var(axis=1, ddof=1)
    # 2 x the interaction's mean square: the mean variance of the L - 1 orthogonal contrasts, each of the scale of a
    # difference; the difference itself is one of them
    over_seeds, freedom = _moderated(own, 2 * _seed_variances(by_seed)[0], seeds, prior)
    over_seeds = np.where(np.arange(lines) == reference, 0.0, np.maximum(over_seeds, floor))
    return Estimate(
        mean, np.stack([over_seeds / seeds, items]), np.stack([np.full(lines, freedom), item_freedom]), seeds
    )


def estimate_scores(benchmarks: Sequence[Array], prior: float = np.inf) -> Estimate:
    """Means of the lines' own scores, averaged over benchmarks, with their errors.

    As `estimate_differences`, but a score also moves with what a seed does to all lines, which is estimated from the
    mean of the L lines on S - 1 degrees of freedom. So there are three parts: seeds common to all lines, seeds of the
    line, items.
    """
    lines, seeds, _ = benchmarks[0].shape
    mean = np.mean([scores.mean(axis=(1, 2)) for scores in benchmarks], axis=0)
    items, floor, item_freedom = _over_items(benchmarks)
    if seeds == 1:
        return Estimate(mean, items[None], item_freedom[None], 1)
    by_seed = np.mean([scores.mean(axis=2) for scores in benchmarks], axis=0)
    common = np.full(lines, by_seed.mean(axis=0).var(ddof=1))
    freedom = [np.full(lines, seeds - 1.0), item_freedom]
    if lines == 1:
        return Estimate(mean, np.stack([np.maximum(common, floor) / seeds, items]), np.stack(freedom), seeds)
    pooled, own = _seed_variances(by_seed)
    single, gained = _moderated(own, pooled, seeds, prior)
    # a line is the mean of all plus its deviation, of which a share 1/L belongs to the mean
    single = np.maximum(single * (1 - 1 / lines), floor - common)
    freedom.insert(1, np.full(lines, gained))
    return Estimate(mean, np.stack([common / seeds, single / seeds, items]), np.stack(freedom), seeds)


def _over_items(benchmarks: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Three arrays [L]: what the choice of items adds to the variance of the mean; the least that the variance of a
    seed's mean can be, which is the interaction's share of it; degrees of freedom of the first (Satterthwaite over
    benchmarks)."""
    lines, seeds, _ = benchmarks[0].shape
    parts, floor, freedom = [], np.zeros(lines), []
    for scores in benchmarks:
        n = scores.shape[2]
        if seeds == 1:
            part = scores[:, 0].var(axis=1, ddof=1) / n
        else:
            _, items, rest = mean_squares(scores)
            part = np.maximum(items - rest, 0.0) / (seeds * n)
            floor += rest / n
        parts.append(part)
        freedom.append(n - 1)
    stacked = np.stack(parts)
    total = stacked.sum(axis=0)
    spread = (stacked**2 / np.array(freedom, dtype=np.float64)[:, None]).sum(axis=0)
    together = np.full(lines, float(sum(freedom)))
    np.divide(total**2, spread, out=together, where=spread > 0)
    return total / len(benchmarks) ** 2, floor / len(benchmarks) ** 2, together


def _moderated(own: Array, pooled: float, seeds: int, prior: float) -> tuple[Array, float]:
    """[L] variances over seeds after each line has borrowed from the others, and their degrees of freedom.

    own: [L], of each line alone. pooled: of all lines. The other lines count as at most `prior` degrees of freedom.
    """
    lines = len(own)
    borrowed = min(prior, (lines - 2) * (seeds - 1))
    others = np.maximum((lines - 1) * pooled - own, 0.0) / max(lines - 2, 1)
    freedom = borrowed + seeds - 1
    return (borrowed * others + (seeds - 1) * own) / freedom, freedom


def _seed_variances(by_seed: Array) -> tuple[float, Array]:
    """[L, S] -> variances over seeds, without what a seed does to all lines: the mean square of lines x seeds, and [L]
    the variance of each line alone, S - 1 degrees of freedom each."""
    lines, seeds = by_seed.shape
    squares = (by_seed - by_seed.mean(axis=1, keepdims=True) - by_seed.mean(axis=0) + by_seed.mean()) ** 2
    freedom = (lines - 1) * (seeds - 1)
    return float(squares.sum() / freedom), squares.sum(axis=1) * lines / freedom


def prior_freedom(groups: Sequence[Array]) -> float:
    """Degrees of freedom that a line gains from the seed variances of the other lines (Smyth 2004, section 6.2).

    groups: [L, S] means over items, an array for each group of pooled lines and benchmark. If the lines' true
    variances scatter about their group's as a scaled inverse chi-square of d degrees of freedom, the logarithms of the
    estimates have the variance trigamma((S - 1) / 2) + trigamma(d / 2). This is solved for d. Infinite where the
    estimates scatter no more than those of one common variance do. Groups of fewer than 3 lines or 2 seeds are skipped.
    """
    from scipy.optimize import brentq
    from scipy.special import polygamma
    from scipy.stats import chi2

    squares, expected, count = 0.0, 0.0, 0
    for by_seed in groups:
        lines, seeds = by_seed.shape
        if lines < 3 or seeds < 2:
            continue
        pooled, own = _seed_variances(by_seed)
        if pooled == 0:
            continue
        least = chi2.ppf(ZERO_QUANTILE, seeds - 1) / (seeds - 1)
        logs = np.log(np.maximum(own / pooled, least))
        squares += float(((logs - logs.mean()) ** 2).sum())
        count += lines - 1
        expected += (lines - 1) * float(polygamma(1, (seeds - 1) / 2))
    excess = (squares - expected) / count if count else 0.0
    if excess <= 0:
        return np.inf
    # 1/x < trigamma(x) < 1/x + 1/x^2 brackets the root of trigamma(x) = excess
    low, high = 1 / excess, (1 + np.sqrt(1 + 4 * excess)) / (2 * excess)
    return 2 * float(brentq(lambda x: float(polygamma(1, x)) - excess, low * 0.999, high * 1.001))


def holm(p: Array, comparisons: int | None = None) -> Array:
    """Holm's step-down adjustment (Holm 1979): p values that may be compared with the family-wise error rate.

    comparisons: size of the family, where some of its members have no p; default: len(p).
    """
    total = len(p) if comparisons is None else comparisons
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate((total - np.arange(len(p))) * p[order]), 1.0)
    return adjusted
