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

from collections.abc import Hashable, Sequence
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


def of_clusters(scores: Array, clusters: Sequence[Hashable]) -> Array:
    """[..., n] scores of items -> [..., C] scores of clusters of items that are not independent, with the same mean.

    y_c = mean + (C / n) sum_{i in c} (x_i - mean): the linearised cluster sums. Their mean is that of the items,
    whatever the sizes of the clusters, and their variance over C is the cluster-robust variance of that mean (Miller
    2024, arXiv 2411.00640, section 2.2, there without C / (C - 1)). So clusters are to everything here what items are.
    Where each item is a cluster, these are the scores.
    """
    places: dict[Hashable, int] = {}
    of_item = np.array([places.setdefault(cluster, len(places)) for cluster in clusters])
    if len(places) == len(of_item):
        return scores
    mean = scores.mean(axis=-1, keepdims=True)
    order = np.argsort(of_item, kind="stable")
    starts = np.searchsorted(of_item[order], np.arange(len(places)))
    sums = np.add.reduceat((scores - mean)[..., order], starts, axis=-1)
    return np.asarray(mean + len(places) / len(of_item) * sums)


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


@dataclass(frozen=True)
class _Squares:
    """What the error of K contrasts is computed from; norm, own, items and rest are quadratic forms of their weights.

    mean: [K]. norm: [K] sums of squared weights. own: [K] variances over seeds of the contrast averaged over
    benchmarks. items, rest: [B, K] mean squares of items and of the interaction, for each benchmark; with one seed
    the former is the variance over items, the latter zero. pooled: mean square of lines x seeds.
    """

    mean: Array
    norm: Array
    own: Array
    items: Array
    rest: Array
    pooled: float

    def mixed(self, weights: Array) -> "_Squares":
        """Those of other contrasts, of which each form is the sum of these K with `weights` [M, K]; without means."""
        # a sum of squares is never negative, but for rounding
        norm, own, items, rest = (
            np.maximum(form @ weights.T, 0.0) for form in (self.norm, self.own, self.items, self.rest)
        )
        return _Squares(np.zeros(len(weights)), norm, own, items, rest, self.pooled)


def estimate_differences(benchmarks: Sequence[Array], reference: int, prior: float = np.inf) -> Estimate:
    """Means of the paired differences from line `reference`, averaged over benchmarks, with their errors.

    As `estimate_contrasts`, of which these are L. Row `reference` is all zero.
    """
    lines = np.eye(len(benchmarks[0]))
    return estimate_contrasts(benchmarks, lines - lines[reference], prior)


def estimate_contrasts(benchmarks: Sequence[Array], weights: Array, prior: float = np.inf) -> Estimate:
    """Means of contrasts of the lines, averaged over benchmarks, with their errors.

    benchmarks: [L, S, n_k] each; items of different benchmarks are independent. weights: [K, L], each row sums to zero,
    so that what a seed or an item does to all lines cancels. The lines lend each other their seed variance: a contrast
    has S - 1 degrees of freedom of its own, and the L - 2 contrasts orthogonal to it add at most `prior`
    (`prior_freedom`).

    The variance has two parts. The part over seeds includes the interaction of seeds and items, and is never less than
    what items alone explain of it. The other part is over items. With one seed there is only the latter, with the
    interaction in it.
    """
    return _estimate(_squares(benchmarks, weights), benchmarks, prior)


def estimate_ratio(
    benchmarks: Sequence[Array], line: int, zero: int, one: int, prior: float = np.inf, confidence: float = 0.95
) -> tuple[float, float, float] | None:
    """(q, low, high): where a line lies between two others, q = (line - zero) / (one - zero), with its interval.

    By Fieller's method (1954): the interval holds every q for which the contrast (line - zero) - q (one - zero) is not
    told from zero. Its error is that of `estimate_contrasts`, so the covariances of the three lines are in it.

    None where `zero` and `one` are not told apart: the interval would have no end.
    """
    from scipy.optimize import brentq

    lines = np.eye(len(benchmarks[0]))
    basis = np.stack([lines[line] - lines[zero], lines[one] - lines[zero], lines[line] - lines[one]])
    squares = _squares(benchmarks, basis)
    over, under, _ = squares.mean
    if abs(under) <= _estimate(squares, benchmarks, prior).half_width(confidence)[1]:
        return None
    found = float(over / under)
    if line in (zero, one):
        return found, found, found

    def excess(q: float) -> float:
        """How far the contrast is from being told from zero; a form of x - q y is a sum of those of x, y and x - y."""
        form = squares.mixed(np.array([[1 - q, q * q - q, q]]))
        half = _estimate(form, benchmarks, prior).half_width(confidence)
        return float(abs(over - q * under) - half[0])

    def end(step: float) -> float:
        while excess(found + step) <= 0:
            step *= 2
        return float(brentq(lambda q: excess(q), found, found + step, xtol=1e-6))

    return found, end(-0.125), end(0.125)


