"""Token pruners by loss or by chance, against sorting in plain Python."""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from populations import RATIOS, budget_of, candidates_of, exactly, populations_selected
from torch import Tensor

from qtuning.experiment.registry import TOKEN_PRUNERS
from qtuning.pruners.base import DROPPED, EXEMPT, PRUNABLE, WHOLE, Candidates, SampleSelection, keep_prunable
from qtuning.pruners.token import excess_loss, highest_loss, keep_all, lowest_loss, most_influenced, random_tokens
from qtuning.scoring.scores import BatchScores
from qtuning.train.seeding import generator

Chosen = tuple[Candidates, SampleSelection]


def losses(candidates: Candidates) -> list[float]:
    assert candidates.scores is not None
    return candidates.scores.nll.tolist()


def excesses(candidates: Candidates) -> list[float]:
    assert candidates.reference is not None
    return [now - then for now, then in zip(losses(candidates), candidates.reference.tolist(), strict=True)]


def ranked_rows(candidates: Candidates, selection: SampleSelection, values: list[float]) -> list[tuple[int, int]]:
    """(number, position) of the tokens of selected samples: highest value first, then lower number, then earlier."""
    rows, at = [], 0
    for number, length, kept in zip(
        candidates.numbers.tolist(), candidates.lengths.tolist(), selection.kept.tolist(), strict=True
    ):
        rows += [(-values[at + t], number, t) for t in range(length) if kept]
        at += length
    return [(number, t) for _, number, t in sorted(rows)]


def found(candidates: Candidates, mask: Tensor) -> set[tuple[int, int]]:
    parts = mask.split(candidates.lengths.tolist())
    return {
        (number, t)
        for number, part in zip(candidates.numbers.tolist(), parts, strict=True)
        for t in part.nonzero().flatten().tolist()
    }


def gains(candidates: Candidates) -> list[float]:
    return [-loss for loss in losses(candidates)]


RANKED = pytest.mark.parametrize(
    ("pruner", "values"),
    [(lowest_loss, gains), (highest_loss, losses), (excess_loss, excesses)],
    ids=["ppl", "ppl-original", "rho-1"],
)


@RANKED
@settings(max_examples=800, deadline=None)
@given(chosen=populations_selected(), ratio=RATIOS)
def test_the_highest_of_the_batch_stay(
    pruner: Callable[..., Tensor], values: Callable[[Candidates], list[float]], chosen: Chosen, ratio: float
) -> None:
    candidates, selection = chosen
    budget = budget_of(candidates, tokens=ratio)
    mask = pruner(candidates, selection, budget, generator(0), within="batch")
    assert abs(budget.tokens - max(1.0, ratio * len(mask))) <= 0.5 + 1e-6
    assert found(candidates, mask) == set(ranked_rows(candidates, selection, values(candidates))[: budget.tokens])


@RANKED
@settings(max_examples=800, deadline=None)
@given(chosen=populations_selected(), ratio=RATIOS)
def test_within_samples_each_keeps_the_highest_of_its_own(
    pruner: Callable[..., Tensor], values: Callable[[Candidates], list[float]], chosen: Chosen, ratio: float
) -> None:
    candidates, selection = chosen
    budget = budget_of(candidates, tokens=ratio)
    mask = pruner(candidates, selection, budget, generator(0), within="sample")
    rows = ranked_rows(candidates, selection, values(candidates))
    lengths = dict(zip(candidates.numbers.tolist(), candidates.lengths.tolist(), strict=True))
    selected = {number: lengths[number] for number, _ in rows}
    kept = {number: int(sum(n == number for n, _ in found(candidates, mask))) for number in lengths}

    assert sum(kept.values()) == min(budget.tokens, len(rows))
    assert found(candidates, mask) == {
        row for number in selected for row in [row for row in rows if row[0] == number][: kept[number]]
    }
    total = min(budget.tokens, len(rows))
    exact = {number: Fraction(total * length, len(rows)) for number, length in selected.items()}
    if total >= len(selected):
        assert all(kept[number] >= 1 for number in selected)
    if all(share >= 1 for share in exact.values()):  # then nobody has to be lifted to 1: the textbook's rule
        assert all(kept[number] in (math.floor(share), math.ceil(share)) for number, share in exact.items())
        up = [share % 1 for number, share in exact.items() if kept[number] > share]
        down = [share % 1 for number, share in exact.items() if kept[number] < share]
        assert min(up, default=1) >= max(down, default=0), "the largest remainders are rounded up"


def test_losses_beyond_the_range_of_exp_keep_their_order() -> None:
    """A perplexity stays at exp(700), a loss does not."""
    nll = torch.tensor([800.0, 1e6, 900.0, 1.0], dtype=torch.float64)
    candidates = Candidates(torch.tensor([0]), torch.tensor([4]), BatchScores(nll, nll, torch.tensor([4])))
    everything = keep_prunable(torch.tensor([True]))
    mask = highest_loss(candidates, everything, exactly(2), generator(0))
    assert mask.tolist() == [False, True, True, False]


