"""What another training of the same cell decided, read from its trace, for the replay pruners (pruners/replay.py)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.finished import MARKER, check_outputs, marker_of
from qtuning.pruners.base import Recorded
from qtuning.train.decision import unpack_mask


@dataclass(frozen=True)
class Recording:
    """The decisions of all E epochs on all n samples with N response tokens.

    kept: [E, n] bool. weights: [E, n] float64, 1 where nothing was kept. tokens: [E, N] bool. starts: [n] int64, where
    each sample's tokens begin among the N.
    """

    kept: Tensor
    weights: Tensor
    tokens: Tensor
    starts: Tensor

    def of(self, epoch: int, positions: Tensor, lengths: Tensor) -> Recorded:
        """The decisions of one epoch on some of the samples. lengths: their response tokens."""
        spans = zip(self.starts[positions].tolist(), lengths.tolist(), strict=True)
        tokens = [self.tokens[epoch, start : start + length] for start, length in spans]
        return Recorded(self.kept[epoch, positions], self.weights[epoch, positions], torch.cat(tokens))


def load_recording(folders: Sequence[Path], samples: Sequence[Sample], epochs: int) -> Recording:
    """The recording of a cell on these samples. folders: that of the one cell that `references_of` names.

    UserError if the cell is not trained, diverged, or left a trace that does not say all.
    """
    if len(folders) != 1:
        raise UserError(f"--trained-reference: must be given once, with the cell that is replayed, not {len(folders)}")
    (folder,) = folders
    if not (folder / MARKER).exists():
        raise UserError(f"{folder}: the training to replay is not there; train this cell first")
    if (marker := marker_of(folder))["status"] != "done":
        raise UserError(f"{folder}: the training to replay diverged, so there is nothing to replay")
    check_outputs(folder, "trace.parquet", marker=marker)
    lengths = torch.tensor([sample.response_length for sample in samples])
    positions = {sample.number: position for position, sample in enumerate(samples)}
    starts = torch.cumsum(lengths, 0) - lengths
    kept = torch.zeros(epochs, len(samples), dtype=torch.bool)
    weights, told = torch.ones(kept.shape, dtype=torch.float64), torch.zeros_like(kept)
    tokens = torch.zeros(epochs, int(lengths.sum()), dtype=torch.bool)
    columns = ("epoch", "sample", "kept", "response_tokens", "kept_tokens", "weight", "mask")
    for epoch, number, stays, length, count, weight, mask in (
        pl.read_parquet(folder / "trace.parquet", columns=list(columns)).select(columns).iter_rows()
    ):
        position = positions.get(number)
        if position is None or epoch >= epochs or length != int(lengths[position]):
            raise UserError(f"{folder}: its trace is of other samples or epochs; train it again")
        told[epoch, position] = True
        if not stays:
            continue
        if mask is None and count < length:
            raise UserError(f"{folder}: its trace does not say which tokens were kept; train it again")
        kept[epoch, position], weights[epoch, position] = True, weight
        start = int(starts[position])
        tokens[epoch, start : start + length] = True if count == length else torch.from_numpy(unpack_mask(mask, length))
    if not bool(told.all()):
        raise UserError(f"{folder}: its trace does not tell of every sample in every epoch; train it again")
    return Recording(kept, weights, tokens, starts)
