"""A method applied to one selection batch: sample pruner, then token pruner."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from qtuning.config import Pruning
from qtuning.pruners.base import (
    Candidates,
    SamplePruner,
    SampleSelection,
    TokenPruner,
    sample_budget,
    token_budget,
)
from qtuning.pruners.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS
from qtuning.pruners.sample import keep_all
from qtuning.pruners.token import keep_all as keep_all_tokens


@dataclass(frozen=True)
class Selection:
    """The decision on a batch. samples: what the sample pruner said. tokens: [N] bool, the tokens with a loss."""

    samples: SampleSelection
    tokens: Tensor
    asked_samples: int
    asked_tokens: int


@dataclass(frozen=True)
class Method:
    """A pruning configuration with its functions looked up.

    by_epoch: the sample pruner draws a smaller data set before each epoch, and batches hold only drawn samples.
    needs_scores: each batch is scored before it is pruned.
    """

    pruning: Pruning
    sample_pruner: SamplePruner
    token_pruner: TokenPruner
    by_epoch: bool
    needs_scores: bool

    def select_epoch(self, candidates: Candidates, rng: torch.Generator) -> Tensor:
        """Indices (ascending) of the samples of the coming epoch."""
        if not self.by_epoch:
            return torch.arange(len(candidates))
        selection = self.sample_pruner(candidates, self.pruning.sample_ratio, rng, self.pruning.sample_options)
        return selection.kept.nonzero().flatten()

    def select(self, candidates: Candidates, rng: torch.Generator) -> Selection:
        """Prune one batch. Of a batch of samples drawn by epoch, all are kept and only tokens are pruned."""
        pruning = self.pruning
        ratio = 1.0 if self.by_epoch else pruning.sample_ratio
        prune_samples = keep_all if self.by_epoch else self.sample_pruner
        samples = prune_samples(candidates, ratio, rng, pruning.sample_options)
        tokens = token_budget(ratio, pruning.token_ratio, int(candidates.lengths.sum()))
        # a token ratio of 1 asks for all tokens of the kept samples (fig4a), however long these samples are
        prune_tokens = keep_all_tokens if pruning.token_ratio == 1 else self.token_pruner
        mask = prune_tokens(candidates, samples, tokens, rng, pruning.token_options)
        return Selection(samples, mask, sample_budget(ratio, len(candidates)), tokens)


def method_of(pruning: Pruning, matched_updates: bool = False) -> Method:
    """Look the pruners up. `matched_updates` (A11) makes epoch-level sample pruners select inside each batch."""
    sample, token = SAMPLE_PRUNERS[pruning.sample_pruner], TOKEN_PRUNERS[pruning.token_pruner]
    return Method(
        pruning,
        cast(SamplePruner, _load(sample.function)),
        cast(TokenPruner, _load(token.function)),
        by_epoch=sample.scope == "epoch" and not matched_updates,
        needs_scores=sample.needs_scores or token.needs_scores,
    )


def _load(function: str) -> Callable[..., object]:
    module, _, attribute = function.partition(":")
    return cast(Callable[..., object], getattr(importlib.import_module(module), attribute))
