"""Sample pruners without quadrants or weights, against sorting in plain Python."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from populations import RATIOS, budget_of, candidates_of, first, populations, token_means

from qtuning.pruners.base import PRUNABLE, Candidates, SampleSelection
from qtuning.pruners.sample import (
    highest_entropy,
    highest_ppl,
    keep_all,
    longest_responses,
    lowest_ppl,
    middle_ppl,
    random_samples,
    without_longest,
)
from qtuning.scoring.scores import BatchScores
from qtuning.train.seeding import generator


def scored(nll: list[float]) -> Candidates:
    """One-token samples."""
    lengths = torch.ones(len(nll), dtype=torch.int64)
    loss = torch.tensor(nll, dtype=torch.float64)
    return Candidates(torch.arange(len(nll)), lengths, BatchScores(loss, loss, lengths))


def lengths(candidates: Candidates) -> list[float]:
    return candidates.lengths.tolist()


def sequences(candidates: Candidates) -> list[float]:
    """Prompt and response tokens."""
    assert candidates.prompts is not None
    pairs = zip(candidates.prompts.tolist(), candidates.lengths.tolist(), strict=True)
    return [prompt + response for prompt, response in pairs]


def entropies(candidates: Candidates) -> list[float]:
    assert candidates.scores is not None
    return token_means(candidates.scores.entropy, candidates.lengths)


def errors(candidates: Candidates) -> list[float]:
    """Mean losses; a perplexity beyond exp(700) is exp(700)."""
    assert candidates.scores is not None
    return [min(700.0, mean) for mean in token_means(candidates.scores.nll, candidates.lengths)]


RANKED: list[tuple[Callable[..., SampleSelection], int, Callable[[Candidates], list[float]]]] = [
    (without_longest, 1, sequences),
    (longest_responses, -1, lengths),
    (highest_entropy, -1, entropies),
    (highest_ppl, -1, errors),
    (lowest_ppl, 1, errors),
]


@pytest.mark.parametrize(("pruner", "sign", "value"), RANKED, ids=lambda part: getattr(part, "__name__", ""))
@settings(max_examples=800, deadline=None)
@given(candidates=populations(), ratio=RATIOS)
def test_the_ranked_pruners_keep_the_extremes(
    pruner: Callable[..., SampleSelection],
    sign: int,
    value: Callable[[Candidates], list[float]],
    candidates: Candidates,
    ratio: float,
) -> None:
    selection = pruner(candidates, budget_of(candidates, ratio), generator(0))
    count = max(1, round(ratio * len(candidates)))
    assert selection.kept.tolist() == first(candidates, [sign * key for key in value(candidates)], count)
    assert sum(selection.kept.tolist()) == count and set(selection.role[selection.kept].tolist()) == {PRUNABLE}
    assert selection.weights is None and not selection.supplement.any()


@settings(max_examples=1000, deadline=None)
@given(candidates=populations(), ratio=RATIOS)
def test_middle_ppl_keeps_the_ranks_closest_to_the_median(candidates: Candidates, ratio: float) -> None:
    kept = middle_ppl(candidates, budget_of(candidates, ratio), generator(0)).kept.tolist()
    size, count = len(candidates), max(1, round(ratio * len(candidates)))
    numbers = candidates.numbers.tolist()
    ranked = [number for _, number in sorted(zip(errors(candidates), numbers, strict=True))]
    by_distance = sorted(range(size), key=lambda rank: (abs(2 * rank - (size - 1)), rank))
    expected = {ranked[rank] for rank in by_distance[:count]}
    assert {number for number, keep in zip(numbers, kept, strict=True) if keep} == expected


def test_middle_ppl_by_hand() -> None:
    candidates = scored([9.0, 1.0, 2.0, 5.0, 3.0])
    kept = [middle_ppl(candidates, budget_of(candidates, k / 5), generator(0)).kept.nonzero() for k in range(1, 6)]
    expected = [[4], [2, 4], [2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert [indices.flatten().tolist() for indices in kept] == expected


def test_full_keeps_everything() -> None:
    candidates = candidates_of([1] * 9)
    assert keep_all(candidates, budget_of(candidates, 0.25), generator(0)).role.tolist() == [PRUNABLE] * 9


@pytest.mark.parametrize("count", [1, 2, 7, 8, 100])
@pytest.mark.parametrize("ratio", [0.0078125, 0.125, 0.25, 0.5, 1.0])
def test_random_keeps_the_budget_exactly(count: int, ratio: float) -> None:
    candidates = candidates_of([1] * count)
    selection = random_samples(candidates, budget_of(candidates, ratio), generator(1))
    assert int(selection.kept.sum()) == max(1, round(ratio * count))
    assert set(selection.role[selection.kept].tolist()) == {PRUNABLE}
    assert not selection.supplement.any()


def test_random_is_settled_by_its_generator_alone() -> None:
    candidates = candidates_of([1] * 64)
    half = budget_of(candidates, 0.5)
    first_, again, other, next_epoch = (
        random_samples(candidates, half, generator(seed, "epoch", epoch)).kept
        for seed, epoch in ((3, 0), (3, 0), (4, 0), (3, 1))
    )
    assert torch.equal(first_, again)
    assert not torch.equal(first_, other) and not torch.equal(first_, next_epoch)


def test_random_prefers_no_sample_and_no_pair() -> None:
    """Over 2000 draws of 3 from 12 each sample comes 500 times, each pair 91 times, give or take 5 deviations."""
    candidates = candidates_of([1] * 12)
    quarter = budget_of(candidates, 0.25)
    singles: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for trial in range(2000):
        a, b, c = random_samples(candidates, quarter, generator(0, "draw", trial)).kept.nonzero().flatten().tolist()
        singles.update((a, b, c))
        pairs.update(((a, b), (a, c), (b, c)))
    for counts, number, share in ((singles, 12, 3 / 12), (pairs, 66, 3 / 66)):
        assert len(counts) == number
        assert all(abs(n - 2000 * share) <= 5 * (2000 * share * (1 - share)) ** 0.5 for n in counts.values())
