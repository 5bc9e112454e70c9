"""Batches that pruners are tried on (conformance.py): random ones, and degenerate ones."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qtuning.experiment.truth import KINDS
from qtuning.pruners.base import (
    DROPPED,
    PRUNABLE,
    WHOLE,
    Budget,
    Candidates,
    Instructions,
    PreviousScores,
    Ratings,
    Recorded,
    SampleSelection,
    keep_first,
    ranking,
)
from qtuning.pruners.method import concatenate
from qtuning.scoring.scores import BatchScores, TokenAttention


@dataclass(frozen=True)
class Specimen:
    """One decision to be made. selection: for token pruners; sample pruners choose from all candidates."""

    name: str
    candidates: Candidates
    selection: SampleSelection
    budget: Budget
    seed: int

    @property
    def rng(self) -> torch.Generator:
        """A fresh generator, the same each time."""
        return torch.Generator().manual_seed(self.seed)


def specimen(name: str, candidates: Candidates, ratios: tuple[float, float], seed: int) -> Specimen:
    """A decision at a budget. For token pruners a random r_sample of the candidates is selected."""
    budget = Budget.of(*ratios, len(candidates), candidates.tokens)
    keys = torch.rand(len(candidates), generator=torch.Generator().manual_seed(seed + 1))
    return Specimen(name, candidates, keep_first(ranking(keys), budget.samples), budget, seed)


def random_candidates(count: int, seed: int, longest: int = 40) -> Candidates:
    """`count` samples with every field filled; a fifth of them was never trained (losses NaN)."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=rng)
    total = int(lengths.sum())

    def floats(size: int, scale: float) -> Tensor:
        return torch.rand(size, generator=rng, dtype=torch.float64) * scale

    def integers(high: int) -> Tensor:
        return torch.randint(1, high, (count,), generator=rng)

    hardness = torch.repeat_interleave(floats(count, 1.0), lengths)
    losses = floats(count, 4.0)
    losses[floats(count, 1.0) < 0.2] = math.nan
    return Candidates(
        numbers=torch.randperm(10 * count, generator=rng)[:count],
        lengths=lengths,
        prompts=integers(50),
        scores=BatchScores(floats(total, 6.0) * hardness, floats(total, 5.0) * hardness, lengths, floats(count, 3.0)),
        attention=TokenAttention(floats(total, 0.1), floats(total, 0.1), integers(20)),
        reference=floats(total, 4.0),
        # as if these samples were the train set
        token_influence=(torch.randperm(total, generator=rng) + 0.5).double() / total,
        losses=losses,
        instructions=Instructions(integers(500), floats(count, 4.0)),
        ratings=Ratings(integers(6).double(), integers(6).double(), integers(6).double()),
        embeddings=torch.randn(count, 6, generator=rng),
        influence=floats(3 * count, 1.0).reshape(count, 3),
        kinds=torch.randint(0, len(KINDS), (count,), generator=rng),
        wrong=floats(total, 1.0) < 0.2,
        recorded=_recorded(lengths, rng),
        previous=_previous(losses, rng),
        epoch=seed % 3,
        epochs=3,
    )


def _previous(losses: Tensor, rng: torch.Generator) -> PreviousScores:
    """Scores where the losses are known."""
    ppl, ent = (torch.rand(len(losses), generator=rng, dtype=torch.float64) for _ in range(2))
    unknown = losses.isnan()
    return PreviousScores((4 * ppl).exp().where(~unknown, math.nan), (3 * ent).where(~unknown, math.nan))


def _recorded(lengths: Tensor, rng: torch.Generator) -> Recorded:
    """A decision by chance: the first sample and some others were kept, of each its first token and some others."""
    kept = torch.rand(len(lengths), generator=rng) < 0.4
    kept[0] = True
    tokens = torch.rand(int(lengths.sum()), generator=rng) < 0.5
    tokens[torch.cumsum(lengths, 0) - lengths] = True
    weights = torch.rand(len(lengths), generator=rng, dtype=torch.float64).where(kept, 1.0)
    return Recorded(kept, weights, tokens & torch.repeat_interleave(kept, lengths))


