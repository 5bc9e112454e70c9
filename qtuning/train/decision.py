"""What pruning decided: which samples an epoch holds (`Progress`), and what of a batch is trained (`Decision`)."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.model.batch import Packed, pack, without
from qtuning.model.flops import ModelShape, Positions
from qtuning.pruners.base import DROPPED, PRUNABLE
from qtuning.scoring.plane import Plane
from qtuning.train.cost import Cost
from qtuning.train.reuse import Graphs
from qtuning.train.token_scores import scatter
from qtuning.train.windows import UpdateWindow

BY_TOKEN = ("tokens", "token_nll", "token_entropy")  # fields of Verdicts that have a value a token
EPOCH_TENSORS = ("drawn", "weights", "ppl", "ent")  # fields of Progress that a checkpoint holds, as `pruner.NAME`


@dataclass(frozen=True)
class Verdicts:
    """The decisions on n samples with N response tokens, as columns: one value a sample, or one a token, end to end.

    role, quadrant: [n] int8; supplement: [n] bool (pruners/base.py, SampleSelection). tokens: [N] bool, the tokens with
    a loss. sizes: [n] int64, tokens that each sample puts through the model in training, 0 if it is not trained.
    ppl, ent: [n] float64, the scores behind the decisions, or None. weights: [n] float64, factors of the samples'
    losses, or None for 1. token_nll, token_entropy: [N] uint8, the same scores token by token (token_scores.py), or
    None.
    """

    role: Tensor
    quadrant: Tensor
    supplement: Tensor
    tokens: Tensor
    sizes: Tensor
    ppl: Tensor | None
    ent: Tensor | None
    weights: Tensor | None
    token_nll: Tensor | None = None
    token_entropy: Tensor | None = None

    @cached_property
    def kept(self) -> Tensor:
        """[n] bool: the samples that stay."""
        return self.role != DROPPED

    def of(self, rows: Sequence[int], lengths: Sequence[int]) -> "Verdicts":
        """The verdicts on some of the samples. lengths: how many response tokens each of the n samples has."""
        chosen = torch.tensor(rows, dtype=torch.int64)
        columns: dict[str, Tensor | None] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, column in columns.items():
            if column is not None and name in BY_TOKEN:
                parts = column.split(list(lengths))
                # the empty end gives the tensor its type where there are no rows
                columns[name] = torch.cat([*(parts[row] for row in rows), column[:0]])
            elif column is not None:
                columns[name] = column[chosen]
        return Verdicts(**columns)  # type: ignore[arg-type]

    def tensors(self) -> dict[str, Tensor]:
        """The columns that are not None, for a checkpoint."""
        found = {f"pool.{f.name}": getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> "Verdicts | None":
        """The verdicts that `tensors` were made of; None if the checkpoint holds none."""
        columns: dict[str, Any] = {f.name: tensors.get(f"pool.{f.name}") for f in fields(cls)}
        return None if columns["role"] is None else cls(**columns)


@dataclass(frozen=True)
class Decision:
    """One pruned batch, ready to be trained.

    kept: the tokens to train, packed; None if there are none. graphs: set if the batch is trained through the forward
    that scored it (reuse.py). asked_samples, asked_tokens: what the budget asked for. log: numbers of the sample pruner
    for the metrics. losses, trained_nll: row -> mean NLL of the sample's trained tokens, and the NLL of each; training
    fills them in.
    """

    samples: Sequence[Sample]
    verdicts: Verdicts
    kept: Packed | None
    graphs: Graphs | None = None
    asked_samples: int = 0
    asked_tokens: int = 0
    log: Mapping[str, float] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    trained_nll: dict[int, Tensor] = field(default_factory=dict)

    def account(self, cost: Cost, shape: ModelShape) -> None:
        """Add to `cost` what was kept of the batch, and what training it takes."""
        cost.response_tokens += sum(sample.response_length for sample in self.samples)
        cost.samples_kept += int(self.verdicts.kept.sum())
        cost.tokens_kept += int(self.verdicts.tokens.sum())
        if self.kept is not None and self.graphs is None:
            cost.tokens_forwarded += self.kept.tokens
            cost.flops_training += shape.training_flops(self.kept.positions)
        elif self.kept is not None and self.graphs is not None:  # its forward is accounted for as scoring
            lengths = [len(hidden) for hidden in self.graphs.hidden.values()]
            cost.flops_training += shape.backward_flops(Positions.of(lengths, self.kept.targets))

    def trace(self, window: UpdateWindow, masks: bool = False, shown: Collection[int] = ()) -> list[tuple[Any, ...]]:
        """One row a sample, in the order of journal.TRACE_SCHEMA (`trace_rows`)."""
        numbers = [sample.number for sample in self.samples]
        lengths = [sample.response_length for sample in self.samples]
        known = self.verdicts, self.losses, self.trained_nll
        return trace_rows(window.update, window.epoch, numbers, lengths, *known, masks, shown)


@dataclass
class Progress:
    """Where training is: the next update, and what the current epoch holds.

    drawn: positions of the epoch's samples in the train set, ascending; None before the epoch is drawn. weights: [n]
    factors of all samples' losses in this epoch, or None for 1. ppl, ent: [n] scores by which the epoch was drawn, or
    None. log: numbers of the sample pruner on the draw. pool: under the schedule `pool`, the verdicts on the pool that
    the next update belongs to, if an earlier update began it.
    """

    update: int = 0
    epoch: int = 0
    index: int = 0
    drawn: Tensor | None = None
    weights: Tensor | None = None
    ppl: Tensor | None = None
    ent: Tensor | None = None
    log: Mapping[str, float] = field(default_factory=dict)
    pool: Verdicts | None = None

    def advance(self, window: UpdateWindow, once: bool = False) -> None:
        """Move on after the update of `window`. once: the draw of the first epoch holds for all."""
        self.update, self.index = window.update + 1, window.index + 1
        if window.last:
            self.pool = None
        if self.index == window.count:
            self.epoch, self.index, self.log = self.epoch + 1, 0, {}
            if not once:
                self.drawn = self.weights = self.ppl = self.ent = None

    def left_out(self, samples: Sequence[Sample]) -> list[tuple[Any, ...]]:
        """Trace rows of the samples that were scored before this epoch's draw and not drawn (journal.TRACE_SCHEMA)."""
        if self.drawn is None or self.ppl is None or self.ent is None:
            return []
        drawn, scores = set(self.drawn.tolist()), zip(self.ppl.tolist(), self.ent.tolist(), strict=True)
        nothing = (None,) * 5  # weight, loss, mask, scores of tokens
        return [
            (self.update, self.epoch, sample.number, *pair, 0, False, False, sample.response_length, 0, *nothing)
            for position, (sample, pair) in enumerate(zip(samples, scores, strict=True))
            if position not in drawn
        ]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are not None, for a checkpoint."""
        found = {f"pruner.{name}": getattr(self, name) for name in EPOCH_TENSORS}
        found |= {} if self.pool is None else self.pool.tensors()
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def restored(cls, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Progress":
        """From a checkpoint."""
        columns: dict[str, Any] = {name: tensors.get(f"pruner.{name}") for name in EPOCH_TENSORS}
        columns |= {name: numbers[name] for name in ("update", "epoch", "index")}
        return cls(**columns, log=numbers["draw"], pool=Verdicts.restored(tensors))


def trace_rows(
    update: int,
    epoch: int,
    numbers: Sequence[int | None],
    lengths: Sequence[int],
    verdicts: Verdicts,
    losses: Mapping[int, float],
    trained_nll: Mapping[int, Tensor],
    masks: bool,
    shown: Collection[int],
) -> list[tuple[Any, ...]]:
    """The verdicts on n samples as rows of the trace, one a sample, in the order of journal.TRACE_SCHEMA.

    numbers: of the samples; None where they are not known. lengths: their response tokens. losses, trained_nll: see
    Decision. masks: with those of samples that may lose tokens. shown: numbers of the samples that have scores of
    tokens.
    """
    count = len(numbers)
    kept = verdicts.kept.tolist()
    weights = [1.0] * count if verdicts.weights is None else verdicts.weights.tolist()
    tokens = verdicts.tokens.split(list(lengths))
    counts = [int(part.sum()) for part in tokens]
    prunable = [
        masks and (role == PRUNABLE or 0 < count < length)
        for role, count, length in zip(verdicts.role.tolist(), counts, lengths, strict=True)
    ]
    rows = [row for row, number in enumerate(numbers) if number in shown]
    columns = (
        numbers,
        [None] * count if verdicts.ppl is None else verdicts.ppl.tolist(),
        [None] * count if verdicts.ent is None else verdicts.ent.tolist(),
        verdicts.quadrant.tolist(),
        kept,
        verdicts.supplement.tolist(),
        lengths,
        counts,
        [weight if stays else None for weight, stays in zip(weights, kept, strict=True)],
        [losses.get(row) for row in range(count)],
        [pack_mask(part) if asked else None for part, asked in zip(tokens, prunable, strict=True)],
        *_token_scores(verdicts, lengths, tokens, trained_nll, rows),
    )
    return [(update, epoch, *row) for row in zip(*columns, strict=True)]


def _token_scores(
    verdicts: Verdicts,
    lengths: Sequence[int],
    masks: Sequence[Tensor],
    trained_nll: Mapping[int, Tensor],
    rows: Sequence[int],
) -> tuple[list[bytes | None], list[bytes | None]]:
    """The codes of NLL and entropy of the samples in `rows`; None of the others.

    Of a sample that nothing scored, the NLL of the trained tokens is known: training computes it.
    """
    nll: list[bytes | None] = [None] * len(lengths)
    entropy: list[bytes | None] = [None] * len(lengths)
    if verdicts.token_nll is not None and verdicts.token_entropy is not None:
        for column, codes in ((nll, verdicts.token_nll), (entropy, verdicts.token_entropy)):
            parts = codes.split(list(lengths))
            for row in rows:
                column[row] = parts[row].numpy().tobytes()
    else:
        for row in trained_nll.keys() & set(rows):
            nll[row] = scatter(trained_nll[row], masks[row]).numpy().tobytes()
    return nll, entropy


def pack_mask(mask: Tensor) -> bytes:
    """A mask of tokens, eight to a byte, the first in the highest bit."""
    return np.packbits(mask.numpy()).tobytes()


def unpack_mask(packed: bytes, count: int) -> npt.NDArray[np.bool_]:
    """The mask of `count` tokens that `pack_mask` packed."""
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count).astype(np.bool_)


def mean_by_key(logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each number as its mean over the logs that have it."""
    found: dict[str, list[float]] = {}
    for log in logs:
        for key, value in log.items():
            found.setdefault(key, []).append(float(value))
    return {key: sum(values) / len(values) for key, values in found.items()}


