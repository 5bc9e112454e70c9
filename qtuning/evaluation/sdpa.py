"""transformers' attention by `scaled_dot_product_attention`, without what costs a GPU dearly in evaluation.

In float32, torch's fast kernel knows no grouped keys. transformers hands them over all the same where it has no mask,
and torch then takes the arithmetic that keeps L^2 weights a head: here keys are expanded first. And in every forward
with padding, transformers asks the GPU whether any token is masked, which waits for it: here padding is a mask.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ON_GPU = "qtuning_sdpa"
"""The name of this attention, for `set_attn_implementation`."""


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """As transformers' own; query: [B, heads, L, d], key and value: [B, kv_heads, S, d] -> ([B, L, heads, d], None)."""
    groups = query.shape[1] // key.shape[1]
    whole = query.shape[2] == key.shape[2]  # a token that is generated has no L^2 weights
    if query.dtype == torch.float32 and attention_mask is None and groups > 1 and whole:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        found = scaled_dot_product_attention(query, key, value, is_causal=True, scale=more.get("scaling"))
        return found.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **more)


def mask(*, attention_mask: Tensor | None = None, allow_is_causal_skip: bool = True, **more: Any) -> Tensor | None:
    """As `sdpa_mask`, but no look at the padding: where there may be some, there is a mask."""
    return sdpa_mask(
        attention_mask=attention_mask, allow_is_causal_skip=allow_is_causal_skip and attention_mask is None, **more
    )


AttentionInterface.register(ON_GPU, attention)
AttentionMaskInterface.register(ON_GPU, mask)