def random_batches() -> list[Specimen]:
    """Batches of the sizes and budgets that experiments use."""
    shapes = [(8, 0.25, 0.5), (8, 0.5, 0.7), (16, 0.125, 0.5), (33, 0.25, 0.7), (100, 0.5, 0.5), (7, 1.0, 0.5)]
    return [
        specimen(f"{count} samples at {100 * r_s:g}x{100 * r_t:g}", random_candidates(count, seed), (r_s, r_t), seed)
        for seed, (count, r_s, r_t) in enumerate(shapes)
    ]


def ordinary() -> list[Specimen]:
    """The random batches, and one where every sample has an equal."""
    once = random_candidates(8, 10)
    twice = concatenate([once, replace(once, numbers=once.numbers + 1000)])
    # K = 5 of 8 pairs: one pair at least is torn apart
    return [*random_batches(), specimen("8 samples, each there twice, at 30x50", twice, (0.3, 0.5), 10)]


def degenerate() -> Iterator[Specimen]:
    """Batches that any long training meets. No pruner may crash on them, or keep nothing."""
    half = (0.5, 0.5)
    yield specimen("batch of one", random_candidates(1, 11), half, 11)
    yield specimen("batch of one with one token", random_candidates(1, 12, longest=1), half, 12)
    yield specimen("one-token responses", random_candidates(16, 13, longest=1), half, 13)
    usual = random_candidates(12, 14)
    assert usual.scores is not None
    lengths = usual.lengths

    def scored(nll: Tensor, entropy: Tensor) -> Candidates:
        sequence = torch.stack([part.mean() for part in entropy.split(lengths.tolist())])
        return replace(usual, scores=BatchScores(nll, entropy, lengths, sequence), reference=torch.zeros_like(nll))

    flat = torch.ones(usual.tokens, dtype=torch.float64)
    rising = torch.repeat_interleave(torch.arange(12, dtype=torch.float64), lengths)
    yield specimen("equal scores", scored(flat, flat), half, 14)
    yield specimen("two values only", scored((rising % 2), (rising % 2).flip(0)), half, 15)
    yield specimen("perplexity beyond float64", scored(1e6 * (rising + 1), flat), half, 16)
    yield specimen("error and uncertainty agree (Q1 and Q3 only)", scored(rising, rising), half, 17)
    yield specimen("error and uncertainty oppose (Q2 and Q4 only)", scored(rising, 11 - rising), half, 18)
    unknown = torch.full((12,), math.nan, dtype=torch.float64)
    never = replace(usual, losses=unknown, previous=PreviousScores(unknown, unknown))
    yield specimen("no sample was ever trained", never, half, 19)
    equal = Instructions(torch.full((12,), 5), torch.zeros(12, dtype=torch.float64))
    yield specimen("equal texts", replace(usual, instructions=equal), half, 20)
    same = torch.ones(12, dtype=torch.float64)
    yield specimen("equal ratings", replace(usual, ratings=Ratings(same, same, same)), half, 25)
    yield specimen("equal embeddings", replace(usual, embeddings=torch.ones(12, 6)), half, 26)
    yield specimen("embeddings of length zero", replace(usual, embeddings=torch.zeros(12, 6)), half, 27)
    yield specimen("equal influence", replace(usual, influence=torch.zeros(12, 3, dtype=torch.float64)), half, 28)
    yield specimen("noise alone", replace(usual, kinds=torch.full((12,), KINDS.index("noise"))), half, 29)
    for name, wrong in (("every token is wrong", torch.ones), ("no token is wrong", torch.zeros)):
        yield specimen(name, replace(usual, wrong=wrong(usual.tokens, dtype=torch.bool)), half, 30)
    yield specimen("a budget that rounds to nothing", usual, (1e-4, 1e-4), 21)
    yield specimen("equal scores and a budget that rounds to nothing", scored(flat, flat), (1e-4, 1e-4), 23)
    yield specimen("equal scores at a ratio of 1", scored(flat, flat), (1.0, 1.0), 24)
    case = specimen("no Q2-like sample while tokens must go", usual, half, 22)
    kept = case.selection.kept
    role = torch.where(kept, WHOLE, DROPPED).to(torch.int8)
    yield replace(case, selection=replace(case.selection, role=role))
    role = role.where(kept.cumsum(0) % 2 == 1, role.clamp(max=PRUNABLE))
    yield replace(case, name="some samples stay whole", selection=replace(case.selection, role=role))


