"""DS2 (Pang et al., ICLR 2025, arXiv 2410.10877): corrects ratings by a score transition matrix, then adds diversity.

A rating r is taken for a noisy observation of a true score y. Near samples share the true score ("clusterability"), so
how often a sample and its two nearest neighbours have the ratings (a, b, c) tells T = P(r | y) and p = P(y) without any
true score:  P(a, b, c) = sum_i p_i T_ia T_ib T_ic, and its margins. What differs from the authors' code:

- Embeddings are the base model's (scoring/scores.py, `embed`) and not those of a text encoder (BGE).
- T and p solve the equations of all three orders in least squares by L-BFGS, where the code takes Adam and the sum of
  the norms. p starts at the frequencies of the ratings.
- Ratings are judged once with all samples as neighbours, where the code votes over 51 random subsets of 90%. So the
  confidence of a correction is the neighbours' share for it.
- Every distinct rating is a score of its own; a rating that rounding gives (0 to 5 in the paper) is the user's.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qtuning.errors import UserError
from qtuning.pruners.base import Budget, Candidates, SampleSelection, keep_first
from qtuning.pruners.once import unit

Array = NDArray[np.float64]
BLOCK = 1024  # samples whose similarities to all others exist at a time
SCORES = 20  # distinct ratings at most: the third order has the cube of their number of entries
DECIMALS = 6  # of a diversity; what lies beyond is rounding


def ds2(
    candidates: Candidates,
    budget: Budget,
    rng: torch.Generator,
    *,
    neighbours: int = 10,
    confidence: float = 0.5,
) -> SampleSelection:
    """The K samples of highest corrected rating; among equal ones those farthest from their neighbours (long tail).

    neighbours: k of the nearest neighbours that judge a rating, and of those whose mean distance is the long-tail
    score. confidence: the least share of the neighbours that must stand for a corrected rating. Fewer than three
    samples are not corrected.
    """
    assert candidates.ratings is not None and candidates.embeddings is not None
    by_number = torch.argsort(candidates.numbers)  # so that sums do not depend on the order of the candidates
    rating = candidates.ratings.column("rating")[by_number]
    similarity, nearest = nearest_neighbours(unit(candidates.embeddings[by_number]), neighbours)
    corrected = rating
    if len(rating) > 2:
        corrected = correct(rating, similarity, nearest, confidence)
    tail = torch.round(1 - similarity.double().mean(dim=1), decimals=DECIMALS)
    order = tail.sort(descending=True, stable=True).indices
    order = order[corrected[order].sort(descending=True, stable=True).indices]
    log = {
        "corrected_share": float((corrected != rating).double().mean()),
        "lowest_rating": float(corrected[order[budget.samples - 1]]),
    }
    return replace(keep_first(by_number[order], budget.samples), log=log)


def nearest_neighbours(embeddings: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """([B, k] cosine, [B, k] index) of each row's nearest other rows, nearest first; k = min(count, B - 1).

    embeddings: [B, H] of length 1. A single row has itself as its neighbour.
    """
    size = len(embeddings)
    found = []
    for start in range(0, size, BLOCK):
        similarity = embeddings[start : start + BLOCK] @ embeddings.T
        if size > 1:
            rows = torch.arange(len(similarity))
            similarity[rows, start + rows] = -torch.inf
        found.append(similarity.topk(min(count, max(1, size - 1)), dim=1))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def correct(rating: Tensor, similarity: Tensor, nearest: Tensor, confidence: float) -> Tensor:
    """[B]: the ratings, with those replaced that are likely wrong and for which the neighbours agree on another.

    Of the samples rated j, the share 1 - P(y = j | r = j) is held for wrong: those that their neighbours support least
    (Zhu et al. 2022, "Detecting Corrupted Labels Without Training a Model to Predict"). A sample counts among its own
    neighbours, a little nearer than the nearest.
    """
    values, label = torch.unique(rating, return_inverse=True)
    if len(values) > SCORES:
        raise UserError(
            f"train set: ratings: {len(values)} distinct values in the column 'rating'; DS2 corrects scores on a scale "
            f"of at most {SCORES} steps: round them"
        )
    matrix = transition_matrix(consensus(label, nearest, len(values)))
    first = similarity[:, :1]
    second = similarity[:, 1:2] if similarity.shape[1] > 1 else first
    near = torch.cat([2 * first - second, similarity], dim=1).double()
    weights = (1 + near) / 2  # above 0, and so is each sum of them
    votes = torch.zeros(len(rating), len(values), dtype=torch.float64)
    votes.scatter_add_(1, torch.cat([label[:, None], label[nearest]], dim=1), weights.clamp(min=0))
    support = (votes / votes.norm(dim=1, keepdim=True)).gather(1, label[:, None]).squeeze(1)
    doubtful = torch.zeros(len(rating), dtype=torch.bool)
    for score in range(len(values)):
        wrong = 1 - float(matrix.given_rating[score])
        wrong = 0.95 if wrong >= 1 else 0.05 if wrong <= 0 else wrong
        mine = label == score
        doubtful |= mine & (support <= support[mine].quantile(wrong))
    share, suggested = (votes / votes.sum(dim=1, keepdim=True)).max(dim=1)
    return torch.where(doubtful & (share >= confidence), values[suggested], rating)


def consensus(label: Tensor, nearest: Tensor, classes: int) -> Array:
    """[C, C, C]: shares of the samples whose own label and those of their two nearest neighbours are (a, b, c)."""
    second = nearest[:, min(1, nearest.shape[1] - 1)]
    cells = (label * classes + label[nearest[:, 0]]) * classes + label[second]
    counts: Array = torch.bincount(cells, minlength=classes**3).double().reshape(classes, classes, classes).numpy()
    return counts / len(label)


@dataclass(frozen=True)
class Transition:
    """What ratings say of true scores.

    matrix: T, [C, C], P(rating = j | true = i) in row i. prior: p, [C], P(true = i). given_rating: [C], P(true = j |
    rating = j).
    """

    matrix: Array
    prior: Array
    given_rating: Array


def transition_matrix(shares: Array) -> Transition:
    """T and p whose consensus of the first, second and third order is nearest to the observed one.

    shares: [C, C, C], `consensus`. Rows of T and p are softmaxes, so that they stay distributions. The equations do not
    say which true score is which; of all orders we take the one in which ratings are right most often.
    """
    from scipy.optimize import (
        linear_sum_assignment,
        minimize,
    )  # takes a second to import, which other trainings need not spend

    classes = len(shares)
    observed = shares.sum(axis=(1, 2)), shares.sum(axis=2), shares
    start = np.concatenate([(5 * np.eye(classes)).ravel(), np.log(observed[0].clip(1e-6))])

    def loss(x: Array) -> tuple[float, Array]:
        matrix, prior = _split(x)
        second = np.einsum("i,ia,ib->ab", prior, matrix, matrix)
        third = np.einsum("iab,ic->abc", np.einsum("i,ia,ib->iab", prior, matrix, matrix), matrix)
        gaps = prior @ matrix - observed[0], second - observed[1], third - observed[2]
        # derivatives by T and p; the second order is T twice, the third three times, in places that are not alike
        by_pair = np.einsum("abc,ic->iab", gaps[2], matrix)
        one = gaps[0][None] + matrix @ (gaps[1] + gaps[1].T)
        one += np.einsum("iab,ib->ia", by_pair, matrix) + np.einsum("iba,ib->ia", by_pair, matrix)
        one += np.einsum("abc,ia,ib->ic", gaps[2], matrix, matrix)
        by_prior = matrix @ gaps[0] + np.einsum("ab,ia,ib->i", gaps[1], matrix, matrix)
        by_prior += np.einsum("iab,ia,ib->i", by_pair, matrix, matrix)
        gradient = np.concatenate(
            [
                _through_softmax(one * prior[:, None], matrix).ravel(),
                _through_softmax(by_prior[None], prior[None]).ravel(),
            ]
        )
        return sum(float((gap**2).sum()) for gap in gaps), 2 * gradient

    found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    matrix, prior = _split(found.x)
    order = linear_sum_assignment((matrix * prior[:, None]).T, maximize=True)[1]
    matrix, prior = matrix[order], prior[order]
    given = np.diag(matrix) * prior / observed[0].clip(1e-12)
    return Transition(matrix, prior, given)


def _split(x: Array) -> tuple[Array, Array]:
    """(T, p) of the numbers that are optimised."""
    classes = round((np.sqrt(1 + 4 * len(x)) - 1) / 2)
    return _softmax(x[: classes**2].reshape(classes, classes)), _softmax(x[None, classes**2 :])[0]


def _softmax(rows: Array) -> Array:
    powers: Array = np.exp(rows - rows.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _through_softmax(gradient: Array, rows: Array) -> Array:
    """The gradient by the logits, from that by their softmax `rows`."""
    result: Array = rows * (gradient - (gradient * rows).sum(axis=1, keepdims=True))
    return result
