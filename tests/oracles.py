"""Slow, plain references written from the method's description, in float64 and sharing no code with the package;
and the random samples they are tried on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qtuning.data.samples import Sample

Array = NDArray[np.float64]


# Scores


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def token_nll(logits: Array, labels: Sequence[int]) -> Array:
    """-log p(label) of each row."""
    return np.array([-row[label] for row, label in zip(log_softmax(logits), labels, strict=True)])


def token_entropy(logits: Array) -> Array:
    """-sum p log p of each row, with 0 log 0 = 0."""
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    return -np.where(p > 0, p * np.where(p > 0, log_p, 0.0), 0.0).sum(axis=-1)


# Stage 1


def quantile(values: Sequence[float], level: float) -> float:
    """Linear interpolation between the two order statistics around rank level * (n - 1)."""
    ordered = sorted(values)
    rank = level * (len(ordered) - 1)
    below = math.floor(rank)
    if rank == below:
        return ordered[below]
    return ordered[below] + (rank - below) * (ordered[below + 1] - ordered[below])


def quadrant(ppl: Sequence[float], ent: Sequence[float], level: float) -> list[int]:
    """1..4 of each sample; 0 where it lies in neither tail of one axis."""
    result = []
    for error, uncertainty in zip(ppl, ent, strict=True):
        high_error, low_error = error > quantile(ppl, 1 - level), error <= quantile(ppl, level)
        unsure, sure = uncertainty > quantile(ent, 1 - level), uncertainty <= quantile(ent, level)
        found = [
            number
            for number, condition in (
                (1, high_error and unsure),
                (2, high_error and sure),
                (3, low_error and sure),
                (4, low_error and unsure),
            )
            if condition
        ]
        assert len(found) <= 1, "the tails of one axis do not overlap below level 0.5"
        result.append(found[0] if found else 0)
    return result


@dataclass
class Search:
    level: float
    quadrants: list[int]
    kept: float
    iterations: int
    converged: bool


def search(ppl: Sequence[float], ent: Sequence[float], ratio: float) -> Search:
    """Bisection of the common level in [0, 0.49]: at most 10 trials, until the kept share is within 0.01 of `ratio`."""
    bounds = [0.0, 0.49]
    for trial in range(1, 11):
        level = (bounds[0] + bounds[1]) / 2
        where = quadrant(ppl, ent, level)
        kept = sum(q in (2, 4) for q in where) / len(where)
        if abs(kept - ratio) <= 0.01:
            return Search(level, where, kept, trial, True)
        bounds[0 if kept < ratio else 1] = level
    return Search(level, where, kept, 10, False)


def scaled(values: Sequence[float]) -> list[float]:
    """Min-max normalised; zeros where all are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def triage(
    ppl: Sequence[float], ent: Sequence[float], numbers: Sequence[int], ratio: float
) -> tuple[dict[int, str], set[int], Search]:
    """({number: "prune" or "whole"} of the kept samples, the numbers that the supplement added, the search).

    Equal scores are settled by the number of the sample, lowest first.
    """
    wanted = max(1, round(ratio * len(ppl)))
    found = search(ppl, ent, ratio)
    error, uncertainty = scaled(ppl), scaled(ent)
    terms = {n: (e - u, u - e) for n, e, u in zip(numbers, error, uncertainty, strict=True)}

    def best_first(group: Sequence[int]) -> list[int]:
        return sorted(group, key=lambda n: (-max(terms[n]), n))

    inside = [n for n, q in zip(numbers, found.quadrants, strict=True) if q in (2, 4)]
    of = dict(zip(numbers, found.quadrants, strict=True))
    kept = {n: "prune" if of[n] == 2 else "whole" for n in best_first(inside)[:wanted]}
    outside = best_first([n for n in numbers if n not in inside])
    added = set(outside[: wanted - len(kept)])
    for n in added:
        kept[n] = "prune" if terms[n][0] > terms[n][1] else "whole"
    return kept, added, found


# Stage 2


def smoothed(ppl: Sequence[float], weight: float) -> list[float]:
    """s_t = (1 - lambda) PPL_t + lambda (PPL_{t-1} + PPL_{t+1}) of one response; outside of it PPL counts 0."""
    result = []
    for t, own in enumerate(ppl):
        before = ppl[t - 1] if t > 0 else 0.0
        after = ppl[t + 1] if t + 1 < len(ppl) else 0.0
        result.append((1 - weight) * own + weight * (before + after))
    return result


def surviving_tokens(
    responses: dict[int, Sequence[float]], roles: dict[int, str], budget: int, weight: float
) -> set[tuple[int, int]]:
    """(number, position) of the tokens that keep their loss. responses: token perplexities of each sample of the batch.

    Whole samples lose nothing; prunable ones lose their highest s until the batch holds `budget` tokens, but the batch
    never loses its last. Equal s: the sample with the lower number, then the earlier position, goes first.
    """
    alive = {(n, t) for n in roles for t in range(len(responses[n]))}
    scores = {(n, t): s for n in roles for t, s in enumerate(smoothed(responses[n], weight))}
    order = sorted((key for key in alive if roles[key[0]] == "prune"), key=lambda key: (-scores[key], key))
    for key in order:
        if len(alive) <= max(1, budget):
            break
        alive.remove(key)
    return alive


# Inputs


def random_samples(shapes: Sequence[tuple[int, int]], seed: int, vocabulary: int = 97) -> list[Sample]:
    """Samples of (prompt, response) lengths, numbered from 10 in steps of 3, with random tokens above 2."""
    rng = torch.Generator().manual_seed(seed)
    return [
        Sample(10 + 3 * index, torch.randint(3, vocabulary, (prompt + response,), generator=rng), prompt)
        for index, (prompt, response) in enumerate(shapes)
    ]