def test_excess_is_not_loss() -> None:
    """A hard token that is hard for the reference too is no reason to train."""
    nll = torch.tensor([9.0, 2.0, 3.0], dtype=torch.float64)
    scores, reference = BatchScores(nll, nll, torch.tensor([3])), torch.tensor([9.5, 0.5, 2.0], dtype=torch.float64)
    candidates = Candidates(torch.tensor([0]), torch.tensor([3]), scores, reference=reference)
    everything = keep_prunable(torch.tensor([True]))
    assert highest_loss(candidates, everything, exactly(1), generator(0)).tolist() == [True, False, False]
    assert excess_loss(candidates, everything, exactly(1), generator(0)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("name", "pruner"),
    [("ppl", lowest_loss), ("ppl-original", highest_loss), ("rho-1", excess_loss), ("token-cleaning", most_influenced)],
)
def test_defaults_are_those_of_the_options(name: str, pruner: Callable[..., Tensor]) -> None:
    options = TOKEN_PRUNERS[name].options().model_dump()
    parameters = inspect.signature(pruner).parameters
    assert options == {key: parameters[key].default for key in options}


def test_none_keeps_every_token_of_the_kept_samples() -> None:
    selection = keep_prunable(torch.tensor([True, False, True]))
    mask = keep_all(candidates_of([2, 3, 1]), selection, exactly(1), generator(0))
    assert mask.tolist() == [True, True, False, False, False, True]


@settings(max_examples=300, deadline=None)
@given(chosen=populations_selected(), budget=st.integers(1, 80), seed=st.integers(0, 9))
def test_random_keeps_the_budget_exactly(chosen: Chosen, budget: int, seed: int) -> None:
    candidates, selection = chosen
    mask = random_tokens(candidates, selection, exactly(budget), generator(seed))
    assert int(mask.sum()) == min(budget, int(candidates.lengths[selection.kept].sum()))
    assert not mask[~selection.kept[candidates.owner]].any()


def test_random_is_settled_by_its_generator_alone() -> None:
    everything = keep_prunable(torch.ones(4, dtype=torch.bool))
    first, again, other = (
        random_tokens(candidates_of([20] * 4), everything, exactly(40), generator(seed, "batch", 7))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("lengths", [[12], [1, 4, 7]])
def test_random_prefers_no_token(lengths: list[int]) -> None:
    everything = keep_prunable(torch.ones(len(lengths), dtype=torch.bool))
    drawn = sum(
        random_tokens(candidates_of(lengths), everything, exactly(3), generator(1, "draw", trial)).int()
        for trial in range(800)
    )
    deviation = (800 * 0.25 * 0.75) ** 0.5
    assert isinstance(drawn, torch.Tensor)
    assert bool(((drawn - 200).abs() <= 5 * deviation).all())


@settings(max_examples=400, deadline=None)
@given(chosen=populations_selected(), ratio=RATIOS, keep=st.sampled_from(["highest", "lowest"]))
def test_cleaning_keeps_what_is_above_the_threshold_of_the_train_set(
    chosen: Chosen, ratio: float, keep: Literal["highest", "lowest"]
) -> None:
    """The candidates are the train set here: of all its tokens round(r N) are above the threshold."""
    candidates, selection = chosen
    assert candidates.token_influence is not None
    budget = budget_of(candidates, tokens=ratio)
    mask = most_influenced(candidates, selection, budget, generator(0), keep=keep)
    ranked = sorted(range(candidates.tokens), key=lambda t: float(candidates.token_influence[t]))  # type: ignore[index]
    ranked = ranked if keep == "highest" else ranked[::-1]
    mine = [t for t in ranked if selection.kept[candidates.owner[t]]]
    exact = ratio * len(ranked) - 0.5
    assume(abs(exact - round(exact)) > 1e-9)  # a half may be rounded either way
    above = [t for t in ranked[: math.ceil(exact)] if t in mine]
    assert sorted(mask.nonzero().flatten().tolist()) == sorted(above or mine[:1])


@settings(max_examples=300, deadline=None)
@given(chosen=populations_selected(), ratio=RATIOS, data=st.data())
def test_rho_1_inside_q_tuning_prunes_each_q2_sample(chosen: Chosen, ratio: float, data: st.DataObject) -> None:
    candidates, selection = chosen
    roles = [data.draw(st.sampled_from([EXEMPT, PRUNABLE, WHOLE])) if kept else DROPPED for kept in selection.kept]
    selection = replace(selection, role=torch.tensor(roles, dtype=torch.int8))
    mask = excess_loss(candidates, selection, budget_of(candidates, tokens=ratio), generator(0), within="Q2")
    values, at = excesses(candidates), 0
    for length, role in zip(candidates.lengths.tolist(), roles, strict=True):
        share = max(1, math.floor(round(ratio * length, 9)))
        stay = {DROPPED: 0, PRUNABLE: share}.get(role, length)
        best = sorted(range(length), key=lambda t: (-values[at + t], t))[:stay]
        assert mask[at : at + length].nonzero().flatten().tolist() == sorted(best)
        at += length
