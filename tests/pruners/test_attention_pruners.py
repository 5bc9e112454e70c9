"""FastV and SparseVLM, against sorting and dealing out in plain Python."""

from fractions import Fraction

import torch
from hypothesis import given, settings
from populations import RATIOS, budget_of, exactly, populations_selected
from torch import Tensor

from qtuning.pruners.attention import fastv, sparsevlm
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


@settings(max_examples=150, deadline=None)
@given(populations_selected(), RATIOS)
def test_fastv_spends_its_budget_on_the_highest(chosen: tuple[Candidates, SampleSelection], ratio: float) -> None:
    candidates, selection = chosen
    assert candidates.attention is not None
    available = int(candidates.lengths[selection.kept].sum())
    budget = budget_of(candidates, tokens=ratio)
    mask = fastv(candidates, selection, budget, RNG, layer=2, within="sample")
    assert int(mask.sum()) == min(budget.tokens, available)
    kept = positions(mask, candidates.lengths)
    for part, values, selected in zip(
        kept, candidates.attention.received.split(candidates.lengths.tolist()), selection.kept.tolist(), strict=True
    ):
        assert selected or not part
        assert part == highest(values.tolist(), len(part))


def test_sparsevlm_gives_more_to_the_sample_of_higher_rank() -> None:
    values = [0.1, 0.4, 0.2, 0.3] * 2
    candidates = attended([4, 4], values, [3, 1])
    mask = sparsevlm(candidates, all_of(candidates), exactly(4), RNG, layer=2)
    assert positions(mask, candidates.lengths) == [{1, 2, 3}, {1}]


def test_sparsevlm_hands_on_what_a_short_sample_cannot_hold() -> None:
    """Ranks 8 : 1 : 3 of 10 tokens would be 6.7, 0.8 and 2.5; the first has two, and 8 go 1 : 3 to the others."""
    candidates = attended([2, 20, 20], [float(t) for t in range(42)], [8, 1, 3])
    mask = sparsevlm(candidates, all_of(candidates), exactly(10), RNG, layer=2)
    assert [len(part) for part in positions(mask, candidates.lengths)] == [2, 2, 6]
    without_first = keep_prunable(torch.tensor([False, True, True]))
    mask = sparsevlm(candidates, without_first, exactly(8), RNG, layer=2)
    assert [len(part) for part in positions(mask, candidates.lengths)] == [0, 2, 6]


def test_sparsevlm_breaks_ties_by_number_and_position() -> None:
    candidates = attended([3, 3], [0.5] * 6, [1, 1], numbers=[9, 4])
    mask = sparsevlm(candidates, all_of(candidates), exactly(3), RNG, layer=2)
    assert positions(mask, candidates.lengths) == [{0}, {0, 1}]


@settings(max_examples=300, deadline=None)
@given(populations_selected(), RATIOS)
def test_sparsevlm_divides_its_budget_by_rank(chosen: tuple[Candidates, SampleSelection], ratio: float) -> None:
    """Exact in all, inside each sample, one for everyone first, and no token could move to a more deserving sample."""
    candidates, selection = chosen
    assert candidates.attention is not None
    sizes = (candidates.lengths * selection.kept).tolist()
    budget = budget_of(candidates, tokens=ratio)
    mask = sparsevlm(candidates, selection, budget, RNG, layer=2)
    kept = positions(mask, candidates.lengths)
    held = [len(part) for part in kept]
    assert sum(held) == min(budget.tokens, sum(sizes))
    assert all(count <= size for count, size in zip(held, sizes, strict=True))
    for part, values in zip(kept, candidates.attention.rated.split(candidates.lengths.tolist()), strict=True):
        assert part == highest(values.tolist(), len(part))
    selected = [index for index, size in enumerate(sizes) if size]
    if sum(held) >= len(selected):
        assert all(held[index] for index in selected)
    ranks = [Fraction(max(1, rank)) for rank in candidates.attention.rank.tolist()]
    for giver in selected:
        for taker in selected:
            if held[giver] > 1 and held[taker] < sizes[taker]:
                # rounded shares: half a token past what it holds, no taker is worth more than the giver's last half
                assert ranks[giver] / (2 * held[giver] - 1) >= ranks[taker] / (2 * held[taker] + 1)


def test_sparsevlm_shares_large_budgets_in_proportion() -> None:
    ranks = [7, 150, 43, 300]
    candidates = attended([4000] * 4, [0.0] * 16000, ranks)
    mask = sparsevlm(candidates, all_of(candidates), exactly(3137), RNG, layer=2)
    held = [len(part) for part in positions(mask, candidates.lengths)]
    assert sum(held) == 3137
    assert all(abs(count - 3137 * rank / sum(ranks)) < 1 for count, rank in zip(held, ranks, strict=True))
