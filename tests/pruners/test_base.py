"""Budgets and rankings."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtuning.pruners.base import (
    DROPPED,
    PRUNABLE,
    WHOLE,
    Candidates,
    SampleSelection,
    keep_prunable,
    ranking,
    sample_budget,
    token_budget,
)


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
    assert token_budget(samples, tokens, total) == expected


@given(st.floats(1e-9, 1.0), st.floats(1e-9, 1.0), st.integers(1, 10**6))
def test_budgets_are_within_one_half_and_never_empty(samples: float, tokens: float, count: int) -> None:
    for budget, exact in (
        (sample_budget(samples, count), samples * count),
        (token_budget(samples, tokens, count), samples * tokens * count),
    ):
        assert 1 <= budget <= count
        assert abs(budget - exact) <= 0.5 + 1e-6 or budget == 1 > exact


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
