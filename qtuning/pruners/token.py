"""Token pruners by loss or by chance (method.md, Baselines): masks over the N response tokens of a batch.

All but `keep_all` keep exactly `budget.tokens`, or every token of the selected samples if these hold fewer. Of equal
tokens those of the sample with the lower number stay, then the earlier ones (base.keep_highest).
"""

from typing import Literal

import torch
from torch import Tensor

from qtuning.pruners.base import (
    DROPPED,
    PRUNABLE,
    Budget,
    Candidates,
    SampleSelection,
    Within,
    draw,
    keep_highest,
    keep_highest_of_each,
    whole_share,
)


def keep_all(candidates: Candidates, selection: SampleSelection, budget: Budget, rng: torch.Generator) -> Tensor:
    """none: every response token of the selected samples, whatever the budget."""
    return selection.kept[candidates.owner]


def random_tokens(candidates: Candidates, selection: SampleSelection, budget: Budget, rng: torch.Generator) -> Tensor:
    """random: tokens of the selected samples, drawn without replacement."""
    owner = candidates.owner
    mask = selection.kept[owner]
    available = mask.nonzero().flatten()
    order = draw(candidates.numbers[owner[available]], rng)
    mask[available[order[budget.tokens :]]] = False
    return mask


def lowest_loss(
    candidates: Candidates,
    selection: SampleSelection,
    budget: Budget,
    rng: torch.Generator,
    *,
    within: Within = "batch",
) -> Tensor:
    """ppl: removes high-perplexity tokens, so keeps those with the lowest loss l_it (perplexity is exp(l_it))."""
    assert candidates.scores is not None
    return keep_highest(-candidates.scores.nll, candidates, selection, budget.tokens, within)


def highest_loss(
    candidates: Candidates,
    selection: SampleSelection,
    budget: Budget,
    rng: torch.Generator,
    *,
    within: Within = "batch",
) -> Tensor:
    """ppl-original: the tokens with the highest loss l_it, as selective back-propagation takes samples.

    The history of the authors' repository does the same.
    """
    assert candidates.scores is not None
    return keep_highest(candidates.scores.nll, candidates, selection, budget.tokens, within)


def excess_loss(
    candidates: Candidates,
    selection: SampleSelection,
    budget: Budget,
    rng: torch.Generator,
    *,
    within: Within | Literal["Q2"] = "batch",
) -> Tensor:
    """rho-1: the tokens with the highest excess loss l_it - l_it^ref over the reference model.

    Selective language modelling of Lin et al., NeurIPS 2024, arXiv 2404.07965. `Q2` puts it in the place of Q-Tuning's
    score (table 5): each Q2-like sample keeps r_token of its own tokens (Algorithm 1, line 29), others stay whole.
    """
    assert candidates.scores is not None and candidates.reference is not None
    excess = candidates.scores.nll - candidates.reference
    if within != "Q2":
        return keep_highest(excess, candidates, selection, budget.tokens, within)
    pairs = zip(candidates.lengths.tolist(), selection.role.tolist(), strict=True)
    counts = [
        0 if role == DROPPED else whole_share(budget.token_ratio, n) if role == PRUNABLE else n for n, role in pairs
    ]
    return keep_highest_of_each(excess, candidates.lengths, counts)


def most_influenced(
    candidates: Candidates,
    selection: SampleSelection,
    budget: Budget,
    rng: torch.Generator,
    *,
    keep: Literal["highest", "lowest"] = "highest",
) -> Tensor:
    """token-cleaning, self-evolving: the tokens whose loss the reference lowers most against the base model.

    Pang et al., ICML 2025, arXiv 2502.01968. Their threshold is one for the whole train set: there r_token of all
    response tokens are above it. So a batch keeps more or fewer than r_token of its own; if it has none above the
    threshold, it keeps the nearest one.
    """
    assert candidates.token_influence is not None
    place = candidates.token_influence if keep == "highest" else 1 - candidates.token_influence
    above = selection.kept[candidates.owner] & (place < budget.token_ratio)
    return above if bool(above.any()) else keep_highest(-place, candidates, selection, 1, "batch")
