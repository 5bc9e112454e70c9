"""The repository history's baselines, against plain Python."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import RATIOS, budget_of, first, populations, populations_selected

from qtuning.pruners.base import Budget, Candidates, SampleSelection
from qtuning.pruners.history import (
    infobatch_subsampled,
    lowest_character_entropy,
    shortest_instructions,
    sparsevlm_by_rank,
)
from qtuning.train.seeding import generator


def characters(candidates: Candidates) -> list[float]:
    assert candidates.instructions is not None
    return candidates.instructions.characters.tolist()


def entropies(candidates: Candidates) -> list[float]:
    assert candidates.instructions is not None
    return candidates.instructions.entropy.tolist()


@pytest.mark.parametrize(
    ("pruner", "value"),
    [(shortest_instructions, characters), (lowest_character_entropy, entropies)],
    ids=["longest-history", "entropy-history"],
)
@settings(max_examples=800, deadline=None)
@given(candidates=populations(), ratio=RATIOS)
def test_the_lowest_instructions_are_kept(
    pruner: Callable[..., SampleSelection],
    value: Callable[[Candidates], list[float]],
    candidates: Candidates,
    ratio: float,
) -> None:
    selection = pruner(candidates, budget_of(candidates, ratio), generator(0))
    count = max(1, round(ratio * len(candidates)))
    assert selection.kept.tolist() == first(candidates, value(candidates), count)
    assert int(selection.kept.sum()) == count and selection.weights is None


@settings(max_examples=600, deadline=None)
@given(candidates=populations(), ratio=RATIOS, seed=st.integers(0, 9))
def test_infobatch_history(candidates: Candidates, ratio: float, seed: int) -> None:
    assert candidates.losses is not None
    losses = candidates.losses.tolist()
    known = [loss for loss in losses if not math.isnan(loss)]
    below = torch.tensor([loss * len(known) < math.fsum(known) for loss in losses])
    selection = infobatch_subsampled(candidates, budget_of(candidates, ratio), generator(seed))
    assert int(selection.kept.sum()) == max(1, round(ratio * len(candidates)))
    assert int(selection.kept[below].sum()) <= round(ratio * int(below.sum()))
    assert selection.weights is not None
    expected = [
        (1 / ratio if low else 1.0) if kept else 0.0
        for kept, low in zip(selection.kept.tolist(), below.tolist(), strict=True)
    ]
    assert selection.weights.tolist() == expected


def test_infobatch_history_cuts_its_list_at_random() -> None:
    """8 below the mean and 8 others at 50%: 4 of the first are listed, and 8 of these 12 stay, whichever they are."""
    losses = torch.tensor([1.0] * 8 + [3.0] * 8, dtype=torch.float64)
    candidates = Candidates(torch.arange(16), torch.ones(16).long(), losses=losses)
    trials = 1500
    drawn = torch.zeros(16)
    for seed in range(trials):
        drawn += infobatch_subsampled(candidates, budget_of(candidates, 0.5), generator(seed)).kept
    for counts, share in ((drawn[:8], 1 / 3), (drawn[8:], 2 / 3)):
        assert bool(((counts - trials * share).abs() <= 5 * (trials * share * (1 - share)) ** 0.5).all())


def test_infobatch_history_before_any_loss_is_a_plain_random_draw() -> None:
    losses = torch.full((12,), math.nan, dtype=torch.float64)
    candidates = Candidates(torch.arange(12), torch.ones(12).long(), losses=losses)
    selections = [infobatch_subsampled(candidates, budget_of(candidates, 0.25), generator(seed)) for seed in range(800)]
    drawn = torch.stack([selection.kept for selection in selections]).sum(dim=0)
    assert bool(((drawn - 200).abs() <= 5 * (800 * 0.25 * 0.75) ** 0.5).all())
    for selection in selections:
        assert selection.weights is not None and set(selection.weights[selection.kept].tolist()) == {1.0}


@settings(max_examples=600, deadline=None)
@given(chosen=populations_selected(), ratio=RATIOS)
def test_sparsevlm_history_keeps_the_least_attended(chosen: tuple[Candidates, SampleSelection], ratio: float) -> None:
    candidates, selection = chosen
    assert candidates.attention is not None and candidates.attention.rank is not None
    mask = sparsevlm_by_rank(candidates, selection, Budget.of(1.0, ratio, 1, len(candidates.owner)), generator(0))
    received, ranks, at = candidates.attention.received.tolist(), candidates.attention.rank.tolist(), 0
    for length, kept, rank in zip(candidates.lengths.tolist(), selection.kept.tolist(), ranks, strict=True):
        best = sorted(range(length), key=lambda t: (received[at + t], t))[: max(1, rank)]
        assert mask[at : at + length].nonzero().flatten().tolist() == (sorted(best) if kept else [])
        at += length
