"""Sample pruners (method.md, Baselines)."""

from collections.abc import Mapping

import torch

from qtuning.pruners.base import Candidates, SampleSelection, keep_prunable, sample_budget


def keep_all(
    candidates: Candidates, ratio: float, rng: torch.Generator, options: Mapping[str, object]
) -> SampleSelection:
    """full: every sample."""
    return keep_prunable(torch.ones(len(candidates), dtype=torch.bool))


def random_samples(
    candidates: Candidates, ratio: float, rng: torch.Generator, options: Mapping[str, object]
) -> SampleSelection:
    """random: K = max(1, round(r_sample * B)) of the samples, drawn anew each epoch."""
    kept = torch.zeros(len(candidates), dtype=torch.bool)
    kept[torch.randperm(len(candidates), generator=rng)[: sample_budget(ratio, len(candidates))]] = True
    return keep_prunable(kept)
