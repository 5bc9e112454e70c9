"""What passes between the training loop and a pruner.

A *sample pruner* is a function `(candidates, ratio, rng, options) -> SampleSelection`. Its scope (registry.py) says
what the candidates are: the whole train set before each epoch, or one selection batch.
A *token pruner* is a function `(candidates, selection, tokens, rng, options) -> mask` that keeps `tokens` of the N
response tokens of a batch, all of them in selected samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qtuning.scores import BatchScores

DROPPED, PRUNABLE, WHOLE = 0, 2, 4  # roles; kept samples are Q2-like (tokens may go) or Q4-like (kept whole)


@dataclass(frozen=True)
class Candidates:
    """B samples to choose from.

    numbers: [B] int64, rows in the train set; ties are broken by them, so that the order of a batch does not matter.
    lengths: [B] int64, response tokens. scores: None for pruners that need none.
    """

    numbers: Tensor
    lengths: Tensor
    scores: BatchScores | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def owner(self) -> Tensor:
        """[N] int64: the index (0..B-1) of the sample that each response token belongs to."""
        return torch.repeat_interleave(torch.arange(len(self)), self.lengths)


@dataclass(frozen=True)
class SampleSelection:
    """Which samples are kept, and why.

    role: [B] int8, DROPPED, PRUNABLE or WHOLE. quadrant: [B] int8, 0 where the pruner knows no quadrants.
    supplement: [B] bool, kept although outside the thresholds. log: numbers for the metrics of the update.
    """

    role: Tensor
    quadrant: Tensor
    supplement: Tensor
    log: Mapping[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> Tensor:
        """[B] bool."""
        return self.role != DROPPED


SamplePruner = Callable[[Candidates, float, torch.Generator, Mapping[str, object]], SampleSelection]
TokenPruner = Callable[[Candidates, SampleSelection, int, torch.Generator, Mapping[str, object]], Tensor]


def keep_prunable(kept: Tensor) -> SampleSelection:
    """A selection by a pruner without quadrants: any token of a kept sample may be pruned."""
    role = torch.where(kept, PRUNABLE, DROPPED).to(torch.int8)
    return SampleSelection(role, torch.zeros_like(role), torch.zeros_like(kept))


def sample_budget(ratio: float, count: int) -> int:
    """K = max(1, round(r_sample * B)) (method.md, Stage 1)."""
    return max(1, round(ratio * count))


def token_budget(sample_ratio: float, token_ratio: float, tokens: int) -> int:
    """round(N * r_sample * r_token), at least 1 so that no batch trains on nothing (method.md, Stage 2)."""
    return max(1, round(tokens * sample_ratio * token_ratio))


def ranking(values: Tensor, *ties: Tensor) -> Tensor:
    """Indices from the highest value to the lowest; ties in ascending order of `ties` (first one decides first)."""
    order = torch.arange(len(values))
    for key in reversed(ties):
        order = order[torch.argsort(key[order], stable=True)]
    return order[torch.argsort(values[order], descending=True, stable=True)]
