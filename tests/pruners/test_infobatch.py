"""InfoBatch under a budget: the highest losses; of the original, counts, shares, unbiased sums, annealing."""

import inspect
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import NATS, RATIOS

from qtuning.experiment.registry import SAMPLE_PRUNERS
from qtuning.pruners.base import PRUNABLE, Budget, Candidates, SampleSelection
from qtuning.pruners.infobatch import below_mean, infobatch, largest_losses
from qtuning.train.seeding import generator

LOSSES = st.sampled_from([*NATS, [0.1]]).flatmap(
    lambda nats: st.lists(st.sampled_from(nats) | st.just(math.nan), min_size=1, max_size=24)
)
MOST = st.sampled_from([0.0, 0.5, 0.75, 0.99]) | st.floats(0, 0.999)


def candidates_of(losses: list[float], epoch: int = 0, epochs: int = 3) -> Candidates:
    count = len(losses)
    known = torch.tensor(losses, dtype=torch.float64)
    return Candidates(torch.arange(count), torch.ones(count).long(), losses=known, epoch=epoch, epochs=epochs)


def prune(losses: list[float], samples: int, seed: int = 0, most: float = 0.75) -> SampleSelection:
    budget = Budget(samples / len(losses), 1.0, samples, 1)
    return infobatch(candidates_of(losses), budget, generator(seed), prune_at_most=most)


def below(losses: list[float]) -> list[bool]:
    """Exactly: a known loss under the exact mean of the known ones."""
    known = [Fraction(loss) for loss in losses if not math.isnan(loss)]
    return [not math.isnan(loss) and Fraction(loss) * len(known) < sum(known) for loss in losses]


def ideal(m: int, a: int, samples: int, most: float) -> Fraction:
    """p_low m, solved exactly from p_low m + p_high a = K."""
    if m == 0:
        return Fraction(0)
    floor = 1 - Fraction(most)
    if Fraction(samples - a, m) >= floor:
        return Fraction(samples - a)
    return floor * samples / (floor * m + a) * m


@settings(max_examples=1200, deadline=None)
@given(losses=LOSSES, ratio=RATIOS, most=MOST, seed=st.integers(0, 3))
def test_both_groups_keep_their_shares(losses: list[float], ratio: float, most: float, seed: int) -> None:
    samples = max(1, round(ratio * len(losses)))
    selection = prune(losses, samples, seed, most)
    low = torch.tensor(below(losses))
    m, a = int(low.sum()), int((~low).sum())
    kept_low, kept_high = int(selection.kept[low].sum()), int(selection.kept[~low].sum())

    assert kept_low + kept_high == samples
    assert set(selection.role[selection.kept].tolist()) == {PRUNABLE}
    assert selection.weights is not None and not selection.weights[~selection.kept].any()
    assert selection.log == {"below_mean_share": m / len(losses), "kept_below_mean": kept_low, "kept_others": kept_high}
    if samples == 1:
        assert selection.weights[selection.kept].tolist() == [len(losses)]
        return
    wanted = ideal(m, a, samples, most)
    possible = [n for n in range(min(1, m), m + 1) if min(1, a) <= samples - n <= a]
    assert kept_low in possible
    nearest = min(abs(Fraction(n) - wanted) for n in possible)
    assert abs(Fraction(kept_low) - wanted) <= nearest + Fraction(1, 10**9)
    for group, kept in ((low, kept_low), (~low, kept_high)):
        size = int(group.sum())
        assert kept >= min(1, size), "no group dies out"
        assert set(selection.weights[selection.kept & group].tolist()) == ({size / kept} if size else set())


@settings(max_examples=500, deadline=None)
@given(LOSSES)
def test_below_the_mean_is_exact(losses: list[float]) -> None:
    assert below_mean(torch.tensor(losses, dtype=torch.float64)).tolist() == below(losses)


def test_equal_losses_are_not_below_their_mean() -> None:
    """0.1 + 0.1 + 0.1 is more than 0.3 in floating point."""
    for count in range(1, 40):
        assert not below_mean(torch.full((count,), 0.1, dtype=torch.float64)).any()


# 12 samples, 7 below the mean; budgets that the paper's rule reaches (8 and 11) and that it does not (1 to 6)
UNEVEN = [1.0] * 7 + [5.0, 6.0, 7.0, 8.0, math.nan]


@pytest.mark.parametrize("samples", [1, 2, 3, 6, 8, 11, 12])
@pytest.mark.parametrize("losses", [UNEVEN, [math.nan] * 12, [2.0] * 12], ids=["uneven", "first epoch", "equal"])
def test_weighted_sums_are_unbiased(samples: int, losses: list[float]) -> None:
    values = torch.tensor([3.0, -1, 4, 1, -5, 9, 2, 6, -5, 35, 8, 9], dtype=torch.float64)
    draws = []
    for seed in range(1500):
        selection = prune(losses, samples, seed)
        assert selection.weights is not None
        draws.append(float((selection.weights * values)[selection.kept].sum()))
    found = torch.tensor(draws, dtype=torch.float64)
    error = float(found.std()) / len(draws) ** 0.5
    assert abs(float(found.mean()) - float(values.sum())) <= 5 * error + 1e-9
    assert error > 0 or samples == 12


