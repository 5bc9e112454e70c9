"""Attention over packed samples: each segment attends to itself alone, causally.

transformers calls it by name (`model.set_attn_implementation(PACKED)`) and hands on the keyword `segments` that
`PackedModel` gives to the backbone. Because the name is unknown to transformers' mask builders, no T x T mask is made.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED = "qtuning_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: tuple[int, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment.

    query: [1, heads, T, d]; key, value: [1, kv_heads, T, d]; segments: lengths that sum to T. Returns
    ([1, T, heads, d], None), transformers' convention. `sliding_window` counts the token itself, as transformers does.
    """
    outputs = []
    start = 0
    for length in segments:
        part = slice(start, start + length)
        q, k, v = query[:, :, part], key[:, :, part], value[:, :, part]
        start += length
        windowed = sliding_window is not None and length > sliding_window
        if softcap is not None:
            outputs.append(_capped(q, k, v, scaling, softcap, sliding_window))
            continue
        outputs.append(
            scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=_causal(length, sliding_window, q.device) if windowed else None,
                dropout_p=dropout if module.training else 0.0,
                is_causal=not windowed,
                scale=scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _causal(length: int, window: int | None, device: torch.device) -> Tensor:
    """[length, length] bool: True where row may see column."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    allowed = distance >= 0
    return allowed if window is None else allowed & (distance < window)


def _capped(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, cap: float, window: int | None) -> Tensor:
    """Attention with tanh soft-capped scores (Gemma 2), which the fused kernel does not know."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(~_causal(q.shape[2], window, q.device), float("-inf"))
    return scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v


AttentionInterface.register(PACKED, packed_attention)
