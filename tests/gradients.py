"""Gradients in the slow way: the masked loss over a padded batch, through each family's own forward."""

import copy
from typing import Any

import torch
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.model.packed import PackedModel

# (transformers' name, settings): everything about heads and attention that differs between families
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral, sliding window": ("mistral", {"sliding_window": 5}),
    "gemma2, soft caps": (
        "gemma2",
        {
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3, both kinds of layer": (
        "gemma3_text",
        {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8},
    ),
    "smollm2, tied head": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "granite, scaled everywhere": (
        "granite",
        {
            "logits_scaling": 4.0,
            "residual_multiplier": 0.5,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
        },
    ),
    "cohere, logit scale": ("cohere", {"logit_scale": 0.25}),
    "phi, head with bias": ("phi", {}),
}


def masks_of(samples: list[Sample], seed: int, share: float = 0.5) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.rand(sample.response_length, generator=rng) < share for sample in samples]


def naive_loss(model: Any, samples: list[Sample], masks: list[Tensor], weights: list[float]) -> Tensor:
    """The masked loss over the right-padded whole batch, through the model's own forward, in its dtype.

    Padding on the right needs no mask in a causal model; with one, rows of padding alone turn to NaN in some families.
    """
    width = max(len(sample.tokens) for sample in samples)
    ids = torch.zeros(len(samples), width, dtype=torch.int64)
    factor = torch.zeros(len(samples), width, dtype=torch.float64)
    for row, (sample, mask, weight) in enumerate(zip(samples, masks, weights, strict=True)):
        ids[row, : len(sample.tokens)] = sample.tokens
        factor[row, sample.prompt : len(sample.tokens)] = mask.double() * weight
    logits = model(input_ids=ids, use_cache=False).logits
    nll = -logits[:, :-1].log_softmax(dim=-1).gather(2, ids[:, 1:, None])[..., 0]
    return (nll * factor[:, 1:].to(nll.dtype)).sum()


def naive_gradients(
    model: Any, samples: list[Sample], masks: list[Tensor], weights: list[float]
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients in float64."""
    exact = copy.deepcopy(model).double()
    loss = naive_loss(exact, samples, masks, weights)
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in exact.named_parameters() if p.grad is not None}


def assert_same_gradients(wrapped: PackedModel, truth: dict[str, Tensor]) -> None:
    mine = {name: p.grad for name, p in wrapped.model.named_parameters() if p.grad is not None}
    assert mine.keys() == truth.keys()
    largest = max(float(gradient.abs().max()) for gradient in truth.values())
    worst = max(float((mine[name].double() - truth[name]).abs().max()) for name in truth)
    squares = sum(float((mine[name].double() - truth[name]).square().sum()) for name in truth)
    norm = sum(float(gradient.square().sum()) for gradient in truth.values())
    assert worst <= 5e-6 * largest
    assert (squares / norm) ** 0.5 <= 2e-6
