"""Which kernel computes attention over packed samples, by device and dtype and by what a layer asks for.

`varlen` is one call a layer, flash attention over all segments (torch.nn.attention.varlen). `segments` is one call of
scaled_dot_product_attention a segment. On a GPU each call costs a launch; and cuDNN, which torch may prefer there,
makes and keeps a plan for every new pair of lengths of segment and row, that is, for nearly every call.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from qtuning.gpus.device import AMPERE

BIG_CHIPS = ((8, 0), (9, 0))  # A100, H100: the only ones whose backward pass knows heads of 193 to 224


@dataclass(frozen=True)
class Kernel:
    """A choice, and the reason for it in words."""

    name: Literal["varlen", "segments"]
    why: str


@lru_cache(maxsize=256)  # every layer of every forward asks
def attention_kernel(
    device: torch.device, dtype: torch.dtype, head_size: int = 128, *, capped: bool = False, dropout: bool = False
) -> Kernel:
    """The kernel for layers whose queries, keys and values have this dtype (under autocast: that of autocast).

    capped: scores are soft-capped (Gemma 2). dropout: attention weights are dropped. Sliding windows and grouped keys
    are no reason against `varlen`. `qtuning doctor` shows what this says.
    """
    why = _obstacle(device, dtype, head_size, capped, dropout)
    return Kernel("varlen", "flash attention, one call a layer") if why is None else Kernel("segments", why)


def _obstacle(device: torch.device, dtype: torch.dtype, head_size: int, capped: bool, dropout: bool) -> str | None:
    """Why torch's flash attention cannot do it, or None (aten/.../cuda/flash_attn/flash_api.cpp of torch 2.13)."""
    if device.type != "cuda":
        return f"flash attention over segments runs on CUDA, not on {device.type}"
    if torch.version.hip is not None:
        return "on ROCm it was never tried"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"flash attention has no {str(dtype).removeprefix('torch.')}"
    capability = capability_of(device)
    if capability < AMPERE:
        return f"compute capability {capability[0]}.{capability[1]}: flash attention begins with Ampere (8.0)"
    if head_size % 8 or head_size > 256 or (192 < head_size <= 224 and capability not in BIG_CHIPS):
        return f"flash attention has no heads of {head_size}"
    if capped:
        return "torch's flash attention has no soft cap"
    if dropout:
        return "torch's flash attention over segments has no dropout"
    return None


def capability_of(device: torch.device) -> tuple[int, int]:
    """The compute capability of a GPU."""
    return torch.cuda.get_device_capability(device)
