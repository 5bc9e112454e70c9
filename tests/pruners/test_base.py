"""Budgets, rankings, draws and shares."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.pruners.base import (
    DROPPED,
    PRUNABLE,
    WHOLE,
    Budget,
    Candidates,
    SampleSelection,
    Within,
    draw,
    keep_first,
    keep_highest,
    keep_prunable,
    ranking,
    sample_budget,
    shares,
)
from qtuning.train.seeding import generator


@pytest.mark.parametrize(
    ("ratio", "count", "expected"),
    [
        (0.25, 8, 2),
        (0.125, 8, 1),
        (0.0078125, 8, 1),
        (0.25, 1, 1),
        (1.0, 7, 7),
        (0.5, 7, 4),
        (0.7, 10, 7),
        (0.29, 100, 29),
    ],
)
def test_sample_budget(ratio: float, count: int, expected: int) -> None:
    assert sample_budget(ratio, count) == expected


@pytest.mark.parametrize(
    ("samples", "tokens", "total", "expected"),
    [(0.25, 0.5, 800, 100), (0.125, 0.7, 1000, 88), (1.0, 1.0, 13, 13), (0.01, 0.01, 50, 1), (1.0, 0.7, 10, 7)],
)
def test_token_budget(samples: float, tokens: float, total: int, expected: int) -> None:
    assert Budget.of(samples, tokens, 1, total).tokens == expected


@given(st.floats(1e-9, 1.0), st.floats(1e-9, 1.0), st.integers(1, 10**6))
def test_budgets_are_within_one_half_and_never_empty(samples: float, tokens: float, count: int) -> None:
    for budget, exact in (
        (sample_budget(samples, count), samples * count),
        (Budget.of(samples, tokens, 1, count).tokens, samples * tokens * count),
    ):
        assert 1 <= budget <= count
        assert abs(budget - exact) <= 0.5 + 1e-6 or budget == 1 > exact


def test_budget_of_a_batch() -> None:
    assert Budget.of(0.25, 0.7, 8, 801) == Budget(0.25, 0.7, samples=2, tokens=140)
    assert Budget.of(0.001, 0.001, 3, 5) == Budget(0.001, 0.001, samples=1, tokens=1)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.5, -2.0, 1e300]), st.integers(0, 2), st.integers(0, 3)),
        min_size=1,
        max_size=12,
    )
)
def test_ranking_is_highest_first_then_the_ties_in_turn(rows: list[tuple[float, int, int]]) -> None:
    values, first, second = (torch.tensor(column) for column in zip(*rows, strict=True))
    expected = sorted(range(len(rows)), key=lambda i: (-rows[i][0], rows[i][1], rows[i][2], i))
    assert ranking(values.double(), first, second).tolist() == expected


def test_owner_of_each_token() -> None:
    candidates = Candidates(torch.tensor([7, 3, 9]), torch.tensor([2, 1, 3]))
    assert len(candidates) == 3
    assert candidates.owner.tolist() == [0, 0, 1, 2, 2, 2]


def test_roles() -> None:
    selection = keep_prunable(torch.tensor([True, False, True]))
    assert selection.role.tolist() == [PRUNABLE, DROPPED, PRUNABLE]
    assert selection.kept.tolist() == [True, False, True]
    assert not selection.supplement.any() and not selection.quadrant.any()
    role = torch.tensor([WHOLE, PRUNABLE, DROPPED], dtype=torch.int8)
    assert SampleSelection(role, role, role > 0).kept.tolist() == [True, True, False]


def test_keep_first() -> None:
    selection = keep_first(torch.tensor([2, 0, 3, 1]), 3)
    assert selection.role.tolist() == [PRUNABLE, DROPPED, PRUNABLE, PRUNABLE]
    assert selection.weights is None and not selection.supplement.any()


@given(st.permutations(range(7)), st.integers(0, 99))
def test_a_draw_depends_on_the_numbers_and_not_on_their_order(order: list[int], seed: int) -> None:
    numbers = torch.tensor([3, 30, 4, 40, 5, 50, 6])
    moved = numbers[torch.tensor(order)]
    assert moved[draw(moved, generator(seed))].tolist() == numbers[draw(numbers, generator(seed))].tolist()


def test_a_draw_is_uniform() -> None:
    drawn = Counter(tuple(draw(torch.tensor([9, 2, 5]), generator(seed)).tolist()) for seed in range(1200))
    assert len(drawn) == 6 and all(abs(count - 200) < 65 for count in drawn.values()), "5 standard deviations"


def test_draws_of_tokens_of_one_sample_follow_their_own_order() -> None:
    """Tokens carry the number of their sample: moving a sample moves its tokens with it."""
    first, second = torch.tensor([7, 7, 7, 2, 2]), torch.tensor([2, 2, 7, 7, 7])
    where = torch.tensor([3, 4, 0, 1, 2])  # of each token of `second` in `first`
    assert draw(first, generator(4)).tolist() == where[draw(second, generator(4))].tolist()


def largest_remainder(sizes: list[int], total: int, numbers: list[int]) -> list[int]:
    """Exact quotas in whole numbers: quota_i = sizes_i total / sum."""
    everything = sum(sizes)
    result = [size * total // everything for size in sizes]
    remainders = [size * total % everything for size in sizes]
    for index in sorted(range(len(sizes)), key=lambda i: (-remainders[i], numbers[i]))[: total - sum(result)]:
        result[index] += 1
    return result


SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=10).filter(any)


@settings(max_examples=400, deadline=None)
@given(SIZES, st.integers(0, 130), st.data())
def test_shares(sizes: list[int], total: int, data: st.DataObject) -> None:
    numbers = data.draw(st.permutations([3 * index for index in range(len(sizes))]))
    result = shares(torch.tensor(sizes), total, torch.tensor(numbers)).tolist()
    total = min(total, sum(sizes))
    assert sum(result) == total
    assert all(0 <= share <= size for share, size in zip(result, sizes, strict=True))
    plain = largest_remainder(sizes, total, numbers)
    filled = sum(size > 0 for size in sizes)
    if total >= filled:
        assert all(share >= 1 for share, size in zip(result, sizes, strict=True) if size)
    if all(share >= 1 for share, size in zip(plain, sizes, strict=True) if size):
        assert result == plain
    if total <= filled:
        longest = sorted(range(len(sizes)), key=lambda i: (-sizes[i], numbers[i]))[:total]
        assert result == [int(index in longest) for index in range(len(sizes))], "one each; ties go to the lower number"
    # a longer sample never gets less
    ordered = [share for _, share in sorted(zip(sizes, result, strict=True))]
    assert ordered == sorted(ordered)


def test_shares_by_hand() -> None:
    """Quotas 0.4, 0.4, 7.2: the short ones get one all the same, at the cost of the long one."""
    assert shares(torch.tensor([1, 1, 18]), 8, torch.arange(3)).tolist() == [1, 1, 6]
    assert shares(torch.tensor([3, 3, 3]), 4, torch.tensor([8, 9, 7])).tolist() == [1, 1, 2]
    assert shares(torch.tensor([5, 0, 9, 5]), 2, torch.tensor([4, 0, 3, 2])).tolist() == [0, 0, 1, 1]
    assert shares(torch.tensor([2, 2]), 9, torch.arange(2)).tolist() == [2, 2]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.sampled_from([0.0, 1.0, 1.5, -2.0, 1e300]), min_size=1, max_size=6)),
        min_size=1,
        max_size=7,
    ),
    st.integers(1, 45),
    st.sampled_from(["batch", "sample"]),
    st.data(),
)
def test_keep_highest(rows: list[tuple[bool, list[float]]], tokens: int, within: Within, data: st.DataObject) -> None:
    numbers = data.draw(st.permutations([3 * index for index in range(len(rows))]))
    lengths = [len(values) for _, values in rows]
    candidates = Candidates(torch.tensor(numbers), torch.tensor(lengths))
    selection = keep_prunable(torch.tensor([kept for kept, _ in rows]))
    values = torch.tensor([value for _, row in rows for value in row], dtype=torch.float64)
    mask = keep_highest(values, candidates, selection, tokens, within).split(lengths)

    available = [
        (-value, number, place)
        for number, (kept, row) in zip(numbers, rows, strict=True)
        for place, value in enumerate(row)
        if kept
    ]
    if within == "batch":
        expected = {key[1:] for key in sorted(available)[:tokens]}
    else:
        sizes = torch.tensor([len(row) if kept else 0 for kept, row in rows])
        allowance = dict(zip(numbers, shares(sizes, tokens, torch.tensor(numbers)).tolist(), strict=True))
        expected = {
            key[1:]
            for number in numbers
            for key in sorted(key for key in available if key[1] == number)[: allowance[number]]
        }
    found = {
        (number, place)
        for number, part in zip(numbers, mask, strict=True)
        for place in part.nonzero().flatten().tolist()
    }
    assert found == expected
    assert len(found) == min(tokens, len(available)), "exactly the budget, or all there is"
