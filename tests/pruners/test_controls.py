"""Controls against their definitions, written as rules on what may be left out while what stays."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import RATIOS, budget_of, exactly, populations, populations_selected

from qtuning.experiment.registry import NAMED_METHODS, SAMPLE_PRUNERS, TOKEN_PRUNERS, is_control
from qtuning.experiment.truth import KINDS
from qtuning.pruners.base import PRUNABLE, Candidates, SampleSelection
from qtuning.pruners.controls import adversary, adversary_tokens, no_noise, no_redundant, oracle, oracle_tokens
from qtuning.train.seeding import generator

BEST_FIRST: dict[Callable[..., SampleSelection], list[set[str]]] = {
    oracle: [{"clean", "misconception"}, {"ambiguous"}, {"redundant"}, {"noise"}],
    adversary: [{"noise"}, {"redundant"}, {"ambiguous"}, {"clean", "misconception"}],
    no_noise: [{"clean", "misconception", "ambiguous", "redundant"}, {"noise"}],
    no_redundant: [{"clean", "misconception", "ambiguous", "noise"}, {"redundant"}],
}
"""What each sample control keeps, as the issue defines them: a kind goes before all of those behind it."""


@pytest.mark.parametrize("control", BEST_FIRST, ids=lambda control: control.__name__)
@settings(max_examples=300, deadline=None)
@given(candidates=populations(), ratio=RATIOS, seed=st.integers(0, 99))
def test_sample_controls_keep_kinds_in_their_order(
    control: Callable[..., SampleSelection], candidates: Candidates, ratio: float, seed: int
) -> None:
    assert candidates.kinds is not None
    budget = budget_of(candidates, ratio)
    selection = control(candidates, budget, generator(seed))
    kinds = [KINDS[code] for code in candidates.kinds.tolist()]
    kept, dropped = Counter[str](), Counter[str]()
    for kind, stays in zip(kinds, selection.kept.tolist(), strict=True):
        (kept if stays else dropped)[kind] += 1
    assert kept.total() == budget.samples == max(1, round(ratio * len(kinds)))
    groups = BEST_FIRST[control]
    for place, group in enumerate(groups):
        behind = set().union(*groups[place + 1 :])
        assert not (any(dropped[kind] for kind in group) and any(kept[kind] for kind in behind))
    assert set(selection.role[selection.kept].tolist()) == {PRUNABLE} and selection.weights is None


def test_within_a_rank_chance_decides_anew_each_epoch() -> None:
    """Of 12 equal samples each is kept in a quarter of 2000 draws, give or take 5 deviations."""
    candidates = Candidates(torch.arange(12), torch.ones(12, dtype=torch.int64), kinds=torch.tensor([0, 1] * 6))
    budget = budget_of(candidates, 0.25)
    draws = [oracle(candidates, budget, generator(0, "epoch", epoch)).kept for epoch in range(2000)]
    counts = torch.stack(draws).sum(0)
    assert all(abs(count - 500) <= 5 * (2000 * 3 / 16) ** 0.5 for count in counts.tolist())
    again = [oracle(candidates, budget, generator(0, "epoch", 7)).kept for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.parametrize(("control", "goes_first"), [(oracle_tokens, True), (adversary_tokens, False)])
@settings(max_examples=300, deadline=None)
@given(selected=populations_selected(), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_token_controls_drop_wrong_tokens_first_or_last(
    control: Callable[..., torch.Tensor],
    goes_first: bool,
    selected: tuple[Candidates, SampleSelection],
    share: float,
    seed: int,
) -> None:
    candidates, selection = selected
    assert candidates.wrong is not None
    held = int(candidates.lengths[selection.kept].sum())
    asked = max(1, round(share * held))
    mask = control(candidates, selection, exactly(asked), generator(seed))
    assert int(mask.sum()) == asked
    kept, dropped = set[bool](), set[bool]()
    owners = [index for index, length in enumerate(candidates.lengths.tolist()) for _ in range(length)]
    for owner, wrong, stays in zip(owners, candidates.wrong.tolist(), mask.tolist(), strict=True):
        if not bool(selection.kept[owner]):
            assert not stays
        else:
            (kept if stays else dropped).add(wrong)
    # what goes first has gone whole before anything of the other sort goes
    assert not (goes_first in kept and (not goes_first) in dropped)


def test_which_tokens_of_a_sort_go_is_chance() -> None:
    """12 right and 6 wrong tokens, 9 stay: each right one in 3/4 of the draws; all wrong ones go."""
    wrong = torch.tensor([index % 3 == 0 for index in range(18)])
    candidates = Candidates(torch.tensor([4, 2]), torch.tensor([10, 8]), wrong=wrong)
    everything = SampleSelection(torch.full((2,), PRUNABLE, dtype=torch.int8), torch.zeros(2), torch.zeros(2).bool())
    draws = [oracle_tokens(candidates, everything, exactly(9), generator(3, "batch", n)) for n in range(2000)]
    counts = torch.stack(draws).sum(0)
    assert counts[wrong].tolist() == [0] * 6
    assert all(abs(count - 1500) <= 5 * (2000 * 3 / 16) ** 0.5 for count in counts[~wrong].tolist())


def test_controls_are_known_as_such_and_have_names_of_their_own() -> None:
    samples = {name for name, info in SAMPLE_PRUNERS.items() if info.control}
    tokens = {name for name, info in TOKEN_PRUNERS.items() if info.control}
    replays = {"replay", "replay-random"}
    assert samples == {"oracle", "adversary", "no-noise", "no-redundant"} | replays
    assert tokens == {"oracle-tokens", "adversary-tokens"} | replays
    assert not replays & NAMED_METHODS.keys()
    assert NAMED_METHODS["oracle"] == ("oracle", "random") and NAMED_METHODS["no-noise"] == ("no-noise", "random")
    assert NAMED_METHODS["oracle-tokens"] == ("random", "oracle-tokens")
    assert is_control("oracle", "none") and is_control("random", "adversary-tokens")
    assert not is_control("random", "random") and not is_control("my_pruners:f", "none")
