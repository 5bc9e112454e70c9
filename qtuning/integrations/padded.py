"""Batches of transformers' and TRL's collators: where their targets are, and how to make them smaller.

A padded batch has a sample in each row. A packed one has a single row, in which the samples stand end to end: their
positions begin anew, and there is no attention mask (padding-free collators, packed data sets).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from qtuning.errors import UserError

IGNORED = -100  # transformers: a label without a loss
SEQUENCES = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
"""What a packed batch may say of its samples, for kernels that are not told by positions."""

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class TargetMap:
    """Where the targets (response tokens) of a batch are, [B, L]; in a packed batch B is 1.

    real: bool, columns without padding (all of them if the batch has no attention mask). targets: bool, columns whose
    label is predicted from a real column before them; those of a sample need not be next to each other. following:
    int64, what each column should predict: the label after it where that is a target, else the token after it. owner:
    int64, the sample of each column: its row, or its place in the packed row.
    """

    real: Tensor
    targets: Tensor
    following: Tensor
    owner: Tensor
    packed: bool = False

    @cached_property
    def _counted(self) -> tuple[Tensor, Tensor]:
        # targets are in the order of the samples, so equal owners are next to each other
        return torch.unique_consecutive(self.owner[self.targets], return_counts=True)

    @property
    def samples(self) -> Tensor:
        """[b] int64: the samples that have targets, as `owner` numbers them, ascending."""
        return self._counted[0]

    @property
    def lengths(self) -> Tensor:
        """[b] int64, CPU: how many targets these samples have."""
        return self._counted[1].cpu()

    @property
    def prompts(self) -> Tensor:
        """[b] int64, CPU: the other tokens of these samples. In a dialogue some of them stand between the answers."""
        return self.count(self.real) - self.lengths

    @property
    def sources(self) -> Tensor:
        """[B, L] bool: the columns whose hidden state predicts a target, in the order of the targets."""
        return self.targets.roll(-1, dims=1)  # the first column is never a target, so nothing comes around

    def count(self, columns: Tensor) -> Tensor:
        """[b] int64, CPU: how many of the columns the samples with targets have. columns: [B, L] bool."""
        return self.owner[columns].bincount(minlength=int(self.owner.max()) + 1)[self.samples].cpu()


def find_targets(batch: Batch) -> TargetMap:
    """The targets of a batch; UserError if it has no labels, samples that cannot be told apart, or more than text."""
    if "labels" not in batch or "input_ids" not in batch:
        raise UserError("the batch has no input_ids and labels: pruning needs both; see the data collator")
    labels: Tensor = batch["labels"]
    real = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(labels, dtype=torch.bool)
    positions = batch.get("position_ids")
    begins = torch.zeros_like(real)
    begins[:, 0] = True
    packed = False
    if isinstance(positions, Tensor) and positions.shape == real.shape:
        begins[:, 1:] = (positions.diff() != 1) & real[:, 1:] & real[:, :-1]
        packed = len(labels) == 1 and "attention_mask" not in batch
    shared = ["shift_labels"] * ("shift_labels" in batch)
    if not packed:
        shared += [key for key in SEQUENCES if key in batch] + ["position_ids"] * bool(begins[:, 1:].any())
    if shared:
        raise UserError(
            f"batch[{shared[0]!r}]: several samples share a row, and not as TRL's padding_free packs them (one row, "
            "position_ids, no attention mask), so that none can be dropped; pack like that, or take a data collator "
            "that pads"
        )
    for key, value in batch.items():
        known = not isinstance(value, Tensor) or not value.dim() or (packed and key in SEQUENCES)
        if not known and (value.dim() > 2 or len(value) != len(labels)):
            raise UserError(
                f"batch[{key!r}] has shape {tuple(value.shape)}: only [samples] and [samples, columns] can be pruned, "
                "that is text with a padding mask, or packed with position_ids; see the data collator"
            )
    targets = (labels != IGNORED) & ~begins
    targets[:, 1:] &= real[:, :-1]  # in a row padded on the left, nothing predicts the first token
    owner = begins.cumsum(dim=1) - 1 if packed else torch.arange(len(labels), device=real.device)[:, None]
    following = torch.where(targets, labels, batch["input_ids"]).roll(-1, dims=1)
    return TargetMap(real, targets, following, owner.expand_as(real), packed)


def cut(batch: Batch, target_map: TargetMap, kept: Tensor) -> Batch:
    """The batch with the kept targets only. kept: [B, L] bool, some of the targets.

    Samples without a kept target go, the labels of pruned tokens are ignored, and the columns after the last kept
    target go, of the batch or of each packed sample, since a causal model predicts it from those before. Padding on the
    left stays: without it positions would move. If all is kept, the batch is the same object. If nothing is kept, two
    columns of a sample stay without labels, so that its process takes part in the update with a gradient of zero.
    """
    if torch.equal(kept, target_map.targets):
        return batch
    return type(batch)((_cut_packed if target_map.packed else _cut_padded)(batch, target_map, kept))  # type: ignore[call-arg]


def _cut_padded(batch: Batch, target_map: TargetMap, kept: Tensor) -> dict[str, Any]:
    size = target_map.real.shape
    rows = kept.any(dim=1).nonzero().flatten()
    if len(rows):
        stop = int(kept.any(dim=0).nonzero().max()) + 1
    else:
        rows = torch.zeros(1, dtype=torch.int64, device=kept.device)
        stop = min(int(target_map.real[0].int().argmax()) + 2, size[1])
    parts = {key: _part(value, rows, stop, size) for key, value in batch.items()}
    parts["labels"] = _part(batch["labels"].masked_fill(~kept, IGNORED), rows, stop, size)
    return parts


def _part(value: Any, rows: Tensor, stop: int, size: torch.Size) -> Any:
    """The rows of a value that has one for each sample, and its first columns if it has one for each token."""
    if isinstance(value, Tensor) and value.dim():
        part = value[rows.to(value.device)]
        return part[:, :stop] if value.shape == size else part
    if isinstance(value, list | tuple) and len(value) == size[0]:
        return type(value)(value[row] for row in rows.tolist())
    return value


def _cut_packed(batch: Batch, target_map: TargetMap, kept: Tensor) -> dict[str, Any]:
    owner, columns = target_map.owner[0], torch.arange(kept.shape[1], device=kept.device)
    if bool(kept.any()):
        last = torch.full((int(owner[-1]) + 1,), -1, device=kept.device)
        last = last.scatter_reduce(0, owner[kept[0]], columns[kept[0]], "amax")
        stay = columns <= last[owner]
    else:
        first = target_map.targets[0].nonzero()[0]  # it has a column before it
        stay = owner == owner[first]
        stay &= stay.cumsum(dim=0) <= 2
    size = target_map.real.shape
    parts = {key: v[:, stay] if isinstance(v, Tensor) and v.shape == size else v for key, v in batch.items()}
    parts["labels"] = batch["labels"].masked_fill(~kept, IGNORED)[:, stay]
    lengths = owner[stay].unique_consecutive(return_counts=True)[1]
    ends = torch.nn.functional.pad(lengths.cumsum(dim=0), (1, 0))
    places = torch.arange(len(lengths), device=kept.device).repeat_interleave(lengths)[None]
    longest = int(lengths.max())
    found = dict(zip(SEQUENCES, (ends, ends, longest, longest, places), strict=True))
    for key in SEQUENCES:
        if key in batch:
            parts[key] = torch.as_tensor(found[key]).to(batch[key]) if isinstance(batch[key], Tensor) else found[key]
    return parts
