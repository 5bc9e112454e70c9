"""What the training loop and a pruner tell each other, and helpers that pruners share.

A *sample pruner* is a function `(candidates, budget, rng, **options) -> SampleSelection`. Its scope (registry.py) says
whether the candidates are the whole train set, before training or before each epoch, or one selection batch.
A *token pruner* is a function `(candidates, selection, budget, rng, **options) -> mask`. It keeps `budget.tokens` of
the N response tokens of a batch, all of them in selected samples.

Either may also be a class that takes the options when it is made. Pruners keep no state; they get the
losses of earlier updates with the candidates. So a resumed training makes the same decisions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from qtuning.errors import UserError
from qtuning.experiment.cell import RatingColumn
from qtuning.scoring.scores import BatchScores, TokenAttention

DROPPED, EXEMPT, PRUNABLE, WHOLE = 0, 1, 2, 4
"""Roles of samples: dropped; kept, but in neither Q2 nor Q4, so that no token ever goes; kept like Q2, so that tokens
may go; kept like Q4, whole unless tokens of Q4 are asked for (tables 4 and 15)."""
Within = Literal["batch", "sample"]
Size = Literal["round", "floor"]  # reading A16


@dataclass(frozen=True)
class Budget:
    """What B candidates with N response tokens in all may keep (method.md, Setting).

    samples: K, see `sample_budget`. tokens: round(N * r_sample * r_token), at least 1, so that no batch trains on
    nothing.
    """

    sample_ratio: float
    token_ratio: float
    samples: int
    tokens: int

    @classmethod
    def of(cls, sample_ratio: float, token_ratio: float, count: int, tokens: int, size: Size = "round") -> "Budget":
        """The budget of `count` samples with `tokens` response tokens. size: reading A16."""
        asked = sample_budget(sample_ratio * token_ratio, tokens)
        return cls(sample_ratio, token_ratio, sample_budget(sample_ratio, count, size), asked)


@dataclass(frozen=True)
class Instructions:
    """Statistics of the instruction texts, for the -history baselines.

    characters: [B] int64. entropy: [B], Shannon entropy of the characters' frequencies, in nats.
    """

    characters: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class Ratings:
    """What somebody, mostly a strong language model, thinks of each sample; None for columns that are not given.

    rating: [B] float64, overall quality (Alpagasus, DS2). complexity, quality: [B] float64 (Deita).
    """

    rating: Tensor | None = None
    complexity: Tensor | None = None
    quality: Tensor | None = None

    def column(self, name: RatingColumn) -> Tensor:
        """One column; UserError if the train set does not give it."""
        found: Tensor | None = getattr(self, name)
        if found is None:
            given = [known for known in get_args(RatingColumn) if getattr(self, known) is not None]
            raise UserError(
                f"train set: ratings: no column {name!r}, which this pruner needs; found {', '.join(given)}; add it to "
                "the file, or name it under `columns` (docs/data.md)"
            )
        return found

    def of(self, positions: Tensor) -> "Ratings":
        """The ratings of some of the samples. positions: [b] int64."""
        return Ratings(*(None if column is None else column[positions] for column in vars(self).values()))


@dataclass(frozen=True)
class Recorded:
    """What another training of the same cell decided in the same epoch (train/replay.py).

    kept: [B] bool. weights: [B] float64, 1 for samples that were not kept. tokens: [N] bool, tokens that had a
    loss.
    """

    kept: Tensor
    weights: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class PreviousScores:
    """The scores that samples had one epoch ago, whether they were kept or dropped then; NaN in the first epoch.

    ppl, ent: [B] float64, PPL_i and Ent_i as a pruner saw them in the epoch before (scoring/scores.py).
    """

    ppl: Tensor
    ent: Tensor

    def of(self, positions: Tensor) -> "PreviousScores":
        """Those of some of the samples. positions: [b] int64."""
        return PreviousScores(self.ppl[positions], self.ent[positions])


@dataclass(frozen=True)
class Candidates:
    """B samples to choose from, with N response tokens laid end to end. Fields that a pruner does not need are None.

    numbers: [B] int64, rows in the train set; ties are broken by them, so that the order of a batch does not matter.
    lengths: [B] int64, response tokens. prompts: [B] int64, prompt tokens.
    scores: error and uncertainty under the current model. attention: under the current model. reference: [N] token NLL
    under the reference model. token_influence: [N] float64 in (0, 1), the place of each token among all response tokens
    of the train set, from the one whose loss the reference model lowers most (train/references.py). losses: [B], each
    sample's mean token NLL in its last update, NaN before its first; over the whole response if the method scores its
    batches, else over the tokens that were trained. previous: scores one epoch ago. instructions: statistics of the
    texts. ratings: what the train set says of each sample. embeddings: [B, H] float32, mean of the last hidden states
    over each sample's tokens, prompt and response, under the current model. influence: [B, G] float64, of training on
    each sample on each of G groups of target examples (LESS). kinds: [B] int64, what each sample is, as its place in
    truth.KINDS; None if the train set does not say. wrong: [N] bool, tokens that hold a part of a planted error; None
    if the train set marks none. recorded: what the training that is replayed decided. epoch, epochs: where training is,
    from 0, and how many epochs there are.
    """

    numbers: Tensor
    lengths: Tensor
    scores: BatchScores | None = None
    prompts: Tensor | None = None
    attention: TokenAttention | None = None
    reference: Tensor | None = None
    token_influence: Tensor | None = None
    losses: Tensor | None = None
    previous: PreviousScores | None = None
    instructions: Instructions | None = None
    ratings: Ratings | None = None
    embeddings: Tensor | None = None
    influence: Tensor | None = None
    kinds: Tensor | None = None
    wrong: Tensor | None = None
    recorded: Recorded | None = None
    epoch: int = 0
    epochs: int = 1

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def owner(self) -> Tensor:
        """[N] int64: the index (0..B-1) of the sample that each response token belongs to."""
        return torch.repeat_interleave(torch.arange(len(self)), self.lengths)

    @cached_property
    def tokens(self) -> int:
        """N, the response tokens of all."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class SampleSelection:
    """Which samples are kept, and why.

    role: [B] int8, DROPPED, EXEMPT, PRUNABLE or WHOLE. quadrant: [B] int8, 0 if the pruner knows no quadrants.
    supplement: [B] bool, kept although outside the thresholds. weights: [B] float, factors of the samples' losses; None
    means 1. log: numbers for the metrics of the update.
    """

    role: Tensor
    quadrant: Tensor
    supplement: Tensor
    weights: Tensor | None = None
    log: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def kept(self) -> Tensor:
        """[B] bool."""
        return self.role != DROPPED


