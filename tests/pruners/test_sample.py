"""Sample pruners without scores."""

import pytest
import torch

from qtuning.pruners.base import PRUNABLE, Candidates
from qtuning.pruners.sample import keep_all, random_samples
from qtuning.seeding import generator


def candidates_of(count: int) -> Candidates:
    return Candidates(torch.arange(count) * 5 + 2, torch.arange(count) % 4 + 1)


def test_full_keeps_everything() -> None:
    selection = keep_all(candidates_of(9), 0.25, generator(0), {})
    assert selection.role.tolist() == [PRUNABLE] * 9


@pytest.mark.parametrize("count", [1, 2, 7, 8, 100])
@pytest.mark.parametrize("ratio", [0.0078125, 0.125, 0.25, 0.5, 1.0])
def test_random_keeps_the_budget_exactly(count: int, ratio: float) -> None:
    selection = random_samples(candidates_of(count), ratio, generator(1), {})
    assert int(selection.kept.sum()) == max(1, round(ratio * count))
    assert set(selection.role[selection.kept].tolist()) == {PRUNABLE}
    assert not selection.supplement.any()


def test_random_is_settled_by_its_generator_alone() -> None:
    first, again, other = (
        random_samples(candidates_of(64), 0.5, generator(seed, "epoch", 0), {}).kept for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    next_epoch = random_samples(candidates_of(64), 0.5, generator(3, "epoch", 1), {}).kept
    assert not torch.equal(first, next_epoch)


def test_random_prefers_no_sample() -> None:
    """Over 2000 draws of 3 from 12 each sample comes 500 times, give or take 5 standard deviations."""
    drawn = sum(
        random_samples(candidates_of(12), 0.25, generator(0, "draw", trial), {}).kept.int() for trial in range(2000)
    )
    deviation = (2000 * 0.25 * 0.75) ** 0.5
    assert isinstance(drawn, torch.Tensor)
    assert bool(((drawn - 500).abs() <= 5 * deviation).all())
