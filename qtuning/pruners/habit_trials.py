"""Tries a pruner in a made-up training of a few epochs, at several seeds, and says which habits it has (habits.py)."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from qtuning.pruners.base import Budget, Candidates, PreviousScores, keep_prunable
from qtuning.pruners.conformance import Subject
from qtuning.pruners.habits import SAME_ROWS, budget_habit, unknown_habit, unknown_share
from qtuning.pruners.specimens import Specimen, limited, random_candidates, reordered
from qtuning.scoring.scores import BatchScores, TokenAttention

COUNT, BATCH, EPOCHS, SEEDS = 96, 8, 3, 5
SAMPLE_RATIO, TOKEN_RATIO = 0.25, 0.5


@dataclass
class Trial:
    """What a pruner did in one made-up training.

    rows: of each epoch, [COUNT] bool, the samples that were kept. unknown: of each decision after the first epoch, the
    share of NaN in what was told. spent: what is counted -> [kept, asked].
    """

    rows: list[Tensor] = field(default_factory=list)
    unknown: list[float] = field(default_factory=list)
    spent: dict[str, list[float]] = field(default_factory=dict)

    def spend(self, what: str, kept: float, asked: float) -> None:
        """Count what one decision kept, and what its budget asked for."""
        before = self.spent.setdefault(what, [0.0, 0.0])
        self.spent[what] = [before[0] + kept, before[1] + asked]


def habits_of(subject: Subject) -> list[str]:
    """A line for each habit of a pruner that keeps the rules; none for one that keeps everything."""
    if subject.info.scope == "none":
        return []
    trials = [_train(subject, seed) for seed in range(SEEDS)]
    unknown = [share for trial in trials for share in trial.unknown]
    lines = [unknown_habit(sum(unknown) / len(unknown))] if unknown else []
    by_epoch = zip(*(trial.rows for trial in trials), strict=True)
    if subject.kind == "sample" and any(all(torch.equal(mask, masks[0]) for mask in masks) for masks in by_epoch):
        lines.append(SAME_ROWS)
    for what in trials[0].spent if subject.amount != "own" else ():
        kept, asked = (sum(trial.spent[what][place] for trial in trials) for place in (0, 1))
        lines.append(budget_habit(what, kept, asked, SAMPLE_RATIO if subject.kind == "sample" else TOKEN_RATIO))
    return [line for line in lines if line]


def _train(subject: Subject, seed: int) -> Trial:
    """A training of EPOCHS epochs, in which nothing is learned: other seeds have other scores and losses."""
    trial, needs = Trial(), subject.info.needs_with(subject.options)
    unknown = torch.full((COUNT,), math.nan, dtype=torch.float64)
    losses, previous = unknown, PreviousScores(unknown, unknown)
    for epoch in range(EPOCHS):
        population, mask = _population(seed, epoch, losses, previous), torch.zeros(COUNT, dtype=torch.bool)
        assert population.scores is not None
        for places in torch.arange(COUNT).split(COUNT if subject.info.draws else BATCH):
            case = limited(_case(population, places, seed * EPOCHS + epoch, subject.kind), needs)
            if epoch and (share := unknown_share(case.candidates)) is not None:
                trial.unknown.append(share)
            kept = torch.tensor(subject.fresh(case)[0]) != 0
            if subject.kind == "sample":
                trial.spend("samples", float(kept.sum()), case.budget.samples)
                held = float(case.candidates.lengths[kept].sum())
                trial.spend("response tokens", held, SAMPLE_RATIO * case.candidates.tokens)
                mask[places] = kept
            else:
                trial.spend("response tokens", float(kept.sum()), TOKEN_RATIO * case.candidates.tokens)
                mask[places] = True
        trial.rows.append(mask)
        scored = "scores" in needs and not subject.info.draws  # then every sample of a batch has its loss
        losses = population.scores.ppl.log().where(mask | scored, losses)
        previous = PreviousScores(population.scores.ppl, population.scores.ent)
    return trial


def _population(seed: int, epoch: int, losses: Tensor, previous: PreviousScores) -> Candidates:
    """The same samples at every seed and in every epoch, with other scores, which have nothing to do with lengths."""
    same, rng = random_candidates(COUNT, 50), torch.Generator().manual_seed(1 + seed * EPOCHS + epoch)
    assert same.attention is not None and same.embeddings is not None

    def by_token() -> Tensor:
        return torch.rand(same.tokens, generator=rng, dtype=torch.float64)

    def by_sample() -> Tensor:
        return torch.rand(COUNT, generator=rng, dtype=torch.float64).repeat_interleave(same.lengths)

    nll, entropy = (3 * by_sample() * (1 + by_token() / 100) for _ in range(2))
    sequence = torch.stack([part.mean() for part in entropy.split(same.lengths.tolist())])
    return replace(
        same,
        scores=BatchScores(nll, entropy, same.lengths, sequence),
        attention=TokenAttention(by_token(), by_token(), same.attention.rank),
        embeddings=torch.randn(same.embeddings.shape, generator=rng),
        losses=losses,
        previous=previous,
        epoch=epoch,
        epochs=EPOCHS,
    )


def _case(population: Candidates, places: Tensor, seed: int, kind: str) -> Specimen:
    """The decision on the samples at these places; a token pruner gets all of them."""
    candidates, _ = reordered(population, places)
    samples = SAMPLE_RATIO if kind == "sample" else 1.0
    budget = Budget.of(samples, TOKEN_RATIO, len(candidates), candidates.tokens)
    return Specimen("made-up training", candidates, keep_prunable(places >= 0), budget, seed)
