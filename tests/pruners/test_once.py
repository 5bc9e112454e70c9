"""Alpagasus, Deita and LESS against slow references written from the papers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import budget_of, candidates_of, populations

from qtuning.errors import UserError
from qtuning.pruners import once
from qtuning.pruners.base import Candidates, Ratings
from qtuning.train.seeding import generator

SEEDS = st.integers(0, 9)
SHARES = st.sampled_from([0.125, 0.25, 0.5, 1.0])


def rated(**columns: list[float]) -> Candidates:
    count = len(next(iter(columns.values())))
    known = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
    return Candidates(torch.arange(count) * 3, torch.ones(count).long(), ratings=Ratings(**known))


@settings(max_examples=200, deadline=None)
@given(candidates=populations(), share=SHARES, seed=SEEDS)
def test_alpagasus_keeps_the_highest_rated(candidates: Candidates, share: float, seed: int) -> None:
    budget = budget_of(candidates, share)
    selection = once.alpagasus(candidates, budget, generator(seed))
    assert candidates.ratings is not None
    ratings = candidates.ratings.column("rating").tolist()
    kept = [rating for rating, stays in zip(ratings, selection.kept.tolist(), strict=True) if stays]
    assert sorted(kept, reverse=True) == sorted(ratings, reverse=True)[: budget.samples]
    assert selection.log == {"lowest_rating": min(kept)}


def test_alpagasus_draws_among_equal_ratings() -> None:
    candidates = rated(rating=[4.5] * 6 + [5.0])
    counts = torch.zeros(7)
    for seed in range(600):
        counts += once.alpagasus(candidates, budget_of(candidates, 3 / 7), generator(seed)).kept
    assert counts[6] == 600
    assert all(abs(count - 200) < 4 * math.sqrt(600 * 2 / 9) for count in counts[:6].tolist())


def deita_by_hand(candidates: Candidates, threshold: float, count: int) -> tuple[set[int], int]:
    """One sample at a time, every cosine by its definition; returns the kept, and how many of them were skipped."""
    ratings, embeddings = candidates.ratings, candidates.embeddings
    assert ratings is not None and embeddings is not None and ratings.complexity is not None
    assert ratings.quality is not None

    def cosine(a: list[float], b: list[float]) -> float:
        lengths = math.hypot(*a) * math.hypot(*b)
        return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0

    value = [c * q for c, q in zip(ratings.complexity.tolist(), ratings.quality.tolist(), strict=True)]
    numbers, points = candidates.numbers.tolist(), embeddings.double().tolist()
    kept: list[int] = []
    skipped: list[int] = []
    for index in sorted(range(len(value)), key=lambda index: (-value[index], numbers[index])):
        if len(kept) == count:
            break
        near = any(cosine(points[index], points[other]) > threshold for other in kept)
        (skipped if near else kept).append(index)
    filled = skipped[: count - len(kept)] if len(kept) < count else []
    return {*kept, *filled}, len(filled)


@settings(max_examples=300, deadline=None)
# no cosine of vectors of -1, 0 and 1 in three dimensions is near these thresholds
@given(candidates=populations(), share=SHARES, threshold=st.sampled_from([-0.9, 0.2, 0.6, 0.9]))
def test_deita_skips_what_is_near_to_a_kept_sample(candidates: Candidates, share: float, threshold: float) -> None:
    budget = budget_of(candidates, share)
    selection = once.deita(candidates, budget, generator(0), threshold=threshold)
    kept, filled = deita_by_hand(candidates, threshold, budget.samples)
    assert set(selection.kept.nonzero().flatten().tolist()) == kept
    assert selection.log == {"filled": filled} and len(kept) == budget.samples


@pytest.mark.parametrize("block", [1, 2, 7, 256])
def test_blocks_do_not_change_what_is_apart(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = once.unit(torch.randn(60, 3, generator=torch.Generator().manual_seed(3)))
    whole = once.apart(points, 0.8, 60)
    monkeypatch.setattr(once, "BLOCK", block)
    assert 5 < len(whole) < 40 and torch.equal(once.apart(points, 0.8, 60), whole)
    assert torch.equal(once.apart(points, 0.8, 4), whole[:4])


@settings(max_examples=100, deadline=None)
@given(candidates=populations(), share=SHARES)
def test_less_keeps_the_largest_influence_on_any_group(candidates: Candidates, share: float) -> None:
    budget = budget_of(candidates, share)
    kept = once.less(candidates, budget, generator(0)).kept
    assert candidates.influence is not None
    best = [max(row) for row in candidates.influence.tolist()]
    order = sorted(range(len(best)), key=lambda index: (-best[index], int(candidates.numbers[index])))
    assert set(kept.nonzero().flatten().tolist()) == set(order[: budget.samples])


def test_a_missing_column_is_told_in_one_line() -> None:
    candidates = rated(rating=[1.0, 2.0])
    with pytest.raises(UserError, match=r"^train set: ratings: no column 'complexity'.*found rating; [^\n]*$"):
        once.deita(
            Candidates(
                **{**vars(candidates_of([1, 1])), "ratings": candidates.ratings, "embeddings": torch.ones(2, 2)}
            ),
            budget_of(candidates, 0.5),
            generator(0),
        )
