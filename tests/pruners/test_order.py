"""The order of the candidates decides nothing in any built-in pruner, with ties and extremes among the scores."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import RATIOS, budget_of, orders, populations, populations_selected

from qtuning.experiment.lookup import BUILT_IN, bind_options
from qtuning.pruners.base import Candidates, SampleSelection, keep_prunable
from qtuning.pruners.specimens import reordered
from qtuning.train.seeding import generator

SEEDS = st.integers(0, 9)
WITHIN = [
    (name, {"within": within})
    for name, info in BUILT_IN["token"].items()
    if "within" in info.options.model_fields
    for within in ("batch", "sample")
]


def options_of(name: str) -> dict[str, Any]:
    return {"anneal": 0.5} if name == "infobatch-original" else {}  # so that one of three epochs is full


@pytest.mark.parametrize("name", BUILT_IN["sample"])
@settings(max_examples=200, deadline=None)
@given(candidates=populations(), ratio=RATIOS, epoch=st.integers(0, 2), seed=SEEDS, data=st.data())
def test_samples(name: str, candidates: Candidates, ratio: float, epoch: int, seed: int, data: st.DataObject) -> None:
    decide = bind_options(BUILT_IN["sample"][name], options_of(name), "sample")
    candidates = replace(candidates, epoch=epoch)
    order = data.draw(orders(candidates))
    budget = budget_of(candidates, ratio)
    here = decide(candidates, budget, generator(seed))
    there = decide(reordered(candidates, order)[0], budget, generator(seed))
    for column in ("role", "quadrant", "supplement", "weights"):
        if getattr(here, column) is not None:
            assert torch.equal(getattr(there, column), getattr(here, column)[order]), column
    assert there.log == here.log


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in BUILT_IN["token"]), *WITHIN], ids=str)
@settings(max_examples=120, deadline=None)
@given(chosen=populations_selected(), ratio=RATIOS, seed=SEEDS, data=st.data())
def test_tokens(
    name: str,
    options: dict[str, Any],
    chosen: tuple[Candidates, SampleSelection],
    ratio: float,
    seed: int,
    data: st.DataObject,
) -> None:
    decide = bind_options(BUILT_IN["token"][name], options, "token")
    candidates, selection = chosen
    order = data.draw(orders(candidates))
    other, tokens = reordered(candidates, order)
    budget = budget_of(candidates, tokens=ratio)
    here = decide(candidates, selection, budget, generator(seed))
    there = decide(other, keep_prunable(selection.kept[order]), budget, generator(seed))
    assert torch.equal(there, here[tokens])