def pack_kept(samples: Sequence[Sample], tokens: Tensor, weights: Tensor | None, removed: bool) -> Packed | None:
    """The kept tokens of the samples, ready for the model; None if there are none.

    tokens: [N] bool. weights: [n] factors of the samples' losses, or None for 1. removed: pruned tokens leave the
    sequence instead of staying as context (reading A8, `remove`).
    """
    if not samples:
        return None
    keep = tokens.split([sample.response_length for sample in samples])
    if removed:
        samples = [without(*pair) for pair in zip(samples, keep, strict=True)]
        keep = tuple(mask[mask] for mask in keep)
    return pack(samples, keep, None if weights is None else weights.tolist())


def agreement(approximate: Verdicts, exact: Verdicts) -> dict[str, float]:
    """How far approximate scores decide as exact ones do, on one batch.

    spearman_ppl, spearman_ent: rank correlations of the samples' scores. quadrants: share of the samples in the same
    quadrant at a median split. samples_kept, tokens_kept: |A and B| / |B|, where A is kept by the approximate scores
    and B by the exact ones. A number that is not defined (scores without variance, nothing kept) is left out.
    """
    assert approximate.ppl is not None and approximate.ent is not None
    assert exact.ppl is not None and exact.ent is not None
    same = Plane(approximate.ppl, approximate.ent).quadrants(0.5) == Plane(exact.ppl, exact.ent).quadrants(0.5)
    found = {
        "spearman_ppl": spearman(approximate.ppl, exact.ppl),
        "spearman_ent": spearman(approximate.ent, exact.ent),
        "quadrants": float(same.double().mean()),
        "samples_kept": _overlap(approximate.kept, exact.kept),
        "tokens_kept": _overlap(approximate.tokens, exact.tokens),
    }
    return {key: value for key, value in found.items() if math.isfinite(value)}


def spearman(ours: Tensor, theirs: Tensor) -> float:
    """Rank correlation of two columns; NaN if it is not defined, because one of them is constant."""
    if len(ours) < 2 or bool((ours == ours[0]).all()) or bool((theirs == theirs[0]).all()):
        return math.nan
    from scipy.stats import spearmanr  # takes a second to import, which other trainings need not spend

    return float(spearmanr(ours.numpy(), theirs.numpy()).statistic)


def _overlap(ours: Tensor, theirs: Tensor) -> float:
    count = int(theirs.sum())
    return float((ours & theirs).sum()) / count if count else math.nan
