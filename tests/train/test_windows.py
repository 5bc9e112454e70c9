"""How an epoch is cut into updates, how a pool is shared out among them, and their learning rates."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import described_rate

from qtuning.experiment.cell import Training
from qtuning.train.windows import Pooling, balance, cut_epoch, learning_rate

SIZES = st.lists(st.integers(1, 1000), min_size=0, max_size=40)


@given(SIZES, st.integers(1, 9))
def test_groups_are_about_equal(sizes: list[int], count: int) -> None:
    groups = balance(range(len(sizes)), sizes, count)
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
    assert balance([0, 1, 3, 4, 6], [7, 2, 99, 5, 4, 99, 3], 2) == [[0, 6], [1, 3, 4]]
    assert balance([2], [9, 9, 1], 3) == [[2], [], []]
    assert balance([], [], 2) == [[], []]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 100))
def test_so_many_updates_as_the_kept_samples_fill(plain: int, batches: int, per_cent: int) -> None:
    spans = Pooling(batches, per_cent / 100).updates(plain)
    sizes = [batches] * (plain // batches) + ([plain % batches] if plain % batches else [])
    assert spans == [math.ceil(Fraction(size * per_cent, 100)) for size in sizes]


@pytest.mark.parametrize("pooling", [Pooling(), Pooling(3, 0.5), Pooling(100, 0.1)])
def test_every_batch_is_in_one_pool_in_order(pooling: Pooling) -> None:
    training = Training(batch_size=2, update_samples=4)
    plain = list(cut_epoch(range(19), 1, training, 10, Pooling()))
    windows = list(cut_epoch(range(19), 1, training, 10, pooling))
    assert [position for window in plain for batch in window.batches for position in batch] == list(range(19))
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


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "updates"), [(0.0, 7), (0.1, 40), (0.5, 5), (0.9, 1), (0.99, 10)])
def test_learning_rate(schedule: str, warmup: float, updates: int) -> None:
    training = Training.model_validate({"schedule": schedule, "warmup": warmup, "learning_rate": 3e-4})
    rates = [learning_rate(update, updates, training) for update in range(updates)]
    warm = round(warmup * updates)
    assert all(0 < rate <= 3e-4 * (1 + 1e-12) for rate in rates)
    assert rates[:warm] == sorted(rates[:warm]) and rates[warm:] == sorted(rates[warm:], reverse=True)
    if 0 < warm < updates:
        assert rates[warm - 1] == pytest.approx(3e-4) and rates[warm] == pytest.approx(3e-4)
        assert rates == pytest.approx([described_rate(update, updates, training) for update in range(updates)])
    if schedule != "constant" and warm < updates:
        assert learning_rate(updates, updates, training) == pytest.approx(0.0, abs=1e-12)
