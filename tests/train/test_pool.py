"""Kept samples shared out among the updates of a pool, and how many updates these are."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qtuning.experiment.schema import Training
from qtuning.train.pool import Pool, balanced
from qtuning.train.pooling import Pooling
from qtuning.train.schedule import windows_of_epoch

SIZES = st.lists(st.integers(1, 1000), min_size=0, max_size=40)


@given(SIZES, st.integers(1, 9))
def test_groups_are_about_equal(sizes: list[int], count: int) -> None:
    groups = balanced(range(len(sizes)), sizes, count)
    assert len(groups) == count
    assert sorted(itertools.chain.from_iterable(groups)) == list(range(len(sizes)))
    totals = [sum(sizes[row] for row in group) for group in groups]
    # nobody gains by handing its smallest sample to the lightest group
    assert all(
        total - min(sizes[row] for row in group) <= min(totals)
        for total, group in zip(totals, groups, strict=True)
        if group
    )
    firsts = [group[0] for group in groups if group]
    assert firsts == sorted(firsts) and all(group == sorted(group) for group in groups)
    assert not any(groups[len(firsts) :])


def test_by_hand() -> None:
    assert balanced([0, 1, 3, 4, 6], [7, 2, 99, 5, 4, 99, 3], 2) == [[0, 6], [1, 3, 4]]
    assert balanced([2], [9, 9, 1], 3) == [[2], [], []]
    assert balanced([], [], 2) == [[], []]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 100))
def test_so_many_updates_as_the_kept_samples_fill(plain: int, batches: int, per_cent: int) -> None:
    spans = Pooling(batches, per_cent / 100).updates(plain)
    sizes = [batches] * (plain // batches) + ([plain % batches] if plain % batches else [])
    assert spans == [math.ceil(Fraction(size * per_cent, 100)) for size in sizes]


@pytest.mark.parametrize("pooling", [Pooling(), Pooling(3, 0.5), Pooling(100, 0.1)])
def test_every_batch_is_in_one_pool_in_order(pooling: Pooling) -> None:
    training = Training(batch_size=2, accumulation=2)
    plain = list(windows_of_epoch(1, torch.arange(19), 19, training, 5, 10))
    windows = list(windows_of_epoch(1, torch.arange(19), 19, training, 5, 10, pooling))
    pools = [window.batches for window in windows if window.offset == 0]
    assert [b for pool in pools for b in pool] == [b for window in plain for b in window.batches]
    assert [window.update for window in windows] == list(range(10, 10 + len(windows)))
    assert [window.index for window in windows] == list(range(len(windows)))
    assert {window.count for window in windows} == {len(windows)} == {sum(pooling.updates(5))}
    for first in (window for window in windows if window.offset == 0):
        same = [window for window in windows if window.first == first.update]
        assert [window.offset for window in same] == list(range(first.span))
        assert [window.last for window in same] == [False] * (first.span - 1) + [True]
        assert {window.batches for window in same} == {first.batches}


def test_a_pool_comes_back_from_its_tensors() -> None:
    def pool(weights: Tensor | None) -> Pool:
        small = torch.tensor([0, 2, 4], dtype=torch.int8)
        scores = torch.rand(3, dtype=torch.float64)
        sizes = torch.tensor([0, 5, 7])
        return Pool(small, small, small > 2, torch.rand(9) > 0.5, sizes, scores, scores + 1, weights)

    for weights in (None, torch.ones(3, dtype=torch.float64)):
        original = pool(weights)
        restored = Pool.restored(original.tensors() | {"pruner.losses": torch.zeros(1)})
        assert restored is not None and restored.tensors().keys() == original.tensors().keys()
        assert all(torch.equal(tensor, restored.tensors()[name]) for name, tensor in original.tensors().items())
        assert (restored.weights is None) == (weights is None)
    assert Pool.restored({"pruner.losses": torch.zeros(1)}) is None
