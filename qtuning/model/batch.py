"""Samples laid end to end without padding: what is scored and what is trained.

Right-padding wastes a third to two thirds of the arithmetic on ragged data. Here a batch is one row of T tokens;
attention works segment by segment (`attention.py`), so samples never see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.model.flops import causal_pairs


@dataclass(frozen=True)
class Packed:
    """A row of T tokens holding S segments, and the M predictions wanted from it.

    input_ids, position_ids: [T] int64. lengths: S segment lengths, sum T. source: [M] int64, the rows of the hidden
    states that predict. labels: [M] int64, what they should predict. weights: [M] float32, factors of each NLL.
    rows: of each segment, the place of its sample among those that were packed. counts: of each segment, how many of
    the M predictions are its own; they lie in the order of the segments, sum M.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    source: Tensor
    labels: Tensor
    weights: Tensor
    rows: tuple[int, ...]
    counts: tuple[int, ...]

    def to(self, device: torch.device) -> "Packed":
        """The same on `device`."""
        return Packed(
            self.input_ids.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.lengths,
            self.source.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.weights.to(device, non_blocking=True),
            self.rows,
            self.counts,
        )

    @property
    def tokens(self) -> int:
        """T, the tokens that go through the model."""
        return int(self.input_ids.numel())

    @property
    def pairs(self) -> float:
        """Times that one position attends to another."""
        return causal_pairs(self.lengths)

    @property
    def targets(self) -> int:
        """M, the positions that go through the head."""
        return int(self.labels.numel())


def pack(
    samples: Sequence[Sample], keep: Sequence[Tensor] | None = None, weights: Sequence[float] | None = None
) -> Packed | None:
    """Lay the samples end to end, predicting only the kept response tokens; None if nothing is kept.

    keep: one [|T_i|] bool mask a sample, None for every response token. weights: one loss factor a sample, None for 1.

    What cannot change the loss is left out: samples without a kept token, and the tail of each sample from its last
    kept token on (a causal model predicts token t from the tokens before it, so token t itself is no input).
    """
    if not samples:
        return None
    # numpy: its calls on a few rows cost a fraction of torch's, and this runs before every update
    lengths = np.array([sample.response_length for sample in samples])
    ends = lengths.cumsum()
    kept = np.arange(ends[-1]) if keep is None else np.flatnonzero(torch.cat(list(keep)).numpy(force=True))
    if not len(kept):
        return None
    counts = np.diff(np.searchsorted(kept, ends), prepend=0)  # `kept` ascends through the responses, laid end to end
    rows = np.flatnonzero(counts)
    counts = counts[rows]
    # from a place among the responses to one in the sample, prompt included
    chosen = [samples[row] for row in rows.tolist()]
    shift = np.array([sample.prompt for sample in chosen]) - (ends - lengths)[rows]
    last = kept[counts.cumsum() - 1] + shift  # of each kept sample, its last kept position: the length of its segment
    sizes, after = last.tolist(), last.cumsum()
    whole = torch.cat([sample.tokens[: size + 1] for sample, size in zip(chosen, sizes, strict=True)])
    target = kept + np.repeat(shift + after - last, counts)  # where it would be if the last tokens were cut off already
    segment = np.repeat(np.arange(len(rows)), counts)
    factors = torch.ones(len(samples)) if weights is None else torch.tensor(weights, dtype=torch.float32)
    return Packed(
        torch.from_numpy(np.delete(whole.numpy(), after + np.arange(len(rows)))),
        torch.from_numpy(np.arange(after[-1]) - np.repeat(after - last, last)),
        tuple(sizes),
        torch.from_numpy(target - 1),
        whole[torch.from_numpy(target + segment)],
        factors[torch.from_numpy(rows[segment])],
        tuple(rows.tolist()),
        tuple(counts.tolist()),
    )


def pack_whole(samples: Sequence[Sample], predicting: Literal["everywhere", "response", "nowhere"]) -> Packed:
    """Lay the samples end to end with their last tokens, for what is asked of positions and not of the loss.

    predicting: the positions that go through the head. `everywhere` includes the last of each sample, which predicts
    what comes after the end: its label, the sample's first token, means nothing.
    """
    segments = []
    for row, sample in enumerate(samples):
        length = len(sample.tokens)
        source = {
            "everywhere": torch.arange(length),
            "response": torch.arange(sample.prompt - 1, length - 1),
            "nowhere": torch.arange(0),
        }[predicting]
        segments.append(_Segment(row, sample.tokens, source, sample.tokens.roll(-1)[source], 1.0))
    return _lay(segments)


def without(sample: Sample, keep: Tensor) -> Sample:
    """The sample with the response tokens that are not kept taken out of the sequence (reading A8, `remove`).

    keep: [|T_i|] bool. The prompt stays, and positions count what is left.
    """
    prompt, response = sample.tokens[: sample.prompt], sample.tokens[sample.prompt :]
    return Sample(sample.number, torch.cat([prompt, response[keep.cpu()]]), sample.prompt)


@dataclass(frozen=True)
class _Segment:
    """What of sample `row` is packed. source: positions in `ids` that predict; labels: what; factor: of each NLL."""

    row: int
    ids: Tensor
    source: Tensor
    labels: Tensor
    factor: float


def _lay(segments: Sequence[_Segment]) -> Packed:
    """The segments end to end."""
    lengths = [len(segment.ids) for segment in segments]
    starts = [0, *accumulate(lengths[:-1])]
    return Packed(
        torch.cat([segment.ids for segment in segments]),
        torch.cat([torch.arange(length) for length in lengths]),
        tuple(lengths),
        torch.cat([segment.source + start for segment, start in zip(segments, starts, strict=True)]),
        torch.cat([segment.labels for segment in segments]),
        torch.cat([torch.full(segment.labels.shape, segment.factor, dtype=torch.float32) for segment in segments]),
        tuple(segment.row for segment in segments),
        tuple(len(segment.source) for segment in segments),
    )
