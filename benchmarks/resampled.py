"""`python -m benchmarks.resampled STORE EXPERIMENT`: coverage of 95% intervals on the distributions of real answers.

The answers of two methods in a store are a population of items. Experiments are drawn from it: items with replacement;
for each new seed and item one of the residuals that the item had over the old seeds, widened for the mean that was
taken out of them; and a normal effect of the seed, as large as it was measured. So tails, skewness and the correlation
of both methods' answers are the real ones, and the true difference is known. Prints the table of docs/statistics.md.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from qtuning.errors import UserError
from qtuning.experiment.metrics import METRICS
from qtuning.statistics.answers import AnswerSet, answer_sets
from qtuning.statistics.estimate import Array, estimate_differences, mean_squares
from qtuning.statistics.summary import summarise
from qtuning.store.lines import random_at_budget
from qtuning.store.store import Store

COPIES = 3
"""Lines that are drawn of each method; they lend each other their seed variance."""


def populations(known: AnswerSet) -> list[Array]:
    """[2, S, C] of each benchmark: random pruning and the first other method of a budget that is paired with it."""
    for line in known.lines:
        rival = random_at_budget(line, known.lines)
        if rival not in (None, line) and known.unpaired(line, rival, known.summary.overall) is None:
            return known.arrays([rival, line], known.summary.overall)
    raise UserError(f"{known.summary.experiment}: no method with random pruning at its budget")


def draw(population: Array, seeds: int, items: int, rng: np.random.Generator) -> Array:
    """[2 COPIES, seeds, items] scores: the copies of random pruning, then those of the method."""
    _, old, count = population.shape
    of_seeds, _, rest = mean_squares(population[1:] - population[0])
    own = np.sqrt(max(float(of_seeds[0] - rest[0]), 0.0) / count / 2)
    of_item = population.mean(axis=1)
    residuals = (population - of_item[:, None]) * np.sqrt(old / (old - 1))
    residuals -= residuals.mean(axis=2, keepdims=True)
    chosen = rng.integers(count, size=items)
    lines = []
    for method, _ in product(range(2), range(COPIES)):
        answers = residuals[method, rng.integers(old, size=(seeds, items)), chosen]
        lines.append(of_item[method, chosen] + answers + rng.normal(0, own, (seeds, 1)))
    return np.stack(lines)


def coverage(benchmarks: Sequence[Array], seeds: int, items: int, repeats: int) -> tuple[float, float]:
    """How often an interval holds the true difference: of the average, and of the worst of the benchmarks.

    items: of all benchmarks together.
    """
    rng, held = np.random.default_rng(0), np.zeros(len(benchmarks) + 1)
    true = [float(part[1].mean() - part[0].mean()) for part in benchmarks]
    for _ in range(repeats):
        drawn = [draw(part, seeds, items // len(benchmarks), rng) for part in benchmarks]
        for place, (parts, truth) in enumerate(
            [(drawn, float(np.mean(true))), *(([part], one) for part, one in zip(drawn, true, strict=True))]
        ):
            estimate = estimate_differences(parts, 0)
            held[place] += np.mean(np.abs(estimate.mean - truth)[COPIES:] <= estimate.half_width()[COPIES:])
    shares = held / repeats
    return float(shares[0]), float(shares[1:].min())


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("experiment")
    parser.add_argument("--repeats", type=int, default=500)
    arguments = parser.parse_args()
    store = Store(arguments.store)
    settings = list(product((3, 5), (600, 1800)))
    print(f"| metric | {' | '.join(f'{seeds} seeds, {items:,} items' for seeds, items in settings)} |")
    print(f"|:---|{'---:|' * len(settings)}")
    for name, metric in METRICS.items():
        try:
            known = next(answer_sets(summarise(store.experiment(arguments.experiment), name), store.items))
        except UserError:  # not measured
            continue
        parts = populations(known)
        shares = (coverage(parts, seeds, items, arguments.repeats) for seeds, items in settings)
        print(f"| {metric.label} | {' | '.join(f'{a:.3f}, {b:.3f}' for a, b in shares)} |", flush=True)


if __name__ == "__main__":
    main()
