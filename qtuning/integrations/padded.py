"""Padded batches, as transformers' collators make them: where their targets are, and how to make them smaller."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qtuning.errors import UserError

IGNORED = -100  # transformers: a label without a loss
NUMBERS = ("index", "idx")  # columns that may hold the samples' rows in the train set
SHARED_ROWS = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx", "shift_labels")  # of collators that pack samples

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class TargetMap:
    """Where the targets (response tokens) of a padded batch are, [B, L].

    real: bool, columns without padding (all of them if the batch has no attention mask). targets: bool, columns whose
    label is predicted from a real column before them; those of a sample need not be next to each other. following:
    int64, what each column should predict: the label after it where that is a target, else the token after it.
    """

    real: Tensor
    targets: Tensor
    following: Tensor

    @property
    def rows(self) -> Tensor:
        """[b] int64: the rows that have targets."""
        return self.targets.any(dim=1).nonzero().flatten()

    @property
    def lengths(self) -> Tensor:
        """[b] int64, CPU: how many targets these rows have."""
        return self.targets[self.rows].sum(dim=1).cpu()

    @property
    def prompts(self) -> Tensor:
        """[b] int64, CPU: the other tokens of these rows. In a dialogue some of them stand between the answers."""
        return self.real[self.rows].sum(dim=1).cpu() - self.lengths

    @property
    def sources(self) -> Tensor:
        """[B, L] bool: the columns whose hidden state predicts a target, in the order of the targets."""
        return self.targets.roll(-1, dims=1)  # the first column is never a target, so nothing comes around


def find_targets(batch: Batch) -> TargetMap:
    """The targets of a batch; UserError if it has no labels, several samples a row, or more than text."""
    if "labels" not in batch or "input_ids" not in batch:
        raise UserError("the batch has no input_ids and labels: pruning needs both; see the data collator")
    labels: Tensor = batch["labels"]
    real = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(labels, dtype=torch.bool)
    shared, positions = [key for key in SHARED_ROWS if key in batch], batch.get("position_ids")
    if isinstance(positions, Tensor) and positions.shape == real.shape:
        restarts = (positions[:, 1:] <= positions[:, :-1]) & real[:, 1:] & real[:, :-1]
        shared += ["position_ids"] * bool(restarts.any())
    if shared:
        raise UserError(
            f"batch[{shared[0]!r}]: several samples share a row, so that none can be dropped; switch packing and "
            "padding_free off, and take a data collator that pads"
        )
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.dim() and (value.dim() > 2 or len(value) != len(labels)):
            raise UserError(
                f"batch[{key!r}] has shape {tuple(value.shape)}: only [samples] and [samples, columns] can be pruned, "
                "that is text with a padding mask; see the data collator"
            )
    targets = labels != IGNORED
    targets[:, 0] = False
    targets[:, 1:] &= real[:, :-1]  # in a row padded on the left, nothing predicts the first token
    return TargetMap(real, targets, torch.where(targets, labels, batch["input_ids"]).roll(-1, dims=1))


def cut(batch: Batch, target_map: TargetMap, kept: Tensor) -> Batch:
    """The batch with the kept targets only. kept: [B, L] bool, some of the targets.

    Rows without a kept target go, the labels of pruned tokens are ignored, and the columns after the last kept target
    go, since a causal model predicts it from those before. Padding on the left stays: without it positions would move.
    If all is kept, the batch is the same object. If nothing is kept, one row of two columns without labels stays, so
    that its process takes part in the update with a gradient of zero.
    """
    if torch.equal(kept, target_map.targets):
        return batch
    size = target_map.real.shape
    rows = kept.any(dim=1).nonzero().flatten()
    if len(rows):
        stop = int(kept.any(dim=0).nonzero().max()) + 1
    else:
        rows = torch.zeros(1, dtype=torch.int64, device=kept.device)
        stop = min(int(target_map.real[0].int().argmax()) + 2, size[1])
    parts = {key: _part(value, rows, stop, size) for key, value in batch.items()}
    parts["labels"] = _part(batch["labels"].masked_fill(~kept, IGNORED), rows, stop, size)
    return type(batch)(parts)  # type: ignore[call-arg]


def _part(value: Any, rows: Tensor, stop: int, size: torch.Size) -> Any:
    """The rows of a value that has one for each sample, and its first columns if it has one for each token."""
    if isinstance(value, Tensor) and value.dim():
        part = value[rows.to(value.device)]
        return part[:, :stop] if value.shape == size else part
    if isinstance(value, list | tuple) and len(value) == size[0]:
        return type(value)(value[row] for row in rows.tolist())
    return value


def numbers_of(batch: Batch, target_map: TargetMap) -> Tensor | None:
    """[b] int64, CPU: the rows of the samples in the train set, if the batch has a column that says them."""
    for key in NUMBERS:
        if key in batch:
            return torch.as_tensor(batch[key]).cpu().long().flatten()[target_map.rows.cpu()]
    return None
