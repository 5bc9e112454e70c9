"""`python -m benchmarks.coverage`: do 95% intervals over seeds and items hold the truth 95% of the time?

Simulates scores whose variances are known (qtuning/statistics/estimate.py names them); prints the table of the docs.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qtuning.statistics.estimate import (
    Array,
    estimate_differences,
    estimate_ratio,
    estimate_scores,
    mean_squares,
    of_clusters,
    prior_freedom,
)


@dataclass(frozen=True)
class Scenario:
    """Scores of equal lines. seed, item, rest: sd of what a seed does to one line, what an item does to it, the rest.

    A seed moves all lines by sd 1, an item by sd 3. binary: what is scored is only whether the sum of all this is
    positive. skewed: what items do to one line, and the rest, are log-normal (sigma = 1), as likelihoods are. unequal:
    each line has a seed variance of its own, scattered as a scaled inverse chi-square of 4 degrees of freedom. budgets:
    blocks that the agreement of the variances is learned from. cluster: items come in clusters of 1 to 2 `cluster` - 1,
    which share 3/4 of the variance of what an item does to one line.
    """

    seeds: int
    items: int
    lines: int = 17
    seed: float = 0.05
    item: float = 0.3
    rest: float = 0.5
    benchmarks: int = 1
    budgets: int = 1
    binary: bool = False
    skewed: bool = False
    unequal: bool = False
    cluster: int = 1


def simulate(scenario: Scenario, rng: np.random.Generator) -> tuple[list[Array], list[int]]:
    """[L, S, n] scores of each benchmark, and the cluster of each item; the expectation of every line is the same."""
    lines, seeds, items = scenario.lines, scenario.seeds, scenario.items

    def drawn(*shape: int) -> Array:
        """Of mean 0 and standard deviation 1."""
        values = rng.normal(0, 1, shape)
        return (np.exp(values) - np.exp(0.5)) / np.sqrt(np.exp(2) - np.exp(1)) if scenario.skewed else values

    sizes = rng.integers(1, 2 * scenario.cluster, items)
    clusters = np.repeat(np.arange(items), sizes)[:items]
    shared = 0.75 if scenario.cluster > 1 else 0.0
    spread = np.full(lines, scenario.seed)
    if scenario.unequal:
        spread = spread * np.sqrt(2 / rng.chisquare(4, lines))  # E[1 / chi2(4)] = 1/2
    common, own = rng.normal(0, 1, seeds), rng.normal(0, 1, (lines, seeds)) * spread[:, None]
    found = []
    for _ in range(scenario.benchmarks):
        scores = (common + own)[:, :, None] + rng.normal(0, 3, items)
        of_item = np.sqrt(1 - shared) * drawn(lines, 1, items)
        if shared:
            of_item = of_item + np.sqrt(shared) * drawn(lines, 1, clusters[-1] + 1)[:, :, clusters]
        scores = scores + scenario.item * of_item + scenario.rest * drawn(lines, seeds, items)
        found.append((scores > 0).astype(np.float64) if scenario.binary else scores)
    return found, clusters.tolist()


def outcomes(scenario: Scenario, repeats: int, seed: int = 0, resamples: int = 0) -> dict[str, Array]:
    """Per repeat, by method: the share of the lines whose interval holds the true difference (0) from line 0.

    ours: `estimate_differences`. ignored: the same where clusters are taken for independent items. alone: the same for
    two lines without others to borrow from. satterthwaite: one t for the sum of the ANOVA estimates. items: over items
    alone, seeds averaged away. answers: all S x n answers as if independent. score: a line's own score (not where
    `binary`, for its expectation depends on the seed's). position: `estimate_ratio` of a line that is truly 0.3 of the
    way from line 0 to another, which is 8 standard errors above it (not where `binary`) (none: a miss). bootstrap:
    `crossed_bootstrap` of one line, if `resamples`. width: of ours, as a multiple of the ideal one (known variances).
    family: 1 where the first step of Holm's correction, and so the whole of it, finds any difference at 5%.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for repeat in range(repeats):
        blocks = [simulate(scenario, rng) for _ in range(scenario.budgets)]
        scores = [of_clusters(part, blocks[0][1]) for part in blocks[0][0]]
        prior = prior_freedom([part.mean(axis=2) for block, _ in blocks for part in block])
        for method, value in _once(scenario, scores, prior, repeat, resamples):
            found.setdefault(method, []).append(value)
        if scenario.cluster > 1:
            ignored = estimate_differences(blocks[0][0], 0, prior)
            held = np.abs(ignored.mean[1:]) <= ignored.half_width()[1:]
            found.setdefault("ignored", []).append(float(held.mean()))
    return {method: np.array(values) for method, values in found.items()}


