"""Token pruners without scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.pruners.base import Candidates, keep_prunable
from qtuning.pruners.token import keep_all, random_tokens
from qtuning.seeding import generator


def candidates_of(lengths: list[int]) -> Candidates:
    return Candidates(torch.arange(len(lengths)), torch.tensor(lengths))


def test_none_keeps_every_token_of_the_kept_samples() -> None:
    selection = keep_prunable(torch.tensor([True, False, True]))
    mask = keep_all(candidates_of([2, 3, 1]), selection, 1, generator(0), {})
    assert mask.tolist() == [True, True, False, False, False, True]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=10),
    st.integers(1, 100),
    st.integers(0, 9),
)
def test_random_keeps_the_budget_exactly(rows: list[tuple[int, bool]], budget: int, seed: int) -> None:
    lengths, kept = [length for length, _ in rows], torch.tensor([keep for _, keep in rows])
    candidates = candidates_of(lengths)
    mask = random_tokens(candidates, keep_prunable(kept), budget, generator(seed), {})
    available = sum(length for length, keep in rows if keep)
    assert int(mask.sum()) == min(budget, available)
    assert not mask[~kept[candidates.owner]].any()


def test_random_is_settled_by_its_generator_alone() -> None:
    everything = keep_prunable(torch.ones(4, dtype=torch.bool))
    first, again, other = (
        random_tokens(candidates_of([20] * 4), everything, 40, generator(seed, "batch", 7), {}) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("lengths", [[12], [1, 4, 7]])
def test_random_prefers_no_token(lengths: list[int]) -> None:
    everything = keep_prunable(torch.ones(len(lengths), dtype=torch.bool))
    drawn = sum(
        random_tokens(candidates_of(lengths), everything, 3, generator(1, "draw", trial), {}).int()
        for trial in range(800)
    )
    deviation = (800 * 0.25 * 0.75) ** 0.5
    assert isinstance(drawn, torch.Tensor)
    assert bool(((drawn - 200).abs() <= 5 * deviation).all())
