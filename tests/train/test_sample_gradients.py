"""Gradients of single samples, Adam's direction and the projection, against slow references on the shipped model."""

import importlib.resources
import math
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.model.attention import PACKED
from qtuning.model.load import load_model
from qtuning.model.packed import PackedModel
from qtuning.train.gradients import ROWS, SampleGradients, adam_direction, project, random_signs

SHAPES = [(3, 5), (1, 1), (7, 2), (2, 9)]  # prompt and response tokens
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def adapted() -> PackedModel:
    """The shipped model with LoRA whose factors are both random: at first B is zero, and so is A's gradient."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = load_model(Path(str(importlib.resources.files("qtuning") / "assets" / "mini")), "float32")
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, lora_dropout=0.5, target_modules="all-linear")
    model: Any = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return PackedModel(model)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return oracles.random_samples(SHAPES, seed=3)


def slow_gradient(adapted: PackedModel, sample: Sample) -> Tensor:
    """Autograd on one sample alone, through the model's own logits, without dropout."""
    adapted.eval()
    adapted.zero_grad()
    adapted.causal_lm.set_attn_implementation("eager")
    logits = adapted.model(input_ids=sample.tokens[None]).logits[0, sample.prompt - 1 : -1]
    torch.nn.functional.cross_entropy(logits.float(), sample.tokens[sample.prompt :]).backward()
    adapted.causal_lm.set_attn_implementation(PACKED)
    parts = [p.grad for _, p in adapted.named_parameters() if p.requires_grad]
    adapted.zero_grad()
    adapted.train()
    return torch.cat([part.flatten() for part in parts if part is not None])


def test_gradients_of_packed_samples_are_those_of_each_alone(adapted: PackedModel, samples: list[Sample]) -> None:
    gradients = SampleGradients(adapted)
    found, positions = gradients.of(samples, CPU)
    assert found.shape == (4, gradients.size) and positions.targets == 17 and positions.tokens == 26
    for row, sample in zip(found, samples, strict=True):
        slow = slow_gradient(adapted, sample)
        assert float((row - slow).norm() / slow.norm()) < 1e-5
    assert adapted.training and all(p.grad is None for p in adapted.parameters()), "nothing is left behind"
    alone = torch.cat([gradients.of([sample], CPU)[0] for sample in samples])
    assert float((found - alone).norm() / alone.norm()) < 1e-5


def test_activation_checkpointing_changes_no_gradient(adapted: PackedModel, samples: list[Sample]) -> None:
    expected, _ = SampleGradients(adapted).of(samples, CPU)
    model: Any = adapted.model
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    forwards: list[None] = []
    counting = adapted.causal_lm.model.layers[0].mlp.register_forward_pre_hook(lambda *_: forwards.append(None))
    try:
        adapted.train()
        found, _ = SampleGradients(adapted).of(samples, CPU)
    finally:
        model.gradient_checkpointing_disable()
        counting.remove()
    assert len(forwards) == 2, "a layer goes forward again in the backward pass"
    assert all(module.training for module in adapted.modules()), "every module is in the mode that it was in"
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_a_model_that_trains_whole_weights_is_refused(packed_llama: PackedModel) -> None:
    with pytest.raises(UserError, match="must train LoRA factors"):
        SampleGradients(packed_llama)


@pytest.mark.parametrize("step", [1, 40])
def test_the_direction_is_the_step_that_torchs_adam_takes(step: int) -> None:
    rng = torch.Generator().manual_seed(step)
    weight = torch.nn.Parameter(torch.zeros(50))
    optimizer = torch.optim.AdamW([weight], lr=1.0, weight_decay=0.0)
    for _ in range(step):
        weight.grad = torch.randn(50, generator=rng)
        optimizer.step()
    state = optimizer.state[weight]
    gradients = torch.randn(3, 50, generator=rng)
    found = adam_direction(gradients.clone(), state["exp_avg"].clone(), state["exp_avg_sq"].clone(), step)
    m, v = state["exp_avg"].double(), state["exp_avg_sq"].double()
    for row, g in zip(found.double(), gradients.double(), strict=True):
        m_hat = (0.9 * m + 0.1 * g) / (1 - 0.9 ** (step + 1))
        v_hat = (0.999 * v + 0.001 * g**2) / (1 - 0.999 ** (step + 1))
        torch.testing.assert_close(row, m_hat / (v_hat.sqrt() + 1e-8), rtol=1e-4, atol=1e-6)
    before = weight.detach().clone()
    weight.grad = gradients[0].clone()
    optimizer.step()
    torch.testing.assert_close(found[0], before - weight.detach(), rtol=1e-4, atol=1e-5)


def splitmix64(seed: int, word: int) -> int:
    """In Python's whole numbers, reduced to 64 bits."""
    mask = (1 << 64) - 1
    z = ((seed << 40) + word + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


@pytest.mark.parametrize(("dimension", "seed"), [(64, 0), (130, 5)])
def test_signs_are_bits_of_splitmix64(dimension: int, seed: int) -> None:
    words = math.ceil(dimension / 64)
    found = random_signs(7, 5, dimension, seed, CPU)
    for i in range(5):
        for j in range(dimension):
            bit = splitmix64(seed, (7 + i) * words + j // 64) >> (j % 64) & 1
            assert found[i, j] == 2 * bit - 1


def test_the_projection_is_a_product_with_the_whole_matrix_and_keeps_cosines() -> None:
    rng = torch.Generator().manual_seed(0)
    size, dimension = 2 * ROWS + 37, 2048
    gradients = torch.randn(6, size, generator=rng)
    gradients[1] = gradients[0] + 0.5 * gradients[1]
    matrix = random_signs(0, size, dimension, 1, CPU)
    assert abs(float(matrix.mean())) < 5 / math.sqrt(matrix.numel())
    found = project(gradients, dimension, 1)
    torch.testing.assert_close(found, gradients @ matrix, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(project(gradients[2:3], dimension, 1), found[2:3], rtol=1e-4, atol=1e-2)
    unit = torch.nn.functional.normalize
    gap = unit(found) @ unit(found).T - unit(gradients) @ unit(gradients).T
    assert float(gap.abs().max()) < 5 / math.sqrt(dimension)
    assert not torch.equal(found, project(gradients, dimension, 2))
