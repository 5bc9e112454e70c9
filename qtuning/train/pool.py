"""Schedule `pool`: the batches of P updates are scored at once, and their kept samples trained in fewer, full batches.

Kept samples are shared out so that all updates, and all forwards of an update, hold about the same number of tokens.
Where P updates would train ceil(P * r_sample) full batches' worth of samples, so many updates are made. Their decisions
are as old as the updates made since the pool was scored.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from qtuning.model.batch import Packed
from qtuning.train.schedule import Window

PREFIX = "pool."


@dataclass(frozen=True)
class Pool:
    """What was decided of n samples with N response tokens, laid end to end in the order of their batches.

    role, quadrant: [n] int8; supplement: [n] bool; tokens: [N] bool (base.SampleSelection, select.Selection). ppl, ent,
    weights: [n] float64, or None. sizes: [n] int64, tokens that each sample puts through the model in training.
    """

    role: Tensor
    quadrant: Tensor
    supplement: Tensor
    tokens: Tensor
    sizes: Tensor
    ppl: Tensor | None
    ent: Tensor | None
    weights: Tensor | None

    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, for a checkpoint."""
        found = {f"{PREFIX}{f.name}": getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> "Pool | None":
        """What `tensors` gave; None if there was no pool."""
        if f"{PREFIX}role" not in tensors:
            return None
        return cls(**{f.name: tensors.get(f"{PREFIX}{f.name}") for f in fields(cls)})  # type: ignore[arg-type]

    @classmethod
    def joined(cls, parts: Sequence["Pool"]) -> "Pool":
        """The pools of single batches as one."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        return cls(**{name: torch.cat(of) if isinstance(of[0], Tensor) else None for name, of in columns.items()})  # type: ignore[arg-type]

    def plan(self, window: Window, batches: int) -> list[list[int]]:
        """The samples trained in this update of the pool, in `batches` forwards, some of which may be empty."""
        sizes = self.sizes.tolist()
        trained = [row for row, size in enumerate(sizes) if size > 0]
        return balanced(balanced(trained, sizes, window.span)[window.offset], sizes, batches)

    @property
    def untrained(self) -> list[int]:
        """Samples of which no token is kept."""
        return (self.sizes == 0).nonzero().flatten().tolist()


def sizes_of(count: int, kept: Packed | None) -> Tensor:
    """[count] int64: tokens that each of so many packed samples puts through the model; 0 for those left out."""
    sizes = torch.zeros(count, dtype=torch.int64)
    if kept is not None:
        sizes[torch.tensor(kept.rows)] = torch.tensor(kept.lengths)
    return sizes


def balanced(rows: Sequence[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """The rows in `count` groups whose sizes add up to about the same: the largest first, each to the lightest group.

    Rows are ascending in each group, and the groups in the order of their first rows, empty ones last: that of the
    epoch, as far as possible.
    """
    heap = [(0, index) for index in range(count)]
    groups: list[list[int]] = [[] for _ in range(count)]
    for row in sorted(rows, key=lambda row: (-sizes[row], row)):
        total, index = heapq.heappop(heap)
        groups[index].append(row)
        heapq.heappush(heap, (total + sizes[row], index))
    return sorted((sorted(group) for group in groups), key=lambda group: group[0] if group else len(sizes))
