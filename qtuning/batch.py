"""Samples laid end to end without padding: what is scored and what is trained.

Right-padding wastes a third to two thirds of the arithmetic on ragged data. Here a batch is one row of T tokens;
attention works segment by segment (`attention.py`), so samples never see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One tokenised sample.

    number: its row in the train set. tokens: [L] int64. prompt: how many of them are prompt (>= 1); the response
    is tokens[prompt:], and only it is scored and trained.
    """

    number: int
    tokens: Tensor
    prompt: int

    @property
    def response_length(self) -> int:
        """|T_i|, the number of response positions."""
        return len(self.tokens) - self.prompt


@dataclass(frozen=True)
class Packed:
    """A row of T tokens holding S segments, and the M predictions wanted from it.

    input_ids, position_ids: [T] int64. lengths: S segment lengths, sum T. source: [M] int64, the rows of the hidden
    states that predict. labels: [M] int64, what they should predict. weights: [M] float32, factors of each NLL.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    source: Tensor
    labels: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> "Packed":
        """The same on `device`."""
        return Packed(
            self.input_ids.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.lengths,
            self.source.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.weights.to(device, non_blocking=True),
        )

    @property
    def tokens(self) -> int:
        """T, the tokens that go through the model."""
        return int(self.input_ids.numel())

    @property
    def targets(self) -> int:
        """M, the tokens with a loss."""
        return int(self.labels.numel())


def pack(
    samples: Sequence[Sample], keep: Sequence[Tensor] | None = None, weights: Sequence[float] | None = None
) -> Packed | None:
    """Lay the samples end to end, predicting only the kept response tokens; None if nothing is kept.

    keep: one [|T_i|] bool mask a sample, None for every response token. weights: one loss factor a sample, None for 1.

    What cannot change the loss is left out: samples without a kept token, and the tail of each sample from its last
    kept token on (a causal model predicts token t from the tokens before it, so token t itself is no input).
    """
    ids, positions, lengths, source, labels, factors = [], [], [], [], [], []
    start = 0
    for index, sample in enumerate(samples):
        if keep is None:
            targets = torch.arange(sample.prompt, len(sample.tokens))
        else:
            targets = keep[index].nonzero().flatten().cpu() + sample.prompt
        if len(targets) == 0:
            continue
        length = int(targets[-1])
        ids.append(sample.tokens[:length])
        positions.append(torch.arange(length))
        lengths.append(length)
        source.append(targets - 1 + start)
        labels.append(sample.tokens[targets])
        factor = 1.0 if weights is None else float(weights[index])
        factors.append(torch.full((len(targets),), factor, dtype=torch.float32))
        start += length
    if not ids:
        return None
    return Packed(
        torch.cat(ids),
        torch.cat(positions),
        tuple(lengths),
        torch.cat(source),
        torch.cat(labels),
        torch.cat(factors),
    )
