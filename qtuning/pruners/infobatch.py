"""InfoBatch under a budget of K samples: as the Q-Tuning paper describes it, and as its own paper defines it.

The Q-Tuning paper (v2, appendix B.3) keeps the "samples expected to yield the largest gradient updates". It says
nothing of weights. `largest_losses` takes the last known loss for that expectation.

Qin et al. (ICLR 2024, arXiv 2303.04947), `infobatch`, prune a random share of the samples whose loss is below the mean.
They multiply the losses of the survivors by 1 / (1 - share), so that the expected gradient is that of the full data,
and return to the full data in the last epochs. Samples at or above the mean always stay. If half of the data is below
the mean, a budget under 50% is therefore out of reach, and just above 50% the few survivors get huge weights. So we
thin the other group, too, once the option `prune_at_most` (the largest share of the samples below the mean that may go)
is used up. Of m samples below the mean we keep the share p_low, of the a others the share p_high, with
p_low m + p_high a = K:

    p_high = 1, p_low = (K - a) / m          if this p_low >= 1 - prune_at_most: the paper's rule
    p_low  = (1 - prune_at_most) p_high      otherwise: both groups are thinned, at this fixed ratio

The first epoch knows no losses. Qin et al. take the full data then; under a budget it is a uniform draw with weights
B / K.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from qtuning.pruners.base import Budget, Candidates, SampleSelection, draw, keep_first, keep_prunable, ranking


def largest_losses(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """infobatch: the K = budget.samples samples of highest loss in their last update; all weigh 1.

    Under a budget most samples have never been trained, so their losses are not known. They count as if they had the
    mean of the known losses, and come in random order among themselves: kept are, in this order, known losses at or
    above the mean from the highest down, unknown ones, and known ones below the mean from the highest down. While none
    is known this is a uniform draw.
    """
    losses = candidates.losses
    assert losses is not None
    chance = torch.empty_like(candidates.numbers)
    chance[draw(candidates.numbers, rng)] = torch.arange(len(candidates))
    order = ranking(losses.nan_to_num(0.0), chance)
    group = losses.isnan().long() + 2 * below_mean(losses).long()
    return keep_first(order[torch.argsort(group[order], stable=True)], budget.samples)


def infobatch(
    candidates: Candidates,
    budget: Budget,
    rng: torch.Generator,
    *,
    prune_at_most: float = 0.75,
    anneal: float = 0.875,
) -> SampleSelection:
    """infobatch-original: exactly K = budget.samples samples, drawn from the two groups; weights undo the draw.

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