def test_the_papers_rule_where_the_budget_allows_it() -> None:
    """A budget of 8 of 12 is 3 of the 7 below the mean: a share of 3 / 7 >= 1 - 0.75, and all of the others."""
    selection = prune(UNEVEN, 8)
    assert selection.weights is not None
    assert selection.kept[7:].all() and selection.weights[7:].tolist() == [1.0] * 5
    assert int(selection.kept[:7].sum()) == 3
    assert set(selection.weights[:7].tolist()) == {0.0, 7 / 3}


def test_both_groups_are_thinned_where_it_does_not() -> None:
    """100 + 100 samples, budget 50: p_low = p_high / 4, so p_high = 50 / 125 = 0.4 and p_low = 0.1."""
    selection = prune([1.0] * 100 + [3.0] * 100, 50)
    assert (selection.log["kept_below_mean"], selection.log["kept_others"]) == (10, 40)
    assert selection.weights is not None
    assert set(selection.weights[selection.kept].tolist()) == {10.0, 2.5}


@pytest.mark.parametrize(("losses", "few"), [([1.0] * 23 + [50.0], 23), ([1.0] + [50.0] * 23, 0)])
def test_a_group_of_one_never_dies_out(losses: list[float], few: int) -> None:
    """Thinned alike, 4 of 24 would leave 0.17 of it: none, when rounded, and its part of the sum would be lost."""
    selection = prune(losses, 4, most=0.0)
    assert selection.weights is not None
    assert bool(selection.kept[few]) and float(selection.weights[few]) == 1.0
    assert sorted(selection.weights[selection.kept].tolist()) == [1.0] + [23 / 3] * 3


def test_samples_never_trained_count_as_not_below_the_mean() -> None:
    selection = prune([1.0, 1.0, 1.0, 1.0, 9.0, math.nan, math.nan], 4)
    assert selection.kept[4:].all() and int(selection.kept[:4].sum()) == 1


@pytest.mark.parametrize(
    ("epoch", "epochs", "anneal", "full"),
    [(6, 8, 0.875, False), (7, 8, 0.875, True), (2, 3, 0.875, False), (2, 3, 0.5, True), (0, 3, 0.0, True)],
)
def test_the_last_epochs_are_full(epoch: int, epochs: int, anneal: float, full: bool) -> None:
    candidates = candidates_of(UNEVEN, epoch, epochs)
    selection = infobatch(candidates, Budget.of(0.25, 1.0, 12, 12), generator(0), anneal=anneal)
    assert selection.weights is not None
    assert int(selection.kept.sum()) == (12 if full else 3)
    assert (selection.weights.tolist() == [1.0] * 12) == full
    assert selection.log["below_mean_share"] == 7 / 12


def test_defaults_are_those_of_the_options() -> None:
    options = SAMPLE_PRUNERS["infobatch-original"].options().model_dump()
    parameters = inspect.signature(infobatch).parameters
    assert options == {key: parameters[key].default for key in options}


@settings(max_examples=600, deadline=None)
@given(losses=LOSSES, ratio=RATIOS, seed=st.integers(0, 3))
def test_the_highest_losses_stay_and_unknown_ones_count_as_the_mean(
    losses: list[float], ratio: float, seed: int
) -> None:
    samples = max(1, round(ratio * len(losses)))
    selection = largest_losses(candidates_of(losses), Budget(ratio, 1.0, samples, 1), generator(seed))
    assert int(selection.kept.sum()) == samples and selection.weights is None
    under = below(losses)
    # 2 at or above the mean of the known, 1 unknown, 0 below; then by loss
    keys = [(1, 0.0) if math.isnan(loss) else (0 if low else 2, loss) for loss, low in zip(losses, under, strict=True)]
    kept = sorted(key for key, stays in zip(keys, selection.kept.tolist(), strict=True) if stays)
    assert kept == sorted(keys)[len(keys) - samples :]


def test_unknown_losses_are_drawn_evenly() -> None:
    """2 known above the mean stay, 2 below go, and of 8 unknown ones each is as likely as any other."""
    losses = [4.0, 4.0, 1.0, 1.0, *[math.nan] * 8]
    drawn = torch.zeros(12)
    for seed in range(800):
        drawn += largest_losses(candidates_of(losses), Budget(0.5, 1.0, 6, 1), generator(seed)).kept
    assert drawn[:4].tolist() == [800, 800, 0, 0]
    assert bool(((drawn[4:] - 400).abs() <= 5 * (800 * 0.25) ** 0.5).all())
