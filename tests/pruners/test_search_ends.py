"""What hangs on the end of the threshold search (A17), and on `lean` (A5): the simulated numbers of docs/method.md."""

import math
from typing import Any

import pytest
import torch

from qtuning.pruners.base import Budget, Candidates, SampleSelection
from qtuning.pruners.q_tuning import triage
from qtuning.scoring.scores import BatchScores
from qtuning.train.seeding import generator

# (batch, r_sample) -> share of what is kept that the thresholds give: fixed, tolerance; share of other samples kept.
# Over 1500 batches each; the test draws 300
TABLE = {
    (8, 0.125): (0.05, 0.22, 0.09),
    (8, 0.25): (0.11, 0.64, 0.30),
    (8, 0.5): (0.33, 0.41, 0.03),
    (32, 0.25): (0.66, 0.74, 0.06),
}


def simulated(count: int, correlation: float = 0.83, batches: int = 300) -> list[Candidates]:
    """Batches of normal log PPL and Ent."""
    rng, lengths = torch.Generator().manual_seed(0), torch.ones(count, dtype=torch.int64)
    found = []
    for _ in range(batches):
        one, other = torch.randn(2, count, generator=rng, dtype=torch.float64)
        doubt = correlation * one + math.sqrt(1 - correlation**2) * other
        scores = BatchScores(1.5 + 0.4 * one, 1.5 + 0.4 * doubt, lengths)
        found.append(Candidates(torch.arange(count), lengths, scores))
    return found


def chosen(batches: list[Candidates], ratio: float, **readings: Any) -> list[SampleSelection]:
    budget = Budget.of(ratio, 1.0, len(batches[0]), batches[0].tokens)
    return [triage(candidates, budget, generator(0), **readings) for candidates in batches]


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_shares_of_the_thresholds(case: tuple[int, float]) -> None:
    count, ratio = case
    batches = simulated(count)
    fixed, tolerance = (chosen(batches, ratio, search=search) for search in ("fixed", "tolerance"))
    kept = sum(int(selection.kept.sum()) for selection in fixed)
    shares = [sum(selection.log["from_thresholds"] for selection in way) / kept for way in (fixed, tolerance)]
    swapped = sum(int((a.kept != b.kept).sum()) for a, b in zip(fixed, tolerance, strict=True)) / 2 / kept
    assert [*shares, swapped] == pytest.approx(TABLE[case], abs=0.06)


def test_lean_keeps_nearly_everything() -> None:
    """All but some two samples of a batch, whatever the budget asks for."""
    for count in (8, 32):
        for ratio in (0.125, 0.25):
            selections = chosen(simulated(count, batches=100), ratio, thresholds="lean", supplement="none")
            kept = sum(int(selection.kept.sum()) for selection in selections) / len(selections)
            assert kept == pytest.approx(count - 2, abs=0.3)
