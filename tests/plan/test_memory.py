"""Memory against what autograd really saves, and batches that are really drawn."""

import itertools
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from test_work import a_cell

from qtuning.model.batch import pack
from qtuning.plan.assumptions import BenchmarkGuess
from qtuning.plan.lengths import Lengths, assumed
from qtuning.plan.memory import largest_batches, saved_bytes, saved_pair_bytes, training_memory
from qtuning.plan.shapes import Shape, from_config

WAYS = [*itertools.product(("full", "lora"), ("float32", "bfloat16"), ("no", "bf16"))]


def saved(model: Any, packed: Any, mixed: bool) -> int:
    """Bytes of the storages that autograd keeps for the backward pass, without parameters."""
    from qtuning.model.load import adapt_under_autocast
    from qtuning.model.packed import PackedModel

    wrapped = PackedModel(model).train()
    if mixed:
        adapt_under_autocast(wrapped)
    known = {tensor.untyped_storage().data_ptr() for tensor in (*wrapped.parameters(), *wrapped.buffers())}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16, mixed):
        wrapped(packed)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(("tuning", "dtype", "mixed"), WAYS)
def test_saved_activations_are_those_of_autograd(build: Any, tuning: str, dtype: str, mixed: str) -> None:
    from peft import LoraConfig, get_peft_model

    sizes = {"hidden_size": 64, "intermediate_size": 144, "num_attention_heads": 8, "head_dim": 16}
    packed = pack(oracles.random_samples([(60, 1), (40, 1), (100, 1)], seed=0))
    assert packed is not None
    cell = a_cell("full", tuning=tuning, mixed_precision=mixed, dtype=dtype)
    assert cell.training is not None
    found = []
    for layers in (2, 3):
        model = build("llama", num_hidden_layers=layers, **sizes).to(getattr(torch, dtype))
        shape = from_config(model.config.to_dict(), "here")
        if tuning == "lora":
            model = get_peft_model(model, LoraConfig(r=cell.training.lora.r, target_modules="all-linear"))
        found.append(saved(model, packed, mixed == "bf16"))
    # autocast's copies of the weights, saved too
    cast = shape.matmul * (dtype == "float32") + shape.lora_parameters(cell.training.lora.r) * (tuning == "lora")
    casts = 2 * (cast // shape.layers) if mixed == "bf16" else 0
    a_token = (found[1] - found[0] - casts) / packed.tokens
    assert saved_bytes(shape, cell.training, dtype) == pytest.approx(a_token, rel=0.04)


def test_the_parts_of_full_fine_tuning_by_hand() -> None:
    """float32: 4 bytes of weights, 4 of gradients, 8 of Adam; the head's gradient once more while it is summed."""
    shape = Shape(32, 48, 4, 4, 2, 8, 97, True)
    lengths = Lengths(np.full(8, 5.0), np.full(8, 5.0), 1.0, "tokens")
    memory = training_memory(a_cell("full"), shape, lengths)
    assert (memory.weights, memory.gradients, memory.optimizer) == tuple(size * shape.parameters for size in (4, 4, 8))
    assert memory.logits == 256 * 97 * 12 + 4 * 97 * 32
    assert memory.tokens == 4 * 10
    checkpointed = training_memory(a_cell("full", gradient_checkpointing=True), shape, lengths)
    assert checkpointed.activations < memory.activations
    lora = training_memory(a_cell("full", tuning="lora", dtype="bfloat16"), shape, lengths)
    adapters = shape.lora_parameters(8)
    assert (lora.weights, lora.gradients) == (2 * shape.parameters + 4 * adapters, 4 * adapters)


def test_the_largest_batch_bounds_those_that_are_drawn() -> None:
    lengths, rng = assumed(2000, 30.0, 80.0, 0.9, 0.5, 512), np.random.default_rng(0)
    cell = a_cell("full", epochs=3, batch_size=8)
    bound = largest_batches(cell, lengths)[1][0]
    tokens = np.repeat(lengths.tokens, 4)[:2000]
    maxima = [max(rng.permutation(tokens).reshape(-1, 8).sum(1).max() for _ in range(3)) for _ in range(40)]
    assert 0.8 * np.mean(maxima) < bound < 1.6 * np.mean(maxima)
    assert bound <= 8 * lengths.tokens.max()
    assert largest_batches(a_cell("q-tuning", 0.25, 0.5, batch_size=8), lengths)[1][0] < bound / 2
    assert largest_batches(a_cell("longest-original+none", 0.25, 1.0, batch_size=8), lengths)[1][0] > bound
    assert largest_batches(a_cell("longest+none", 0.25, 1.0, batch_size=8), lengths)[1][0] < bound / 2


def test_schedules_hold_what_they_hold() -> None:
    """Samples of 10 tokens, batches of 8, 25% kept: 2 of a batch."""
    lengths = Lengths(np.full(64, 4.0), np.full(64, 6.0), 1.0, "tokens")

    def held(schedule: str, method: str = "q-tuning", **more: Any) -> float:
        scoring = {"schedule": schedule} | ({"batches": 4} if schedule == "pool" else {})
        options = {"scoring": scoring} | ({"selection": "global"} if more.pop("together", False) else {})
        cell = a_cell(method, 0.25, 0.5, options, batch_size=8, **more)
        return training_memory(cell, Shape(32, 48, 4, 4, 2, 8, 97, True), lengths).tokens / 10

    assert held("fresh") == held("fresh", update_samples=32) == 2
    assert held("pool") == held("pool", update_samples=32) == 8, "full batches again"
    assert held("reuse-graph") == 8, "until it is decided"
    assert held("reuse-graph", update_samples=32) == 8 + 3 * 2, "and the kept of the batches before"
    assert held("reuse-graph", update_samples=32, together=True) == 4 * 8, "all are decided together"
    assert held("reuse-graph", "entropy+ppl", update_samples=16) == 2 * 8, "all that was drawn is kept"
    assert held("reuse-graph", "entropy+random", update_samples=16) == held("fresh", "entropy+random") == 8


def test_a_benchmark_has_choices_or_generates() -> None:
    assert BenchmarkGuess(items=3, prompt_tokens=1.0).choices is None


@pytest.mark.parametrize("way", ["fused", "math", "capped"])
@pytest.mark.parametrize("autocast", [False, True])
def test_what_attention_saves_with_the_square_of_the_length(way: str, autocast: bool) -> None:
    """By segment, as without flash attention; s(2L) - 2 s(L) is 2 L^2 times the bytes of a pair."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from qtuning.model.attention import packed_attention

    shape = Shape(32, 48, 1, 4, 4, 8, 97, True, capped=way == "capped")

    def bytes_of(length: int) -> int:
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        parts = [torch.randn(1, 4, length, 8, requires_grad=True) for _ in range(3)]
        kernel = SDPBackend.MATH if way == "math" else SDPBackend.FLASH_ATTENTION
        saving, half = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast
        with saving, sdpa_kernel(kernel), half("cpu", torch.bfloat16, autocast):
            softcap = 5.0 if way == "capped" else None
            q, k, v = parts
            held = packed_attention(torch.nn.Module(), q, k, v, None, segments=(length,), softcap=softcap)
        return sum(kept.values()) if held else 0

    found = (bytes_of(256) - 2 * bytes_of(128)) / (2 * 128**2)
    masks = {"capped": 1.0, "math": 0.0, "fused": 0.0}[way]  # one for all heads, a byte each
    assert found - masks == pytest.approx(saved_pair_bytes(shape, "math" if way == "math" else "fused"), abs=0.5)