def _squares(benchmarks: Sequence[Array], weights: Array) -> _Squares:
    seeds = benchmarks[0].shape[1]
    contrasts = [np.tensordot(weights, scores, 1) for scores in benchmarks]
    mean = np.mean([scores.mean(axis=(1, 2)) for scores in contrasts], axis=0)
    items, rest = zip(*(_item_squares(scores) for scores in contrasts), strict=True)
    by_seed = np.mean([scores.mean(axis=2) for scores in benchmarks], axis=0)
    several = seeds > 1
    own = (weights @ by_seed).var(axis=1, ddof=1) if several else np.zeros(len(weights))
    pooled = _seed_variances(by_seed)[0] if several else 0.0
    return _Squares(mean, (weights**2).sum(axis=1), own, np.stack(items), np.stack(rest), pooled)


def _estimate(squares: _Squares, benchmarks: Sequence[Array], prior: float) -> Estimate:
    """The parts of the error of contrasts of the lines of these benchmarks."""
    lines, seeds, _ = benchmarks[0].shape
    items, floor, item_freedom = _over_items(squares.items, squares.rest, seeds, [b.shape[2] for b in benchmarks])
    if seeds == 1:
        return Estimate(squares.mean, items[None], item_freedom[None], 1)
    # of unit contrasts: those that are orthogonal to each other have one scale then
    unit = np.divide(squares.own, squares.norm, out=np.zeros_like(squares.own), where=squares.norm > 0)
    over_seeds, freedom = _moderated(unit, squares.pooled, lines, seeds, prior)
    over_seeds = np.where(squares.norm > 0, np.maximum(squares.norm * over_seeds, floor), 0.0)
    variances = np.stack([over_seeds / seeds, items])
    return Estimate(squares.mean, variances, np.stack([np.full(len(items), freedom), item_freedom]), seeds)


def estimate_scores(benchmarks: Sequence[Array], prior: float = np.inf) -> Estimate:
    """Means of the lines' own scores, averaged over benchmarks, with their errors.

    As `estimate_differences`, but a score also moves with what a seed does to all lines, which is estimated from the
    mean of the L lines on S - 1 degrees of freedom. So there are three parts: seeds common to all lines, seeds of the
    line, items.
    """
    lines, seeds, _ = benchmarks[0].shape
    mean = np.mean([scores.mean(axis=(1, 2)) for scores in benchmarks], axis=0)
    squares, rest = zip(*(_item_squares(scores) for scores in benchmarks), strict=True)
    counts = [scores.shape[2] for scores in benchmarks]
    items, floor, item_freedom = _over_items(np.stack(squares), np.stack(rest), seeds, counts)
    if seeds == 1:
        return Estimate(mean, items[None], item_freedom[None], 1)
    by_seed = np.mean([scores.mean(axis=2) for scores in benchmarks], axis=0)
    common = np.full(lines, by_seed.mean(axis=0).var(ddof=1))
    freedom = [np.full(lines, seeds - 1.0), item_freedom]
    if lines == 1:
        return Estimate(mean, np.stack([np.maximum(common, floor) / seeds, items]), np.stack(freedom), seeds)
    pooled, own = _seed_variances(by_seed)
    single, gained = _moderated(own, pooled, lines, seeds, prior)
    # a line is the mean of all plus its deviation, of which a share 1/L belongs to the mean
    single = np.maximum(single * (1 - 1 / lines), floor - common)
    freedom.insert(1, np.full(lines, gained))
    return Estimate(mean, np.stack([common / seeds, single / seeds, items]), np.stack(freedom), seeds)


def _item_squares(scores: Array) -> tuple[Array, Array]:
    """[K, S, n] -> mean squares of items and of the interaction, each [K]; one seed has the latter in the former."""
    if scores.shape[1] == 1:
        return scores[:, 0].var(axis=1, ddof=1), np.zeros(len(scores))
    return mean_squares(scores)[1:]


def _over_items(items: Array, rest: Array, seeds: int, counts: Sequence[int]) -> tuple[Array, Array, Array]:
    """Three arrays [K]: what the choice of items adds to the variance of the mean; the least that the variance of a
    seed's mean can be, which is the interaction's share of it; degrees of freedom of the first (Satterthwaite over
    benchmarks). items, rest: [B, K] mean squares."""
    n = np.array(counts, dtype=np.float64)[:, None]
    parts = np.maximum(items - rest, 0.0) / (seeds * n)
    total, spread = parts.sum(axis=0), (parts**2 / (n - 1)).sum(axis=0)
    together = np.full(len(total), float((n - 1).sum()))
    np.divide(total**2, spread, out=together, where=spread > 0)
    return total / len(n) ** 2, (rest / n).sum(axis=0) / len(n) ** 2, together


def _moderated(own: Array, pooled: float, lines: int, seeds: int, prior: float) -> tuple[Array, float]:
    """[K] variances over seeds of unit contrasts after each has borrowed from the others, and their degrees of freedom.

    own: [K], of each alone. pooled: of all L - 1 orthogonal ones. The others count as at most `prior` degrees of
    freedom.
    """
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
