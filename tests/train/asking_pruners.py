"""Pruners that ask for scores one epoch ago, and note what they are told."""

import torch
from torch import Tensor

from qtuning.pruners.base import Budget, Candidates, SampleSelection, draw, keep_first, keep_highest, ranking
from qtuning.pruners.plugin import pruner

TOLD: list[Candidates] = []


def _relief(candidates: Candidates) -> Tensor:
    assert candidates.previous is not None and candidates.scores is not None
    return (candidates.previous.ppl.log() - candidates.scores.ppl.log()).nan_to_num(0.0)


def relieved(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """What has become easier."""
    TOLD.append(candidates)
    drawn = draw(candidates.numbers, rng)
    return keep_first(drawn[ranking(_relief(candidates)[drawn])], budget.samples)


relieved_set = pruner(scope="epoch", needs=["previous-scores"])(
    lambda candidates, budget, rng: relieved(candidates, budget, rng)
)
pruner(needs=["previous-scores"])(relieved)


@pruner(needs=["previous-scores"])
def of_relieved(candidates: Candidates, selection: SampleSelection, budget: Budget, rng: torch.Generator) -> Tensor:
    """Tokens of samples that have become easier."""
    TOLD.append(candidates)
    return keep_highest(_relief(candidates)[candidates.owner], candidates, selection, budget.tokens, "sample")
