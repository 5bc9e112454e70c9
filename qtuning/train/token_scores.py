"""Scores of single tokens in the trace: of which samples they are kept, and how each is rounded to a byte.

They exist only at the moment of the decision: the next update changes the weights. All of them would outgrow what else
a cell leaves, so they are kept of a fixed draw of samples, the same one for all cells of a train set.
"""

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qtuning.data.samples import Sample

LEAST, EACH = 12_000, 4
"""Scores are kept of EACH response tokens per sample of the train set on average, and of LEAST in any case."""

SCALE, HIGHEST, UNKNOWN = 40.0, 254, 255
"""A value v in nats has the code round(SCALE * sqrt(v)), at most HIGHEST: (254 / 40)^2 = 40 nats."""

SEED = 0


def order_to_show(count: int) -> list[int]:
    """The positions 0 to count - 1 in a random order that depends on `count` alone. Who shows fewer takes the first."""
    order = list(range(count))
    random.Random(SEED).shuffle(order)
    return order


def draw_shown(samples: Sequence[Sample]) -> frozenset[int]:
    """Numbers of the samples whose token scores are kept: the first of the order, while their responses fit."""
    left, shown = max(LEAST, EACH * len(samples)), []
    for position in order_to_show(len(samples)):
        left -= samples[position].response_length
        if left < 0:
            break
        shown.append(samples[position].number)
    return frozenset(shown)


def encode(values: Tensor) -> Tensor:
    """[N] nats -> [N] uint8. The root keeps small values apart: near 1 nat the step is 0.05, near 0 it is 0.001."""
    # an entropy of 0 may come out a little below it
    return (values.clamp(min=0).sqrt() * SCALE).round().clamp(max=HIGHEST).to(torch.uint8)


def decode(codes: bytes) -> npt.NDArray[np.float64]:
    """[N] nats, from the bytes of `encode`; NaN where a value is not known."""
    numbers = np.frombuffer(codes, dtype=np.uint8)
    return np.where(numbers == UNKNOWN, np.nan, (numbers / SCALE) ** 2)


def scatter(values: Tensor, mask: Tensor) -> Tensor:
    """[N] codes: those of `values` where the mask is true, UNKNOWN elsewhere. values: one for each true place."""
    codes = torch.full(mask.shape, UNKNOWN, dtype=torch.uint8)
    codes[mask] = encode(values)
    return codes
