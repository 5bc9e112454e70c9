"""Between the processor and a GPU: several tensors go in one copy, for each costs a launch, or waits for the GPU.

An update waits in `to_host`, once for each batch that it scores and once for its numbers (and in `cost.Stopwatch`, when
all is done). Only sparsevlm-original also waits for each sample, for the rank of its attention (attention.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The same tensors on `device`; on a GPU from one buffer in pinned memory, without waiting for the copy."""
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    buffer = torch.empty(sum(tensor.nbytes for tensor in tensors), dtype=torch.uint8, pin_memory=True)
    # torch keeps pinned memory from being used again before the copy is done
    return parted(joined(tensors, buffer).to(device, non_blocking=True), tensors)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors in the processor's memory, from one copy. It waits for the work that makes them."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors)
    return parted(joined(tensors).cpu(), tensors)


def joined(tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """The bytes of all tensors, those of the widest numbers first: so each begins at a multiple of its width."""
    parts = [tensors[place].contiguous().flatten().view(torch.uint8) for place in _order(tensors)]
    return torch.cat(parts, out=out) if out is not None else torch.cat(parts)


def parted(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """What `joined` joined, as views of the buffer. like: tensors of their shapes and dtypes."""
    order = _order(like)
    parts = dict(zip(order, buffer.split([like[place].nbytes for place in order]), strict=True))
    return [parts[place].view(tensor.dtype).view(tensor.shape) for place, tensor in enumerate(like)]


def _order(tensors: Sequence[Tensor]) -> list[int]:
    return sorted(range(len(tensors)), key=lambda place: -tensors[place].itemsize)
