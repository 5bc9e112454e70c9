"""Samples laid end to end without padding: the batches that are scored and trained.

Padding would waste a third to two thirds of the arithmetic on data of uneven length. A packed batch is one row of T
tokens. Attention works segment by segment (`attention.py`), so samples never see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.model.flops import Positions
from qtuning.model.transfer import to_device


@dataclass(frozen=True)
class Packed:
    """A row of T tokens holding S segments, and the M predictions wanted from it.

    input_ids, position_ids: [T] int64. lengths: S segment lengths, sum T. source: [M] int64, the positions whose hidden
    states predict. labels: [M] int64, what they should predict. weights: [M] float32, a factor for each NLL.
    rows: for each segment, the place of its sample among those that were packed. counts: for each segment, how many of
    the M predictions are its own; they lie in the order of the segments, sum M. starts: [S + 1] int32, where each
    segment begins, and T; only on a GPU, whose attention goes by it (kernels.py).
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    source: Tensor
    labels: Tensor
    weights: Tensor
    rows: tuple[int, ...]
    counts: tuple[int, ...]
    starts: Tensor | None = None

    def to(self, device: torch.device) -> "Packed":
        """The same batch on `device`."""
        tensors = {key: value for key, value in vars(self).items() if isinstance(value, Tensor)}
        if device.type == "cuda" and self.starts is None:
            tensors["starts"] = torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32)
        moved = to_device([*tensors.values()], device)
        return replace(self, **dict(zip(tensors, moved, strict=True)))  # type: ignore[arg-type]

    def starts_of(self, segment: int) -> Tensor | None:
        """[2] int32: `starts` of a row that holds this segment alone."""
        if self.starts is None:
            return None
        return self.starts[segment : segment + 2] - self.starts[segment]

    @property
    def tokens(self) -> int:
        """T, the positions that go through the layers."""
        return int(self.input_ids.numel())

    @property
    def targets(self) -> int:
        """M, the positions that go through the head."""
        return int(self.labels.numel())

    @property
    def positions(self) -> Positions:
        """What its FLOPs depend on."""
        return Positions.of(self.lengths, self.targets)


def pack(
    samples: Sequence[Sample], keep: Sequence[Tensor] | None = None, weights: Sequence[float] | None = None
) -> Packed | None:
    """Lay the samples end to end and predict only the kept response tokens. None if nothing is kept.

    keep: a [|T_i|] bool mask for each sample; None keeps every response token. weights: a loss factor for each sample;
    None means 1.

    Tokens that cannot change the loss are left out: samples without a kept token, and the end of each sample from its
    last kept token on. (A causal model predicts token t from the tokens before it, so token t itself is no input.)
    """
    if not samples:
        return None
    # numpy: its calls on a few rows cost a fraction of torch's, and this runs before every update
    lengths = np.array([sample.response_length for sample in samples])
    ends = lengths.cumsum()
    kept = np.arange(ends[-1]) if keep is None else np.flatnonzero(torch.cat(list(keep)).numpy(force=True))
    if not len(kept):
        return None
    # `kept` ascends through all responses laid end to end, so the ends of the responses divide it among the samples
    counts = np.diff(np.searchsorted(kept, ends), prepend=0)
    rows = np.flatnonzero(counts)
    counts = counts[rows]
    chosen = [samples[row] for row in rows.tolist()]
    # shift: from a place among the responses to the position in the sample, prompt included
    shift = np.array([sample.prompt for sample in chosen]) - (ends - lengths)[rows]
    # last: each sample's last kept position. It is a label and no input, so it is also the length of the segment
    last = kept[counts.cumsum() - 1] + shift
    sizes, after = last.tolist(), last.cumsum()
    # whole: the segments, each followed by its last kept token; those are labels, and are deleted from the inputs below
    whole = torch.cat([sample.tokens[: size + 1] for sample, size in zip(chosen, sizes, strict=True)])
    # target: the position of each kept token in the packed row, as if the last tokens were deleted already
    target = kept + np.repeat(shift + after - last, counts)
    segment = np.repeat(np.arange(len(rows)), counts)
    factors = torch.ones(len(samples)) if weights is None else torch.tensor(weights, dtype=torch.float32)
    return Packed(
        torch.from_numpy(np.delete(whole.numpy(), after + np.arange(len(rows)))),
        torch.from_numpy(np.arange(after[-1]) - np.repeat(after - last, last)),
        tuple(sizes),
        torch.from_numpy(target - 1),  # a token is predicted from the position before it
        whole[torch.from_numpy(target + segment)],  # in `whole`, each segment before it has one token more
        factors[torch.from_numpy(rows[segment])],
        tuple(rows.tolist()),
        tuple(counts.tolist()),
    )


def pack_whole(samples: Sequence[Sample], predicting: Literal["everywhere", "response", "nowhere"]) -> Packed:
    """Lay the samples end to end with their last tokens: for questions about positions, which the loss does not ask.

    predicting: the positions that go through the head. `everywhere` includes the last position of each sample, which
    predicts what comes after the end. Its label, the sample's first token, means nothing.
    """
    lengths = [len(sample.tokens) for sample in samples]
    starts = [0, *accumulate(lengths[:-1])]
    positions = [torch.arange(length) for length in lengths]
    sources = positions if predicting == "everywhere" else [nothing[:0] for nothing in positions]
    if predicting == "response":
        sources = [place[sample.prompt - 1 : -1] for sample, place in zip(samples, positions, strict=True)]
    return Packed(
        torch.cat([sample.tokens for sample in samples]),
        torch.cat(positions),
        tuple(lengths),
        torch.cat([source + start for source, start in zip(sources, starts, strict=True)]),
        torch.cat([sample.tokens.roll(-1)[source] for sample, source in zip(samples, sources, strict=True)]),
        torch.ones(sum(map(len, sources))),
        tuple(range(len(samples))),
        tuple(map(len, sources)),
    )


def without(sample: Sample, keep: Tensor) -> Sample:
    """The sample with the pruned response tokens taken out of the sequence (reading A8, `remove`).

    keep: [|T_i|] bool. The prompt stays, and positions count what is left.
    """
    prompt, response = sample.tokens[: sample.prompt], sample.tokens[sample.prompt :]
    return Sample(sample.number, torch.cat([prompt, response[keep.cpu()]]), sample.prompt)
