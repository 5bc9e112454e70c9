"""`python -m benchmarks.power STORE EXPERIMENT`: how often a true difference would be found, by simulation.

With the spreads that were measured in a store, and as many items and methods as it has, prints how often a comparison
of two methods finds a difference of 2 and of 3 points with 3 and 5 seeds: one comparison, and the hardest of a family
of six (the first step of Holm's correction). Beside it, the difference that `detectable_difference` promises to find
in 80%.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qtuning.errors import UserError
from qtuning.statistics.answers import answer_sets
from qtuning.statistics.components import components
from qtuning.statistics.estimate import estimate_differences
from qtuning.statistics.instrument import budgets_of
from qtuning.statistics.power import Spread, detectable_difference
from qtuning.statistics.summary import summarise
from qtuning.store.store import Store

FAMILY = 6


def found(
    spreads: Mapping[str, Spread],
    items: Mapping[str, int],
    seed_of_average: float,
    seeds: int,
    lines: int,
    difference: float,
    comparisons: int = 1,
    repeats: int = 1000,
) -> float:
    """The share of experiments that mark a line which is truly better by `difference` on the average.

    Arguments as of `detectable_difference`. What a seed does to the average of a line it does to each benchmark.
    """
    rng, marked = np.random.default_rng(1), 0
    for _ in range(repeats):
        own = rng.normal(0, seed_of_average / np.sqrt(2), (lines, seeds, 1))
        parts = []
        for name, spread in spreads.items():
            n = items[name]
            scores = own + rng.normal(0, 9, n) + rng.normal(0, spread.item / np.sqrt(2), (lines, 1, n))
            scores += rng.normal(0, spread.rest / np.sqrt(2), (lines, seeds, n))
            scores[1] += difference
            parts.append(scores)
        estimate = estimate_differences(parts, 0)
        marked += bool(estimate.mean[1] > estimate.half_width(1 - 0.05 / comparisons)[1])
    return marked / repeats


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("experiment")
    parser.add_argument("--times-items", type=int, default=1, help="so many times the items of the store")
    arguments = parser.parse_args()
    store = Store(arguments.store)
    known = next(answer_sets(summarise(store.experiment(arguments.experiment)), store.items))
    blocks = budgets_of(known, known.summary.overall)
    arrays = [known.arrays(block, known.summary.overall) for block in blocks]
    if (measured := components(arrays)) is None:
        raise UserError(f"{arguments.experiment}: no budget has two methods with two seeds")
    names = known.parts(known.summary.overall)
    items = {name: arguments.times_items * part.shape[2] for name, part in zip(names, arrays[0], strict=True)}
    spreads, lines = dict(zip(names, measured.spreads, strict=True)), max(map(len, blocks))
    own = np.sqrt(2) * measured.own
    print(f"{sum(items.values()):,} items, {lines} methods at a budget\n")
    print("| seeds | comparisons | 2 points | 3 points | found in 80% |\n|---:|---:|---:|---:|---:|")
    for seeds in (3, 5):
        for comparisons in (1, FAMILY):
            shares = (found(spreads, items, own, seeds, lines, points, comparisons) for points in (2, 3))
            least = detectable_difference(spreads, items, seeds, lines, seed_of_average=own, comparisons=comparisons)
            print(f"| {seeds} | {comparisons} | {' | '.join(f'{share:.0%}' for share in shares)} | {least:.1f} |")


if __name__ == "__main__":
    main()
