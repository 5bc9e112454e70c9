"""Attention over packed samples: each segment attends to itself alone, causally.

transformers calls this attention by name (`model.set_attn_implementation(PACKED)`). It hands on the keywords that
`PackedModel` gives to the backbone: `segments`, and a `Collector` that notes what the attention weights of one layer
say about the response tokens. transformers' mask builders do not know the name, so no T x T mask is made.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from qtuning.model.kernels import attention_kernel

PACKED = "qtuning_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: tuple[int, ...],
    starts: Tensor | None = None,
    collector: "Collector | None" = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment.

    query: [1, heads, T, d]; key, value: [1, kv_heads, T, d]; segments: lengths that sum to T; starts: Packed.starts.
    Returns ([1, T, heads, d], None), transformers' convention. `sliding_window` counts the token itself, as
    transformers does. Raises Collected in the layer of a collector that wants no more.
    """
    if collector is not None and getattr(module, "layer_idx", None) == collector.layer:
        collector.take(query, key, segments, scaling, softcap, sliding_window)
    dropout = dropout if module.training else 0.0
    dtype = query.dtype
    if query.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
    kernel = attention_kernel(query.device, dtype, query.shape[3], capped=softcap is not None, dropout=dropout > 0)
    if kernel.name == "varlen":
        assert starts is not None, "Packed.to gives it on a GPU"
        return _varlen(query, key, value, dtype, segments, starts, scaling, sliding_window), None
    with _without_cudnn(query.device):
        return _by_segment(query, key, value, segments, scaling, dropout, sliding_window, softcap), None


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dtype: torch.dtype,
    segments: tuple[int, ...],
    starts: Tensor,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """All segments in one call of flash attention. dtype: to compute in."""
    from torch.nn.attention.varlen import varlen_attn  # takes two seconds to import, which no CPU need spend

    # cast by hand: autocast does not know this call, and rotation by float32 angles left queries and keys in float32
    q, k, v = (whole[0].transpose(0, 1).to(dtype) for whole in (query, key, value))
    longest = max(segments)
    # flash attention counts the tokens before the token itself; -1: all of them
    before = -1 if sliding_window is None else sliding_window - 1
    grouped = q.shape[1] != k.shape[1]
    found = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(before, 0), enable_gqa=grouped
    )
    assert isinstance(found, Tensor), "nothing beside it was asked for"
    return found[None]


def _by_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: tuple[int, ...],
    scaling: float | None,
    dropout: float,
    sliding_window: int | None,
    softcap: float | None,
) -> Tensor:
    """One call a segment: a mask of the whole row would cost T^2 instead of the sum of L^2, and the fused kernels that
    take no mask are the fast ones."""
    # the kernel that a GPU has for float32 knows no grouped keys; for them, torch takes one that keeps all L^2 weights
    if query.device.type == "cuda":
        key, value = _expanded(key, query.shape[1]), _expanded(value, query.shape[1])
    outputs = []
    # `split`, because the gradient of a slice is a whole row of zeros but for the slice
    parts = (whole.split(segments, dim=2) for whole in (query, key, value))
    for length, q, k, v in zip(segments, *parts, strict=True):
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
                dropout_p=dropout,
                is_causal=not windowed,
                scale=scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        )
    return torch.cat([output.transpose(1, 2) for output in outputs], dim=1).contiguous()


def _expanded(grouped: Tensor, heads: int) -> Tensor:
    """[1, kv_heads, L, d] -> [1, heads, L, d]: each key or value once for each query head of its group."""
    groups = heads // grouped.shape[1]
    return grouped if groups == 1 else grouped.repeat_interleave(groups, dim=1)


def _without_cudnn(device: torch.device) -> AbstractContextManager[None]:
    """On a GPU all kernels but cuDNN's: it keeps a plan for every new length, and lengths are new nearly always."""
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(fused) if device.type == "cuda" else nullcontext()