def reordered(candidates: Candidates, order: Tensor) -> tuple[Candidates, Tensor]:
    """The candidates in `order` (indices), and where each of their tokens was before: [N] indices."""
    scores, attention, texts = candidates.scores, candidates.attention, candidates.instructions
    assert scores is not None and attention is not None and texts is not None
    assert candidates.prompts is not None and candidates.reference is not None
    assert candidates.losses is not None and candidates.previous is not None
    assert candidates.ratings is not None and candidates.embeddings is not None and candidates.influence is not None
    assert candidates.token_influence is not None and attention.rank is not None
    assert candidates.kinds is not None and candidates.wrong is not None and candidates.recorded is not None
    recorded = candidates.recorded
    places = torch.arange(candidates.tokens).split(candidates.lengths.tolist())
    tokens = torch.cat([places[index] for index in order.tolist()])
    return replace(
        candidates,
        numbers=candidates.numbers[order],
        lengths=candidates.lengths[order],
        prompts=candidates.prompts[order],
        scores=scores.of(order.tolist()),
        attention=TokenAttention(attention.received[tokens], attention.rated[tokens], attention.rank[order]),
        reference=candidates.reference[tokens],
        token_influence=candidates.token_influence[tokens],
        losses=candidates.losses[order],
        previous=candidates.previous.of(order),
        instructions=Instructions(texts.characters[order], texts.entropy[order]),
        ratings=candidates.ratings.of(order),
        embeddings=candidates.embeddings[order],
        influence=candidates.influence[order],
        kinds=candidates.kinds[order],
        wrong=candidates.wrong[tokens],
        recorded=Recorded(recorded.kept[order], recorded.weights[order], recorded.tokens[tokens]),
    ), tokens


def rounded(case: Specimen) -> Specimen:
    """The same decision on what models say, changed by rounding, as another machine or padding would."""
    rng = torch.Generator().manual_seed(case.seed)

    def nudged(values: Tensor) -> Tensor:
        return values * (1 + torch.finfo(torch.float32).eps * torch.rand(values.shape, generator=rng))

    known = case.candidates
    scores, attention = known.scores, known.attention
    assert scores is not None and attention is not None and scores.sequence_ent is not None
    assert known.embeddings is not None and known.influence is not None and known.previous is not None
    previous = PreviousScores(nudged(known.previous.ppl), nudged(known.previous.ent))
    scores = BatchScores(nudged(scores.nll), nudged(scores.entropy), scores.lengths, nudged(scores.sequence_ent))
    attention = TokenAttention(nudged(attention.received), nudged(attention.rated), attention.rank)
    known = replace(known, embeddings=nudged(known.embeddings), influence=nudged(known.influence), previous=previous)
    return replace(case, candidates=replace(known, scores=scores, attention=attention))


def limited(case: Specimen, needs: Collection[str]) -> Specimen:
    """The same decision by a pruner that knows only what `needs` asks for, as in training; the rest is None."""
    scores = case.candidates.scores
    if scores is not None and "sequence-entropy" not in needs:
        scores = replace(scores, sequence_ent=None) if "scores" in needs else None
    attention = case.candidates.attention
    if attention is not None and "attention-rank" not in needs:
        attention = replace(attention, rank=None) if "attention" in needs else None
    others = {"reference", "losses", "instructions", "ratings", "embeddings", "influence"}
    hidden: dict[str, Any] = dict.fromkeys(others - set(needs))
    if "token-influence" not in needs:
        hidden["token_influence"] = None
    if "previous-scores" not in needs:
        hidden["previous"] = None
    if "truth" not in needs:
        hidden |= {"kinds": None, "wrong": None}
    if "trace" not in needs:
        hidden["recorded"] = None
    return replace(case, candidates=replace(case.candidates, scores=scores, attention=attention, **hidden))
