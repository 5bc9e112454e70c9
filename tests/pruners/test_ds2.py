"""DS2: the transition matrix from made-up true scores, neighbours and corrections against slow references."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from populations import budget_of

from qtuning.errors import UserError
from qtuning.pruners.base import Candidates, Ratings
from qtuning.pruners.ds2 import Array, consensus, correct, ds2, nearest_neighbours, transition_matrix
from qtuning.pruners.once import unit
from qtuning.train.seeding import generator

TRUE = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.05, 0.2, 0.75]])
PRIOR = np.array([0.2, 0.5, 0.3])


def consensus_by_hand(matrix: Array, prior: Array) -> Array:
    """P(own = a, first neighbour = b, second = c), when all three share one true score."""
    classes = len(prior)
    shares = np.zeros((classes,) * 3)
    for a, b, c, i in product(range(classes), repeat=4):
        shares[a, b, c] += prior[i] * matrix[i, a] * matrix[i, b] * matrix[i, c]
    return shares


def test_the_transition_matrix_is_found_without_true_scores() -> None:
    found = transition_matrix(consensus_by_hand(TRUE, PRIOR))
    np.testing.assert_allclose(found.matrix, TRUE, atol=2e-3)
    np.testing.assert_allclose(found.prior, PRIOR, atol=2e-3)
    given = [PRIOR[j] * TRUE[j, j] / sum(PRIOR[i] * TRUE[i, j] for i in range(3)) for j in range(3)]
    np.testing.assert_allclose(found.given_rating, given, atol=5e-3)


def test_it_solves_the_equations_as_gradient_descent_on_them_does() -> None:
    """The paper's way: descend on T and p, here by autograd on the consensus of all three orders."""
    observed = torch.from_numpy(consensus_by_hand(TRUE, PRIOR) + 0.01 * np.random.default_rng(0).random((3, 3, 3)))
    observed /= observed.sum()
    logits = (5 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    prior_logits = observed.sum((1, 2)).log().requires_grad_()
    descent = torch.optim.Adam([logits, prior_logits], lr=0.05)
    for _ in range(1500):
        t, p = logits.softmax(1), prior_logits.softmax(0)
        third = torch.einsum("i,ia,ib,ic->abc", p, t, t, t)
        gaps = [third.sum((1, 2)) - observed.sum((1, 2)), third.sum(2) - observed.sum(2), third - observed]
        loss = sum(gap.square().sum() for gap in gaps)
        descent.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        descent.step()
    found = transition_matrix(observed.numpy())
    np.testing.assert_allclose(found.matrix, t.detach().numpy(), atol=5e-3)
    np.testing.assert_allclose(found.prior, p.detach().numpy(), atol=5e-3)


def clusters(noise: float, seed: int = 0) -> tuple[Candidates, torch.Tensor]:
    """300 samples in clusters of ten, which share a true score; a share of the ratings is wrong."""
    rng = np.random.default_rng(seed)
    scores = np.repeat(rng.integers(0, 4, 30), 10)
    centres = np.repeat(rng.normal(size=(30, 8)), 10, axis=0)
    points = torch.from_numpy(centres + 0.05 * rng.normal(size=centres.shape)).float()
    wrong = rng.random(300) < noise
    ratings = np.where(wrong, (scores + rng.integers(1, 4, 300)) % 4, scores)
    numbers = torch.from_numpy(rng.permutation(300))
    known = Ratings(rating=torch.from_numpy(ratings).double())
    return Candidates(numbers, torch.ones(300).long(), ratings=known, embeddings=points), torch.from_numpy(
        scores
    ).double()


def neighbours_by_hand(points: torch.Tensor, count: int) -> list[list[int]]:
    rows = [[float(x) for x in row] for row in points.double()]

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    return [
        sorted((j for j in range(len(rows)) if j != i), key=lambda j: -cosine(rows[i], rows[j]))[:count]
        for i in range(len(rows))
    ]


def test_neighbours_and_their_consensus(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, _ = clusters(0.3)
    assert candidates.embeddings is not None and candidates.ratings is not None
    points = candidates.embeddings[::6]
    monkeypatch.setattr("qtuning.pruners.ds2.BLOCK", 7)
    similarity, nearest = nearest_neighbours(unit(points), 5)
    expected = neighbours_by_hand(points, 5)
    assert nearest.tolist() == expected
    assert similarity[3, 2] == pytest.approx(float(torch.cosine_similarity(points[3], points[expected[3][2]], dim=0)))
    label = candidates.ratings.column("rating")[::6].long()
    shares = consensus(label, nearest, 4)
    for a, b, c in product(range(4), repeat=3):
        same = [i for i, near in enumerate(expected) if [label[i], label[near[0]], label[near[1]]] == [a, b, c]]
        assert shares[a, b, c] == pytest.approx(len(same) / len(points))


def test_most_wrong_ratings_are_corrected_and_few_right_ones() -> None:
    candidates, truth = clusters(0.3)
    assert candidates.embeddings is not None and candidates.ratings is not None
    ratings = candidates.ratings.column("rating")
    corrected = correct(ratings, *nearest_neighbours(unit(candidates.embeddings), 10), 0.5)
    before, after = float((ratings == truth).double().mean()), float((corrected == truth).double().mean())
    assert before < 0.75 and after > 0.9
    nothing = correct(ratings, *nearest_neighbours(unit(candidates.embeddings), 10), 1.0)
    assert float((nothing != ratings).double().mean()) < 0.05, "a correction must be unanimous at confidence 1"


def test_corrected_scores_go_first_then_the_long_tail() -> None:
    candidates, _ = clusters(0.3)
    assert candidates.embeddings is not None and candidates.ratings is not None
    selection = ds2(candidates, budget_of(candidates, 0.25), generator(0))
    order = torch.argsort(candidates.numbers)
    similarity, nearest = nearest_neighbours(unit(candidates.embeddings[order]), 10)
    corrected = correct(candidates.ratings.column("rating")[order], similarity, nearest, 0.5).tolist()
    tail = [round(1 - sum(row) / 10, 6) for row in similarity.double().tolist()]
    best = sorted(range(300), key=lambda index: (-corrected[index], -tail[index], index))[:75]
    assert set(order[torch.tensor(best)].tolist()) == set(selection.kept.nonzero().flatten().tolist())
    assert selection.log["lowest_rating"] == corrected[best[-1]] and selection.log["corrected_share"] > 0.1


def test_ratings_that_are_no_scale_are_refused() -> None:
    candidates, _ = clusters(0.0)
    fine = Ratings(rating=torch.arange(300).double())
    with pytest.raises(UserError, match=r"300 distinct values in the column 'rating'.*round them$"):
        ds2(
            Candidates(candidates.numbers, candidates.lengths, ratings=fine, embeddings=candidates.embeddings),
            budget_of(candidates, 0.5),
            generator(0),
        )