def _causal(length: int, window: int | None, device: torch.device) -> Tensor:
    """[length, length] bool: True if the row may see the column."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    allowed = distance >= 0
    return allowed if window is None else allowed & (distance < window)


def _weights(q: Tensor, k: Tensor, scaling: float | None, cap: float | None, allowed: Tensor) -> Tensor:
    """softmax(cap(scaling q k^T)) over the allowed columns, float32. q, k: [..., L, d]; allowed: [L, L] bool."""
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    return scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1, dtype=torch.float32)


def _capped(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, cap: float, window: int | None) -> Tensor:
    """Attention with scores capped by tanh (Gemma 2), which the fused kernel does not know."""
    k, v = _expanded(k, q.shape[1]), _expanded(v, q.shape[1])
    return _weights(q, k, scaling, cap, _causal(q.shape[2], window, q.device)).to(v.dtype) @ v


AttentionInterface.register(PACKED, packed_attention)


class Collected(Exception):
    """Not an error: the collector has seen its layer, and the rest of the forward is not needed."""


@dataclass(frozen=True)
class Attended:
    """What the attention of one layer says about the R response tokens of one sample (scores.TokenAttention).

    received, rated: [R] float64, on the model's device. rank: 0 if it was not asked for, or if the attention is not
    finite.
    """

    received: Tensor
    rated: Tensor
    rank: int


@dataclass(frozen=True)
class Collector:
    """Notes the attention of one layer as it passes, an `Attended` for each sample, in `found`.

    layer: its index, from 0. prompts: prompt tokens of each segment; segments must be whole sequences. stop: raise
    Collected afterwards, so that no later layer runs. rank: whether ranks are wanted, which take a singular value
    decomposition a sample. states: [L, H] of each segment, its hidden states before the first layer; filled by the
    forward.
    """

    layer: int
    prompts: tuple[int, ...]
    stop: bool
    rank: bool = False
    states: list[Tensor] = field(default_factory=list)
    found: list[Attended] = field(default_factory=list)

    def take(
        self,
        query: Tensor,
        key: Tensor,
        segments: tuple[int, ...],
        scaling: float | None,
        softcap: float | None,
        window: int | None,
    ) -> None:
        """Weigh every segment, with the arguments of `packed_attention`."""
        queries, keys = query[0].split(segments, dim=1), key[0].split(segments, dim=1)
        parts = zip(queries, keys, self.states, self.prompts, strict=True)
        # float32 whatever the model runs in: bfloat16 has 8 bits, so scores would tie and ranks would mean nothing
        with torch.autocast(query.device.type, enabled=False):
            self.found.extend(
                attended(_mean_weights(q, k, scaling, softcap, window), states, prompt, self.rank)
                for q, k, states, prompt in parts
            )
        if self.stop:
            raise Collected


def _mean_weights(q: Tensor, k: Tensor, scaling: float | None, cap: float | None, window: int | None) -> Tensor:
    """[L, L] float32: the attention weights of a segment, mean over the heads. q: [heads, L, d]; k: [kv_heads, L, d].

    Head by head, because the weights of all heads of a long sample take 32 times the memory of their mean.
    """
    heads, length, _ = q.shape
    groups = heads // k.shape[0]
    allowed = _causal(length, window, q.device)
    total = torch.zeros(length, length, device=q.device)
    for head in range(heads):
        total += _weights(q[head].float(), k[head // groups].float(), scaling, cap, allowed)
    return total / heads


def attended(weights: Tensor, states: Tensor, prompt: int, rank: bool) -> Attended:
    """What attention and hidden states of one sample say.

    weights: [L, L] attention, rows are queries. states: [L, H] hidden states. prompt: its prompt tokens. rank: whether
    the rank is wanted.

    Raters are the response tokens whose hidden states are at least as similar to the prompt's as those of the response
    are on average. Similarity is that of SparseVLM: each prompt token divides one vote among the response tokens by the
    softmax of the products of their states. The rank is numerical: it counts singular values above max(rows, columns) *
    eps(float32) times the largest. (The exact rank is always the number of raters, because their own columns form a
    triangle with a positive diagonal.)
    """
    received = weights[:, prompt:].mean(dim=0, dtype=torch.float64)
    votes = (states[:prompt].float() @ states[prompt:].float().T).softmax(dim=1)
    relevance = votes.mean(dim=0, dtype=torch.float64)
    # rounding may put the mean of equal values above all of them, and then there would be no raters
    raters = relevance >= torch.minimum(relevance.mean(), relevance.max())
    block = weights[prompt:, prompt:]
    if block.device.type == "cpu":
        rated = block[raters].mean(dim=0, dtype=torch.float64)
    else:  # to index by what a GPU has found would wait for it
        rated = raters.double() @ block.double() / raters.sum()
    found = 0
    if rank and bool(torch.isfinite(received).all()):
        # on the CPU, which is faster at small singular value problems and finds the same rank on every machine
        found = int(torch.linalg.matrix_rank(block.cpu()[raters.cpu()]))
    return Attended(received, rated, found)
