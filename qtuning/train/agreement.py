"""How far two ways of scoring agree: on the scores, on the quadrants, and on what is kept, which is what counts."""

import math

import torch
from torch import Tensor

from qtuning.scoring import plane
from qtuning.train.decision import Decision


def agreement(approximate: Decision, exact: Decision) -> dict[str, float]:
    """Of one batch: rank correlations, and shares of the exact decision that the approximate one shares.

    spearman_ppl, spearman_ent: of the samples' scores (left out where one has no variance). quadrants: samples in the
    same quadrant at a median split. samples_kept, tokens_kept: |A and B| / |B|, B what fresh scores keep.
    """
    scores = [_scores(decision) for decision in (approximate, exact)]
    found = {
        "spearman_ppl": _spearman(scores[0][0], scores[1][0]),
        "spearman_ent": _spearman(scores[0][1], scores[1][1]),
    }
    median = [plane.quadrants(ppl, ent, 0.5) for ppl, ent in scores]
    ours, theirs = approximate.selection, exact.selection
    found |= {
        "quadrants": float((median[0] == median[1]).double().mean()),
        "samples_kept": _overlap(ours.samples.kept, theirs.samples.kept),
        "tokens_kept": _overlap(ours.tokens, theirs.tokens),
    }
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _scores(decision: Decision) -> tuple[Tensor, Tensor]:
    assert decision.ppl is not None and decision.ent is not None
    return torch.tensor(decision.ppl, dtype=torch.float64), torch.tensor(decision.ent, dtype=torch.float64)


def _spearman(ours: Tensor, theirs: Tensor) -> float:
    if len(ours) < 2 or bool((ours == ours[0]).all()) or bool((theirs == theirs[0]).all()):
        return math.nan
    from scipy.stats import spearmanr  # a second that jobs without this need not spend

    return float(spearmanr(ours.numpy(), theirs.numpy()).statistic)


def _overlap(ours: Tensor, theirs: Tensor) -> float:
    count = int(theirs.sum())
    return float((ours & theirs).sum()) / count if count else math.nan
