"""Replay pruners on any recording: what is kept again, and what keeps its count."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import populations

from qtuning.pruners.base import Budget, Candidates
from qtuning.pruners.replay import random_samples, random_tokens, recorded_samples, recorded_tokens
from qtuning.train.seeding import generator


@settings(max_examples=120, deadline=None)
@given(candidates=populations(), seed=st.integers(0, 99))
def test_counts_of_any_recording(candidates: Candidates, seed: int) -> None:
    recorded, rng = candidates.recorded, generator(seed)
    assert recorded is not None
    budget = Budget.of(0.5, 0.5, len(candidates), candidates.tokens)
    lengths = candidates.lengths.tolist()
    counts = [int(part.sum()) for part in recorded.tokens.split(lengths)]

    again = recorded_samples(candidates, budget, rng)
    assert torch.equal(again.kept, recorded.kept)
    assert torch.equal(recorded_tokens(candidates, again, budget, rng), recorded.tokens)
    tokens = random_tokens(candidates, again, budget, rng)
    assert [int(part.sum()) for part in tokens.split(lengths)] == counts

    others = random_samples(candidates, budget, rng)
    chosen = others.kept.tolist()
    assert sum(chosen) == int(recorded.kept.sum())
    weights = torch.ones(len(lengths)) if others.weights is None else others.weights
    assert sorted(weights[others.kept].tolist()) == sorted(recorded.weights[recorded.kept].tolist())
    found = [int(part.sum()) for part in random_tokens(candidates, others, budget, rng).split(lengths)]
    assert sum(found) == min(sum(counts), sum(length for length, stays in zip(lengths, chosen, strict=True) if stays))
    assert all(
        1 <= count <= length if stays else count == 0
        for count, length, stays in zip(found, lengths, chosen, strict=True)
    )
    wanted = sorted((count for count in counts if count), reverse=True)
    by_length = sorted((length for length, stays in zip(lengths, chosen, strict=True) if stays), reverse=True)
    if all(length >= count for length, count in zip(by_length, wanted, strict=True)):
        assert sorted(count for count in found if count) == sorted(wanted), "where they fit, the counts are the same"
