"""Sample pruners without quadrants or weights (method.md, Baselines).

All but `keep_all` keep exactly K = budget.samples. Of equal samples the one with the lower number in the train set
comes first in the ranking.
"""

import torch
from torch import Tensor

from qtuning.pruners.base import Budget, Candidates, SampleSelection, draw, keep_first, keep_prunable, ranking


def keep_all(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """full: every sample, whatever the budget."""
    return keep_prunable(torch.ones(len(candidates), dtype=torch.bool))


def random_samples(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """random: K samples drawn without replacement, anew each epoch."""
    return keep_first(draw(candidates.numbers, rng), budget.samples)


def without_longest(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """longest: removes the longest sequences, so keeps the K with the fewest tokens, prompt and response."""
    assert candidates.prompts is not None
    return _highest(-(candidates.prompts + candidates.lengths), candidates, budget)


def longest_responses(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """longest-original: the K samples with the most response tokens (Zhao et al. 2024, arXiv 2402.04833)."""
    return _highest(candidates.lengths, candidates, budget)


def highest_entropy(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """entropy: the K samples with the highest predictive entropy Ent_i (method.md, Scores)."""
    assert candidates.scores is not None
    return _highest(candidates.scores.ent, candidates, budget)


def highest_ppl(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """ppl-high: the K samples with the highest perplexity PPL_i."""
    return _highest(_ppl(candidates), candidates, budget)


def lowest_ppl(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """ppl-low: the K samples with the lowest perplexity PPL_i."""
    return _highest(-_ppl(candidates), candidates, budget)


def middle_ppl(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """ppl-mid: the K samples whose perplexity rank is closest to the median rank.

    Samples are ranked from 0 (lowest PPL_i) to B - 1. Kept are the ranks s .. s + K - 1 with s = floor((B - K) / 2):
    K consecutive ranks around (B - 1) / 2. Where B - K is odd, two ranks are equally close and the lower one is kept.
    """
    order = ranking(-_ppl(candidates), candidates.numbers)
    return keep_first(order.roll(-((len(candidates) - budget.samples) // 2)), budget.samples)


def _highest(values: Tensor, candidates: Candidates, budget: Budget) -> SampleSelection:
    return keep_first(ranking(values, candidates.numbers), budget.samples)


def _ppl(candidates: Candidates) -> Tensor:
    assert candidates.scores is not None
    return candidates.scores.ppl
