"""Random and hostile candidates, and the same candidates in another order; for the tests of pruners."""

import math
import random
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from qtuning.pruners.base import Candidates, Instructions, SampleSelection, keep_prunable
from qtuning.scoring.scores import BatchScores, TokenAttention

# nats in multiples of 1/64 have exact sums in any order; the second line is made of ties, the third of extremes
NATS = (
    [n / 64 for n in range(1600)],
    [0.0, 0.5, 3.0],
    [0.0, 0.25, 701.0, 702.0, 1e6],
)
RATIOS = st.sampled_from([1e-4, 0.0078125, 0.125, 0.25, 0.5, 0.7, 1.0]) | st.floats(1e-3, 1.0)


@st.composite
def populations(draw: st.DrawFn, samples: int = 12, tokens: int = 6) -> Candidates:
    """1 to `samples` candidates of 1 to `tokens` response tokens, numbered in any order, all fields filled.

    The shape is drawn by hypothesis and shrinks; the numbers come from a seed, which is ten times faster.
    """
    lengths = draw(st.lists(st.integers(1, tokens), min_size=1, max_size=samples))
    nats = draw(st.sampled_from(NATS))
    rng = random.Random(draw(st.integers(0, 2**32)))
    count, total = len(lengths), sum(lengths)

    def floats(values: list[float], size: int) -> Tensor:
        return torch.tensor(rng.choices(values, k=size), dtype=torch.float64)

    def integers(low: int, high: int) -> Tensor:
        return torch.tensor(rng.choices(range(low, high + 1), k=count))

    attention = [n / 8 for n in range(9)]
    return Candidates(
        torch.tensor(rng.sample(range(3 * count), count)),
        torch.tensor(lengths),
        BatchScores(floats(nats, total), floats(nats, total), torch.tensor(lengths)),
        attention=TokenAttention(floats(attention, total), floats(attention, total), integers(0, tokens + 2)),
        reference=floats(nats, total),
        losses=floats([*nats, *[math.nan] * (len(nats) // 3)], count),
        instructions=Instructions(integers(1, 5), floats(nats, count)),
        epoch=0,
        epochs=3,
    )


@st.composite
def populations_selected(draw: st.DrawFn) -> tuple[Candidates, SampleSelection]:
    """Candidates of which at least one is selected."""
    candidates = draw(populations())
    pattern = draw(st.integers(1, 2 ** len(candidates) - 1))
    return candidates, keep_prunable(torch.tensor([bool(pattern >> index & 1) for index in range(len(candidates))]))


def reordered(candidates: Candidates, order: Tensor) -> tuple[Candidates, Tensor]:
    """The candidates in `order` (indices), and where each of their tokens was before: [N] indices."""
    assert candidates.scores is not None and candidates.attention is not None
    assert candidates.reference is not None and candidates.losses is not None and candidates.instructions is not None
    tokens = torch.cat([torch.arange(len(candidates.owner))[candidates.owner == index] for index in order.tolist()])
    scores, attention, texts = candidates.scores, candidates.attention, candidates.instructions
    return replace(
        candidates,
        numbers=candidates.numbers[order],
        lengths=candidates.lengths[order],
        scores=BatchScores(scores.nll[tokens], scores.entropy[tokens], scores.lengths[order]),
        attention=TokenAttention(attention.received[tokens], attention.rated[tokens], attention.rank[order]),
        reference=candidates.reference[tokens],
        losses=candidates.losses[order],
        instructions=Instructions(texts.characters[order], texts.entropy[order]),
    ), tokens


def orders(candidates: Candidates) -> st.SearchStrategy[Tensor]:
    return st.permutations(range(len(candidates))).map(torch.tensor)


def token_means(values: Tensor, lengths: Tensor) -> list[float]:
    """The mean of each sample's tokens, in plain Python."""
    ends, flat = torch.cumsum(lengths, 0).tolist(), values.tolist()
    return [sum(flat[end - size : end]) / size for end, size in zip(ends, lengths.tolist(), strict=True)]


def first(candidates: Candidates, keys: list[float], count: int) -> list[bool]:
    """Which samples are among the `count` of lowest key, equal ones by number."""
    numbers = candidates.numbers.tolist()
    best = sorted(zip(keys, numbers, strict=True))[:count]
    return [(key, number) in best for key, number in zip(keys, numbers, strict=True)]
