"""Baselines as the authors' repository once implemented them (docs/method.md, Baselines, third column).

They differ from the definitions in the baselines' own papers. Their names end in `-history`.
"""

import torch
from torch import Tensor

from qtuning.pruners.base import (
    Budget,
    Candidates,
    SampleSelection,
    draw,
    keep_first,
    keep_highest_of_each,
    keep_prunable,
    ranking,
)
from qtuning.pruners.infobatch import below_mean


def shortest_instructions(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """longest-history: the K samples with the fewest characters in the instruction."""
    assert candidates.instructions is not None
    return keep_first(ranking(-candidates.instructions.characters, candidates.numbers), budget.samples)


def lowest_character_entropy(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """entropy-history: the K samples whose instruction has the lowest Shannon entropy of its characters."""
    assert candidates.instructions is not None
    return keep_first(ranking(-candidates.instructions.entropy, candidates.numbers), budget.samples)


def infobatch_subsampled(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """infobatch-history: draws round(r_sample m) of the m samples below the mean loss, then K of the resulting list.

    Survivors below the mean weigh 1 / r_sample, the others 1, dropped samples 0. How the history cuts the list is not
    known; here both cuts are random draws. No weight makes up for the second cut, so the gradient is not that of the
    full data. While no losses are known, K samples are drawn, and all weigh 1.
    """
    assert candidates.losses is not None
    below = below_mean(candidates.losses)
    first, second = draw(candidates.numbers, rng), draw(candidates.numbers, rng)
    well_learned = first[below[first]]
    listed = ~below
    listed[well_learned[: round(budget.sample_ratio * len(well_learned))]] = True
    kept = torch.zeros_like(below)
    kept[second[listed[second]][: budget.samples]] = True
    weights = kept.double()
    weights[kept & below] = 1 / budget.sample_ratio
    return keep_prunable(kept, weights)


def sparsevlm_by_rank(
    candidates: Candidates,
    selection: SampleSelection,
    budget: Budget,
    rng: torch.Generator,
    *,
    layer: int = -1,
) -> Tensor:
    """sparsevlm-history: of each selected sample the rank_i tokens that receive the LEAST attention.

    Keeps min(|T_i|, max(1, rank_i)) tokens; of equal ones the earlier. It ignores the budget, as tables 1 and 2 show
    the same rows at 50% and 70% of the tokens. `layer` is not used here: `candidates.attention` is that of this layer.
    """
    assert candidates.attention is not None and candidates.attention.rank is not None
    counts = candidates.attention.rank.clamp(min=1) * selection.kept
    return keep_highest_of_each(-candidates.attention.received, candidates.lengths, counts.tolist())
