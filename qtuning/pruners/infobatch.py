"""InfoBatch (Qin et al., ICLR 2024, arXiv 2303.04947) under a budget of K samples.

The paper prunes a random share of the samples whose loss is below the mean. It multiplies the losses of the survivors
by 1 / (1 - share), so that the expected gradient is that of the full data, and returns to the full data in the last
epochs. Samples at or above the mean always stay. If half of the data is below the mean, a budget under 50% is therefore
out of reach, and just above 50% the few survivors get huge weights. So we thin the other group, too, once the option
`prune_at_most` (the largest share of the samples below the mean that may go) is used up. Of m samples below the mean we
keep the share p_low, of the a others the share p_high, with p_low m + p_high a = K:

    p_high = 1, p_low = (K - a) / m          if this p_low >= 1 - prune_at_most: the paper's rule
    p_low  = (1 - prune_at_most) p_high      otherwise: both groups are thinned, at this fixed ratio

The first epoch knows no losses. The paper takes the full data then; under a budget it is a uniform draw with weights
B / K.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from qtuning.pruners.base import Budget, Candidates, SampleSelection, draw, keep_prunable


def infobatch(
    candidates: Candidates,
    budget: Budget,
    rng: torch.Generator,
    *,
    prune_at_most: float = 0.75,
    anneal: float = 0.875,
) -> SampleSelection:
    """Exactly K = budget.samples samples, drawn without replacement from the two groups; weights undo the draw.

    A survivor weighs the size of its group divided by the number of its survivors. So the expected sum of w_i x_i over
    the kept samples is the sum of x_i over all samples, for any x. Dropped samples have weight 0. K = 1 is one uniform
    draw from all samples with weight B, since two groups need two survivors.

    anneal: from epoch >= anneal * epochs on, everything is kept with weight 1 (more than the budget). With few epochs
    there may be no such epoch: 0.875 takes at least 8.
    """
    assert candidates.losses is not None
    below = below_mean(candidates.losses)
    if candidates.epoch >= anneal * candidates.epochs:
        kept, weights = torch.ones_like(below), torch.ones(len(below), dtype=torch.float64)
    else:
        group = below if budget.samples > 1 else torch.zeros_like(below)
        kept, weights = _draw_groups(group, candidates.numbers, budget.samples, rng, prune_at_most)
    log = {
        "below_mean_share": float(below.double().mean()),
        "kept_below_mean": int((kept & below).sum()),
        "kept_others": int((kept & ~below).sum()),
    }
    return replace(keep_prunable(kept, weights), log=log)


def below_mean(losses: Tensor) -> Tensor:
    """[B] bool: losses below the mean of the known ones; unknown (NaN) losses are not below it.

    The sum is exact, and n l < sum is compared instead of l < sum / n. So neither the order of the samples nor rounding
    decides, and none of equal losses is below their mean.
    """
    losses = losses.double()
    known = losses[~losses.isnan()]
    return losses * len(known) < math.fsum(known.tolist())


def _draw_groups(
    below: Tensor, numbers: Tensor, samples: int, rng: torch.Generator, prune_at_most: float
) -> tuple[Tensor, Tensor]:
    """(kept: [B] bool, weights: [B] float64) of one draw from the two groups; at least 1 of each group that has any.

    `samples` is at most B, and at least 2 where neither group is empty.
    """
    order = draw(numbers, rng)
    low, high = order[below[order]], order[~below[order]]
    m, others = len(low), len(high)
    thinned = (1 - prune_at_most) * m  # what stays below the mean at p_low = 1 - prune_at_most
    wanted = samples - others if samples - others >= thinned else round(samples * thinned / (thinned + others))
    least, most = max(samples - others, min(1, m)), min(m, samples - min(1, others))
    kept_low = min(max(wanted, least), most)
    kept, weights = torch.zeros_like(below), torch.zeros(len(below), dtype=torch.float64)
    for group, count in ((low, kept_low), (high, samples - kept_low)):
        kept[group[:count]] = True
        weights[group[:count]] = len(group) / max(1, count)
    return kept, weights
