"""What scores of methods at one budget vary with: the method, the seed, the items (variance components).

The model is that of estimate.py, y = mean_l + c_s + u_ls + b_i + g_li + e_lsi for line l, seed s and item i. The mean
squares of lines, seeds and items, crossed, are pooled over budgets; only lines of one budget are compared, because
different budgets differ for other reasons than the method. With L lines, S seeds and n items,

    E[mean square of the lines' means] = var(mean) + var(u) / S + var(g) / n + var(e) / (S n)

so the spread between methods is what is left of it once seeds and items are taken out. The average of benchmarks adds
up their parts, whose items are independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qtuning.statistics.estimate import Array, mean_squares
from qtuning.statistics.power import Spread

Block = Sequence[Array]
"""The lines of one budget: [L, S, n] scores for each benchmark of an average, lines and seeds in one order."""

LEVEL = 0.05
"""Of the test whether lines differ at all."""


@dataclass(frozen=True)
class Components:
    """Standard deviations in the unit of the scores.

    signal: between the means of lines at one budget, without what seeds and items add; 0 where they explain it all.
    seed: of one line's score from seed to seed, without what a seed does to all lines, which cancels in a comparison.
    of_items: the part of `seed` that comes from asking n items and not more, sqrt(var(e) / n). own: the rest of it,
    sqrt(var(u)). common: what a seed does to all lines.
    noise: of the mean of a line over S seeds and n items. critical: the `signal` that noise alone stays below in 95% of
    the cases (F test with Satterthwaite's degrees of freedom).
    spreads: of the paired difference of two lines, by benchmark, as power.py takes them. correlation: of two lines'
    answers to one item, a mean over benchmarks. freedom: degrees of freedom of `seed`.
    """

    signal: float
    seed: float
    of_items: float
    own: float
    common: float
    noise: float
    critical: float
    spreads: tuple[Spread, ...]
    correlation: float
    freedom: int

    @property
    def ratio(self) -> float | None:
        """Signal to noise: the spread between methods over that between seeds; None where no seed changes anything."""
        return self.signal / self.seed if self.seed > 0 else None

    @property
    def informative(self) -> bool:
        """Whether the lines differ more than noise alone makes them differ in 95% of the cases."""
        return self.signal > self.critical


def components(blocks: Sequence[Block]) -> Components | None:
    """The components pooled over budgets; None where no budget has two lines that answered at two seeds.

    A block of one line or one seed says nothing and is left out. The variance over seeds is never taken to be less than
    what the items alone explain, as in estimate.py.
    """
    known = [block for block in blocks if min(block[0].shape[:2]) > 1]
    if not known:
        return None
    shapes = np.array([block[0].shape for block in known])
    lines, seeds = shapes[:, 0] - 1.0, shapes[:, 1]
    means = [np.mean([scores.mean(axis=2) for scores in block], axis=0) for block in known]
    between, shared, rest = np.array([_sums_of_squares(by_seed) for by_seed in means]).sum(axis=0)
    freedom = float((lines * (seeds - 1)).sum())
    count = len(known[0])
    parts = [_items([block[k] for block in known]) for k in range(count)]
    items = np.array([block.shape[2] for block in known[0]])
    answer, line_item = np.array([(part.answer, part.line_item) for part in parts]).T
    own = _own_seeds([[block[k] for block in known] for k in range(count)], freedom, answer / items)
    of_items = float((answer / items).sum()) / count**2
    seed = max(rest / freedom, of_items)
    by_seeds = seed * float((lines / seeds).sum() / lines.sum())
    by_items = line_item / items / count**2
    noise = by_seeds + float(by_items.sum())
    total = between / lines.sum()
    spread = by_seeds**2 / freedom + float((by_items**2 / (lines.sum() * (items - 1))).sum())
    return Components(
        signal=float(np.sqrt(max(total - noise, 0.0))),
        seed=float(np.sqrt(seed)),
        of_items=float(np.sqrt(of_items)),
        own=float(np.sqrt(seed - of_items)),
        common=float(np.sqrt(max(shared / (seeds - 1).sum() - rest / freedom, 0.0) / (lines.mean() + 1))),
        noise=float(np.sqrt(noise)),
        critical=_critical(noise, float(lines.sum()), spread),
        spreads=tuple(
            Spread(*np.sqrt(2 * np.array([u, g, e]))) for u, g, e in zip(own, line_item, answer, strict=True)
        ),
        correlation=float(np.mean([part.correlation for part in parts])),
        freedom=int(freedom),
    )


@dataclass(frozen=True)
class _ItemParts:
    """var(g), var(e), and the correlation of two lines' answers to one item."""

    line_item: float
    answer: float
    correlation: float


def _items(blocks: Block) -> _ItemParts:
    """The items' parts of one benchmark, from [L, S, n] scores of each budget."""
    by_item = by_answer = within = freedom = count = 0.0
    for scores in blocks:
        lines, seeds, _ = scores.shape
        # what is left once the mean over lines is taken out has neither c_s nor b_i; its mean squares lack one line
        _, items, rest = mean_squares(scores - scores.mean(axis=0))
        by_item += float((items - rest).sum()) / seeds
        by_answer += float(rest.sum())
        within += float(scores.var(axis=2, ddof=1).sum())
        freedom, count = freedom + lines - 1, count + lines * seeds
    line_item, answer, whole = max(by_item / freedom, 0.0), by_answer / freedom, within / count
    return _ItemParts(line_item, answer, 1 - (line_item + answer) / whole if whole else 1.0)


def _own_seeds(benchmarks: Sequence[Block], freedom: float, of_items: Array) -> Array:
    """[K] var(u) of each benchmark."""
    rest = [sum(_sums_of_squares(scores.mean(axis=2))[2] for scores in blocks) for blocks in benchmarks]
    return np.maximum(np.array(rest) / freedom - of_items, 0.0)


def _sums_of_squares(by_seed: Array) -> tuple[float, float, float]:
    """[L, S] -> of the lines' means, of seeds (times L), of lines x seeds."""
    centred = by_seed - by_seed.mean()
    lines, seeds = centred.mean(axis=1), centred.mean(axis=0)
    rest = centred - lines[:, None] - seeds
    return float((lines**2).sum()), float((seeds**2).sum()) * len(by_seed), float((rest**2).sum())


def _critical(noise: float, lines: float, spread: float) -> float:
    """The signal that noise alone exceeds in 5% of the cases. spread: sum of the parts' squares over their freedom."""
    from scipy.stats import f

    if noise == 0:
        return 0.0
    quantile = float(f.isf(LEVEL, lines, noise**2 / spread))
    return float(np.sqrt(max(quantile - 1, 0.0) * noise))