def _once(
    scenario: Scenario, scores: list[Array], prior: float, repeat: int, resamples: int
) -> Iterator[tuple[str, float]]:
    from scipy.stats import t

    seeds, items, count = scenario.seeds, scores[0].shape[2], scenario.benchmarks
    ours = estimate_differences(scores, 0, prior)
    mean, half = ours.mean[1:], ours.half_width()[1:]
    yield "ours", float(np.mean(np.abs(mean) <= half))
    yield "family", float((np.abs(mean) > ours.half_width(1 - 0.05 / len(mean))[1:]).any())
    alone = estimate_differences([part[:2] for part in scores], 0)
    yield "alone", float(abs(alone.mean[1]) <= alone.half_width()[1])
    squares = np.array([mean_squares(part[1:] - part[0])[1:] for part in scores]) / (seeds * items * count**2)
    of_items, rest = squares.sum(axis=0)
    by_seed = np.mean([part.mean(axis=2) for part in scores], axis=0)
    of_seeds = (by_seed[1:] - by_seed[0]).var(axis=1, ddof=1) / seeds
    freedom = np.array([seeds - 1, count * (items - 1), count * (seeds - 1) * (items - 1)])
    total = np.maximum(of_seeds + of_items - rest, 0.0)
    effective = total**2 / (of_seeds**2 / freedom[0] + of_items**2 / freedom[1] + rest**2 / freedom[2])
    yield "satterthwaite", float(np.mean(np.abs(mean) <= t.isf(0.025, np.maximum(effective, 1)) * np.sqrt(total)))
    yield "items", float(np.mean(np.abs(mean) <= t.isf(0.025, freedom[1]) * np.sqrt(of_items)))
    variance = sum((part[1:] - part[0]).var(axis=(1, 2), ddof=1) for part in scores) / (seeds * items * count**2)
    yield "answers", float(np.mean(np.abs(mean) <= t.isf(0.025, count * seeds * items - 1) * np.sqrt(variance)))
    if not scenario.binary:
        score = estimate_scores(scores, prior)
        yield "score", float(np.mean(np.abs(score.mean) <= score.half_width()))
        ideal = 2 * (scenario.seed**2 / seeds + (scenario.item**2 + scenario.rest**2 / seeds) / items / count)
        if scenario.cluster == 1:
            yield "width", float(np.median(half)) / float(t.isf(0.025, np.inf) * np.sqrt(ideal))
    if not scenario.binary and scenario.lines > 2:
        oracle = 8 * np.sqrt(ideal)
        shifts = np.array([0, 0.3 * oracle, oracle, *np.zeros(scenario.lines - 3)])
        position = estimate_ratio([part + shifts[:, None, None] for part in scores], 1, 0, 2, prior)
        yield "position", float(position is not None and position[1] <= 0.3 <= position[2])
    if resamples:
        low, high = crossed_bootstrap([part[1] - part[0] for part in scores], resamples=resamples, seed=repeat)
        yield "bootstrap", float(low <= 0 <= high)


SCENARIOS = {
    "no seed variance": {"seed": 0.0},
    "seeds as noisy as the rest": {"seed": 0.05},
    "seeds 5 x as noisy": {"seed": 0.25},
    "6 benchmarks": {"seed": 0.05, "benchmarks": 6},
    "right or wrong": {"seed": 0.25, "binary": True},
    "skewed": {"skewed": True},
    "clusters of 3": {"cluster": 3, "item": 1.0},
    "unequal lines": {"seed": 0.25, "unequal": True, "budgets": 6},
}
COLUMNS = (
    *("ours", "ignored", "alone", "satterthwaite", "bootstrap", "items", "answers"),
    *("score", "position", "family", "width"),
)


def crossed_bootstrap(
    benchmarks: Sequence[Array], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean under independent resampling of seeds and items (Owen 2007, Ann. Appl. Stat. 1).

    benchmarks: [S, n_k] differences of one pair of lines. Its variance counts var(e) / (S n) up to three times; but a
    bootstrap of 2 seeds knows half of their variance. A check of the intervals above, not their replacement.
    """
    rng = np.random.default_rng(seed)
    seeds = benchmarks[0].shape[0]
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    means = np.zeros(resamples)
    for scores in benchmarks:
        n = scores.shape[1]
        weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
        means += np.einsum("rs,rs->r", drawn, weights @ scores.T) / len(benchmarks)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--scenarios", nargs="*", choices=SCENARIOS, default=list(SCENARIOS), help="default: all")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    print(f"| scenario | seeds | items | {' | '.join(COLUMNS)} |")
    print(f"|:---|---:|---:|{'---:|' * len(COLUMNS)}")
    for name in arguments.scenarios:
        changes = SCENARIOS[name]
        for seeds, items in ((2, 100), (3, 50), (3, 500), (5, 100)):
            scenario = Scenario(seeds, items, **changes)  # type: ignore[arg-type]
            found = outcomes(scenario, repeats, resamples=400)
            cells = [f"{found[column].mean():.3f}" if column in found else "" for column in COLUMNS]
            print(f"| {name} | {seeds} | {items} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
