"""Random and hostile candidates, and the same candidates in another order; for the tests of pruners."""

import math
import random

import torch
from hypothesis import strategies as st
from torch import Tensor

from qtuning.experiment.truth import KINDS
from qtuning.pruners.base import (
    Budget,
    Candidates,
    Instructions,
    PreviousScores,
    Ratings,
    Recorded,
    SampleSelection,
    keep_prunable,
)
from qtuning.scoring.scores import BatchScores, TokenAttention

# nats in multiples of 1/64 have exact sums in any order; the second line is made of ties, the third of extremes
NATS = (
    [n / 64 for n in range(1600)],
    [0.0, 0.5, 3.0],
    [0.0, 0.25, 701.0, 702.0, 1e6],
)
RATIOS = st.sampled_from([1e-4, 0.0078125, 0.125, 0.25, 0.5, 0.7, 1.0]) | st.floats(1e-3, 1.0)


def budget_of(candidates: Candidates, samples: float = 1.0, tokens: float = 1.0) -> Budget:
    """The budget of these candidates at the ratios."""
    return Budget.of(samples, tokens, len(candidates), candidates.tokens)


def exactly(tokens: int) -> Budget:
    """A budget of so many tokens."""
    return Budget(1.0, 1.0, 1, tokens)


def candidates_of(lengths: list[int]) -> Candidates:
    """Candidates of which nothing is known but how long they are."""
    return Candidates(torch.arange(len(lengths)) * 5 + 2, torch.tensor(lengths))


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
        token_influence=torch.tensor([(place + 0.5) / total for place in rng.sample(range(total), total)]).double(),
        losses=floats([*nats, *[math.nan] * (len(nats) // 3)], count),
        instructions=Instructions(integers(1, 5), floats(nats, count)),
        prompts=integers(1, 5),
        ratings=Ratings(*(integers(0, 5).double() for _ in range(3))),
        embeddings=floats([-1.0, 0.0, 1.0], 3 * count).reshape(count, 3).float(),
        influence=floats(attention, 2 * count).reshape(count, 2),
        kinds=integers(0, len(KINDS) - 1),
        wrong=torch.tensor(rng.choices([False, False, True], k=total)),
        recorded=_recorded(lengths, rng),
        previous=PreviousScores(*(floats([*nats, math.nan], count) for _ in range(2))),
        epoch=0,
        epochs=3,
    )


def _recorded(lengths: list[int], rng: random.Random) -> Recorded:
    """A decision that kept one sample or more, and of each one token or more."""
    kept = [rng.random() < 0.4 for _ in lengths]
    kept[rng.randrange(len(kept))] = True
    tokens = []
    for length, stays in zip(lengths, kept, strict=True):
        some = rng.sample(range(length), rng.randint(1, length)) if stays else []
        tokens += [place in some for place in range(length)]
    weights = [rng.choice([1.0, 1.5]) if stays else 1.0 for stays in kept]
    return Recorded(torch.tensor(kept), torch.tensor(weights, dtype=torch.float64), torch.tensor(tokens))


@st.composite
def populations_selected(draw: st.DrawFn) -> tuple[Candidates, SampleSelection]:
    """Candidates of which at least one is selected."""
    candidates = draw(populations())
    pattern = draw(st.integers(1, 2 ** len(candidates) - 1))
    return candidates, keep_prunable(torch.tensor([bool(pattern >> index & 1) for index in range(len(candidates))]))


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