def keep_prunable(kept: Tensor, weights: Tensor | None = None) -> SampleSelection:
    """A selection by a pruner without quadrants: any token of a kept sample may be pruned."""
    role = torch.where(kept, PRUNABLE, DROPPED).to(torch.int8)
    return SampleSelection(role, torch.zeros_like(role), torch.zeros_like(kept), weights)


def keep_first(order: Tensor, count: int) -> SampleSelection:
    """A selection of the first `count` candidates in `order` (indices, best first)."""
    kept = torch.zeros(len(order), dtype=torch.bool)
    kept[order[:count]] = True
    return keep_prunable(kept)


def sample_budget(ratio: float, count: int, size: Size = "round") -> int:
    """K = max(1, round(r_sample * B)), a half to the even number; reading A16, `floor`: floor, at least 1 (eq. 1)."""
    return whole_share(ratio, count) if size == "floor" else max(1, round(_product(ratio, count)))


def whole_share(ratio: float, count: int) -> int:
    """floor(ratio * count), at least 1 (eq. 1 and 2; Algorithm 1, line 29)."""
    return max(1, math.floor(_product(ratio, count)))


def _product(ratio: float, count: int) -> float:
    """ratio * count, where a ratio such as 0.7 stands for 7/10: as a float, 0.7 * 90 is a little less than 63."""
    return round(ratio * count, 9)


def ranking(values: Tensor, *ties: Tensor) -> Tensor:
    """Indices from the highest value to the lowest; equal values in ascending order of `ties`, the first key first."""
    found = values.sort(descending=True, stable=True)
    if not ties or bool((found.values[1:] < found.values[:-1]).all()):
        return found.indices  # nearly always: no two values are equal, so `ties` would decide nothing
    order = torch.arange(len(values))
    for key in reversed(ties):
        order = order[torch.argsort(key[order], stable=True)]
    return order[torch.argsort(values[order], descending=True, stable=True)]


def draw(numbers: Tensor, rng: torch.Generator) -> Tensor:
    """Indices in a random order, which depends on `rng` and on the set of numbers, but not on their order.

    numbers: [n] int64. Equal numbers (tokens of one sample) go into the draw in their own order.
    """
    by_number = torch.argsort(numbers, stable=True)
    return by_number[torch.randperm(len(numbers), generator=rng)]


def keep_highest(
    values: Tensor, candidates: Candidates, selection: SampleSelection, tokens: int, within: Within
) -> Tensor:
    """[N] bool: the `tokens` response tokens of highest value in the selected samples. values: [N].

    within: `batch` keeps the highest of the whole batch; `sample` lets every selected sample keep its share of `tokens`
    (by largest remainder, at least one if `tokens` suffices). Of equal values the sample with the lower number stays,
    then the earlier position.
    """
    if within == "sample":
        allowance = shares(candidates.lengths * selection.kept, tokens, candidates.numbers)
        return keep_highest_of_each(values, candidates.lengths, allowance.tolist())
    owner = candidates.owner
    mask = selection.kept[owner]
    order = ranking(values, candidates.numbers[owner])
    mask[order[mask[order]][tokens:]] = False
    return mask


def keep_highest_of_each(values: Tensor, lengths: Tensor, counts: Sequence[int]) -> Tensor:
    """[N] bool: from each sample so many of its tokens, those of highest value; of equal values the earlier stays."""
    masks = []
    for part, count in zip(values.split(lengths.tolist()), counts, strict=True):
        mask = torch.zeros(len(part), dtype=torch.bool)
        mask[ranking(part)[:count]] = True
        masks.append(mask)
    return torch.cat(masks)


def shares(sizes: Tensor, total: int, numbers: Tensor) -> Tensor:
    """[B] int64: `total` divided in proportion to `sizes` by largest remainder, no share above its size.

    A size of 0 gets nothing, any other at least 1. If `total` does not suffice for that, the largest get 1 each. Ties
    go to the lower number.
    """
    whole, present = int(sizes.sum()), sizes > 0
    total = min(total, whole)
    if total <= int(present.sum()):
        result = torch.zeros_like(sizes)
        result[ranking(sizes, numbers)[:total]] = 1
        return result
    scaled = sizes * total  # the exact shares are scaled / whole; in whole numbers, rounding decides no tie
    result = torch.minimum((scaled // whole).clamp(min=1), sizes)
    while missing := total - int(result.sum()):
        # one more to the largest remainder, or one off the largest surplus, until the sum is right
        step = 1 if missing > 0 else -1
        possible = result < sizes if step > 0 else result > 1
        gap = torch.where(possible, (scaled - result * whole) * step, torch.iinfo(torch.int64).min)
        result[ranking(gap, numbers * step)[0]] += step
    return result
