"""Sample pruners that select once, before training: Alpagasus, Deita and LESS (method.md, Baselines). DS2 is in ds2.py.

All keep exactly K = budget.samples. Ratings come with the train set (docs/data.md), embeddings from the base model,
influence from the workflow (train/influence.py).
"""

from dataclasses import replace

import torch
from torch import Tensor

from qtuning.pruners.base import Budget, Candidates, SampleSelection, draw, keep_first, ranking

BLOCK = 256  # samples whose similarities to the kept ones are computed together


def alpagasus(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """alpagasus (Chen et al. 2023, arXiv 2307.08701): the K samples of highest rating.

    The paper keeps what ChatGPT rates 4.5 or more of 5, which sets the amount; here the budget does, and the rating of
    the last kept sample is logged. Ratings are coarse, so ties are many: among equal ratings chance decides.
    """
    assert candidates.ratings is not None
    ratings = candidates.ratings.column("rating")
    order = draw(candidates.numbers, rng)
    order = order[ratings[order].sort(descending=True, stable=True).indices]
    lowest = float(ratings[order[budget.samples - 1]])
    return replace(keep_first(order, budget.samples), log={"lowest_rating": lowest})


def deita(candidates: Candidates, budget: Budget, rng: torch.Generator, *, threshold: float = 0.9) -> SampleSelection:
    """deita (Liu et al. 2023, arXiv 2312.15685): the highest complexity x quality that are not near a kept sample.

    In the order of that product, a sample is skipped if the cosine of its embedding to one kept before exceeds
    `threshold`. If fewer than K remain, the best of the skipped fill the budget, so that all methods spend the same;
    the log counts them (`filled`). The paper's embeddings are the last token's state under LLaMA-13B; ours are the mean
    of the states under the base model (scoring/scores.py, `embed`).
    """
    assert candidates.ratings is not None and candidates.embeddings is not None
    value = candidates.ratings.column("complexity") * candidates.ratings.column("quality")
    order = ranking(value, candidates.numbers)
    chosen = apart(unit(candidates.embeddings)[order], threshold, budget.samples)
    skipped = torch.ones(len(order), dtype=torch.bool)
    skipped[chosen] = False
    filled = budget.samples - len(chosen)
    order = torch.cat([order[chosen], order[skipped]])
    return replace(keep_first(order, budget.samples), log={"filled": filled})


def less(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """less (Xia et al. 2024, arXiv 2402.04333): the K samples of highest influence on any group of target examples.

    `candidates.influence` has a column for each group (train/influence.py); the largest counts (LESS, section 4.2).
    """
    assert candidates.influence is not None
    return keep_first(ranking(candidates.influence.amax(dim=1), candidates.numbers), budget.samples)


def unit(embeddings: Tensor) -> Tensor:
    """[B, H]: the embeddings at length 1, so that products are cosines; zero stays zero."""
    return torch.nn.functional.normalize(embeddings.float(), dim=1)


def apart(embeddings: Tensor, threshold: float, count: int) -> Tensor:
    """[k] int64, k <= count: the first rows that are no nearer to an earlier chosen one than the cosine `threshold`.

    embeddings: [B, H] of length 1. The first row is always chosen.
    """
    chosen: list[int] = []
    for start in range(0, len(embeddings), BLOCK):
        block = embeddings[start : start + BLOCK]
        near = torch.zeros(len(block), dtype=torch.bool)
        if chosen:
            near = (block @ embeddings[torch.tensor(chosen)].T > threshold).any(dim=1)
        within = block @ block.T > threshold
        for row in range(len(block)):
            if not near[row]:
                chosen.append(start + row)
                near |= within[row]
                if len(chosen) == count:
                    return torch.tensor(chosen)
    return torch.tensor(chosen)
