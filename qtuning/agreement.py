"""How far two ways of scoring agree: on the scores, on the quadrants, and on what is kept, which is what counts."""

import math

from torch import Tensor

from qtuning import plane
from qtuning.pruners.base import Candidates
from qtuning.pruners.select import Selection


def agreement(approximate: Candidates, chosen: Selection, exact: Candidates, decided: Selection) -> dict[str, float]:
    """Of one batch: rank correlations, and shares of the exact decision that the approximate one shares.

    spearman_ppl, spearman_ent: of the samples' scores (left out where one has no variance). quadrants: samples in the
    same quadrant at a median split. samples_kept, tokens_kept: |A and B| / |B|, B what fresh scores keep.
    """
    ours, theirs = approximate.scores, exact.scores
    assert ours is not None and theirs is not None
    found = {"spearman_ppl": _spearman(ours.ppl, theirs.ppl), "spearman_ent": _spearman(ours.ent, theirs.ent)}
    median = [plane.quadrants(scores.ppl, scores.ent, 0.5) for scores in (ours, theirs)]
    found |= {
        "quadrants": float((median[0] == median[1]).double().mean()),
        "samples_kept": _overlap(chosen.samples.kept, decided.samples.kept),
        "tokens_kept": _overlap(chosen.tokens, decided.tokens),
    }
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _spearman(ours: Tensor, theirs: Tensor) -> float:
    if len(ours) < 2 or bool((ours == ours[0]).all()) or bool((theirs == theirs[0]).all()):
        return math.nan
    from scipy.stats import spearmanr  # a second that jobs without this need not spend

    return float(spearmanr(ours.numpy(), theirs.numpy()).statistic)


def _overlap(ours: Tensor, theirs: Tensor) -> float:
    count = int(theirs.sum())
    return float((ours & theirs).sum()) / count if count else math.nan
