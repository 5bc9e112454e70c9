"""FastV and SparseVLM, against sorting in plain Python."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import RATIOS, budget_of, exactly, populations_selected
from torch import Tensor

from qtuning.pruners.attention import fastv, sparsevlm, sparsevlm_by_rank
from qtuning.pruners.base import Candidates, SampleSelection, keep_prunable
from qtuning.scoring.scores import TokenAttention
from qtuning.train.seeding import generator

RNG = generator(0)


def attended(lengths: list[int], values: list[float], rank: list[int], numbers: list[int] | None = None) -> Candidates:
    """Candidates whose received and rated attention are both `values`."""
    return Candidates(
        torch.tensor(numbers or list(range(len(lengths)))),
        torch.tensor(lengths),
        attention=TokenAttention(torch.tensor(values), torch.tensor(values), torch.tensor(rank)),
    )


def all_of(candidates: Candidates) -> SampleSelection:
    return keep_prunable(torch.ones(len(candidates), dtype=torch.bool))


def highest(values: list[float], count: int) -> set[int]:
    return set(sorted(range(len(values)), key=lambda t: (-values[t], t))[:count])


def positions(mask: Tensor, lengths: Tensor) -> list[set[int]]:
    return [set(part.nonzero().flatten().tolist()) for part in mask.split(lengths.tolist())]


def test_fastv_keeps_what_receives_most_in_each_sample() -> None:
    candidates = attended([4, 2], [0.1, 0.4, 0.2, 0.3, 0.05, 0.06], [1, 1])
    mask = fastv(candidates, all_of(candidates), exactly(3), RNG, layer=2, within="sample")
    assert mask.tolist() == [False, True, False, True, False, True]
    mask = fastv(candidates, all_of(candidates), exactly(3), RNG, layer=2, within="batch")
    assert mask.tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize(("pruner", "value"), [(fastv, "received"), (sparsevlm, "rated")])
@settings(max_examples=150, deadline=None)
@given(chosen=populations_selected(), ratio=RATIOS)
def test_the_budget_is_spent_on_the_highest(
    pruner: Callable[..., Tensor], value: str, chosen: tuple[Candidates, SampleSelection], ratio: float
) -> None:
    candidates, selection = chosen
    assert candidates.attention is not None
    available = int(candidates.lengths[selection.kept].sum())
    budget = budget_of(candidates, tokens=ratio)
    mask = pruner(candidates, selection, budget, RNG, layer=2, within="sample")
    assert int(mask.sum()) == min(budget.tokens, available)
    kept = positions(mask, candidates.lengths)
    for part, values, selected in zip(
        kept,
        getattr(candidates.attention, value).split(candidates.lengths.tolist()),
        selection.kept.tolist(),
        strict=True,
    ):
        assert selected or not part
        assert part == highest(values.tolist(), len(part))


def test_sparsevlm_is_not_fastv() -> None:
    candidates = attended([4], [0.1, 0.4, 0.2, 0.3], [1])
    assert candidates.attention is not None
    rated = TokenAttention(candidates.attention.received, torch.tensor([0.4, 0.1, 0.2, 0.3]))
    candidates = replace(candidates, attention=rated)
    mask = sparsevlm(candidates, all_of(candidates), exactly(2), RNG, layer=2, within="sample")
    assert positions(mask, candidates.lengths) == [{0, 3}]


@settings(max_examples=150, deadline=None)
@given(populations_selected(), RATIOS, st.sampled_from([0.25, 0.5, 1.0]))
def test_the_rank_says_how_many_stay_in_the_original(
    chosen: tuple[Candidates, SampleSelection], ratio: float, scale: float
) -> None:
    """Of n tokens and rank r, scale * (n - r) go, whatever the budget; one stays in any case."""
    candidates, selection = chosen
    assert candidates.attention is not None and candidates.attention.rank is not None
    budget = budget_of(candidates, tokens=ratio)
    mask = sparsevlm_by_rank(candidates, selection, budget, RNG, layer=2, scale=scale)
    rated = candidates.attention.rated.split(candidates.lengths.tolist())
    rows = zip(
        positions(mask, candidates.lengths), rated, candidates.attention.rank.tolist(), selection.kept, strict=True
    )
    for part, values, rank, selected in rows:
        stay = max(1, len(values) - round(scale * max(0, len(values) - rank)))
        assert part == (highest(values.tolist(), stay) if selected else set())
