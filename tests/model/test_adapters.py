"""LoRA on bfloat16 weights under autocast: the same numbers, and less to save for the backward pass."""

import copy
from typing import Any

import oracles
import torch
from torch import Tensor, nn

from qtuning.model.batch import pack
from qtuning.model.load import adapt_under_autocast
from qtuning.model.packed import PackedModel


def passed(model: nn.Module) -> tuple[Tensor, list[Tensor], int]:
    """(loss, gradients, bytes that autograd saved) of a forward and backward under autocast."""
    packed = pack(oracles.random_samples([(60, 40), (20, 30)], seed=0))
    assert packed is not None
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # or its place would be used again
        return tensor

    alive: list[Tensor] = []
    watched = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with watched, torch.autocast("cpu", torch.bfloat16):
        loss, _ = model(packed)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return loss.detach(), gradients, sum(kept.values())


def test_adapters_compute_in_bfloat16_with_float32_weights(build: Any) -> None:
    from peft import LoraConfig, get_peft_model

    sizes = {"hidden_size": 64, "intermediate_size": 144, "num_attention_heads": 8, "head_dim": 8}
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    cast = PackedModel(get_peft_model(build("llama", **sizes).to(torch.bfloat16), config)).train()  # type: ignore[arg-type]
    kept = copy.deepcopy(cast)
    adapt_under_autocast(kept)
    before, after = passed(cast), passed(kept)
    assert torch.equal(before[0], after[0]), "peft's cast to float32 is undone by autocast before each product"
    assert len(after[1]) == 2 * 7 * 2 and {gradient.dtype for gradient in after[1]} == {torch.float32}
    for ours, theirs in zip(after[1], before[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05 * float(theirs.abs().max()))
    assert after[2] < 0.9 * before[2], "no float32 copies of what goes into the adapters"
