"""Slow, plain references written from the method's description, in float64 and sharing no code with the package;
and the random samples they are tried on."""

from collections.abc import Sequence

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


# Inputs


def random_samples(shapes: Sequence[tuple[int, int]], seed: int, vocabulary: int = 97) -> list[Sample]:
    """Samples of (prompt, response) lengths, numbered from 10 in steps of 3, with random tokens above 2."""
    rng = torch.Generator().manual_seed(seed)
    return [
        Sample(10 + 3 * index, torch.randint(3, vocabulary, (prompt + response,), generator=rng), prompt)
        for index, (prompt, response) in enumerate(shapes)
    ]
