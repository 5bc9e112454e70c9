"""8-bit moments and 4-bit weights, with the real bitsandbytes on a CPU: they resume, and decide like what they replace.

Skipped where bitsandbytes is not installed (`pip install 'qtuning[bits]'`).
"""

import copy
import sys
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from loops import cell_of, run

from qtuning.errors import UserError
from qtuning.experiment.cell import Training
from qtuning.model.batch import pack
from qtuning.model.load import adapt_under_autocast, load_model
from qtuning.model.packed import PackedModel, check_packed_forward, half_weights
from qtuning.train.checkpoint import restore, training_tensors
from qtuning.train.cost import shape_of
from qtuning.train.optimizer import make_optimizer

EIGHT = Training(tuning="full", optimizer="adamw-8bit", learning_rate=1e-3)
OPTIMIZERS = ("adamw", "adamw-8bit")
SHAPES = [(30, 90), (10, 50), (40, 80), (20, 60)]


def test_what_is_missing_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"^training.optimizer = 'adamw-8bit': needs bitsandbytes; pip install"):
        make_optimizer(EIGHT, [torch.nn.Parameter(torch.ones(2))])


def stepped(model: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
    packed = pack(oracles.random_samples(SHAPES, seed=0))
    assert packed is not None
    for _ in range(steps):
        (model(packed)[0] / packed.targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_moments_of_8_bits_resume_bit_for_bit(build: Any) -> None:
    pytest.importorskip("bitsandbytes")
    start = PackedModel(build("llama", hidden_size=64, intermediate_size=128)).train()
    straight, stopped, resumed = (copy.deepcopy(start) for _ in range(3))
    optimizers = [make_optimizer(EIGHT, [*model.parameters()]) for model in (straight, stopped, resumed)]
    stepped(straight, optimizers[0], 4)
    stepped(stopped, optimizers[1], 2)
    saved = {name: tensor.detach().clone() for name, tensor in training_tensors(stopped, optimizers[1]).items()}
    assert any(name.startswith("optimizer.state1.") and t.dtype == torch.uint8 for name, t in saved.items())
    restore(saved, resumed, optimizers[2])
    stepped(resumed, optimizers[2], 2)
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_moments_of_8_bits_go_nearly_the_same_way(build: Any) -> None:
    pytest.importorskip("bitsandbytes")
    start = PackedModel(build("llama", hidden_size=64, intermediate_size=128)).train()
    ends = []
    for name in OPTIMIZERS:
        model = copy.deepcopy(start)
        stepped(model, make_optimizer(EIGHT.model_copy(update={"optimizer": name}), [*model.parameters()]), 8)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    way = ends[0] - torch.cat([parameter.detach().flatten() for parameter in start.parameters()])
    assert 0 < float((ends[1] - ends[0]).norm() / way.norm()) < 0.2


def test_the_optimizer_has_no_say_in_a_selection(tiny_llama: Any) -> None:
    """Until it has moved weights, the decisions are the same; then they are as many, by the scores of other weights."""
    pytest.importorskip("bitsandbytes")
    samples = [*oracles.random_samples(SHAPES * 2, seed=1)]
    plain, eight = (run(cell_of("q-tuning", (0.5, 0.5), optimizer=name), tiny_llama, samples) for name in OPTIMIZERS)
    first = [[row for row in found.trace if row[0] == 0] for found in (plain, eight)]
    assert [row[:9] for row in first[0]] == [row[:9] for row in first[1]] and first[0]
    asked = [[(r["samples_asked"], r["tokens_asked"]) for r in found.records] for found in (plain, eight)]
    assert asked[0] == asked[1]
    assert any(not torch.equal(weight, eight.weights[name]) for name, weight in plain.weights.items())


def test_weights_of_4_bits_under_adapters(build: Any, tmp_path: Path) -> None:
    """Scores and gradients are those of the weights that 4 bits stand for."""
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit
    from peft import LoraConfig, get_peft_model

    # widths that its kernel for CPUs can cut into blocks
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4, "head_dim": 16}
    build("llama", **sizes).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    whole, quantised = load_model(tmp_path, "float32"), load_model(tmp_path, "float32", quantization="nf4")
    names = {name: module for name, module in whole.named_modules() if isinstance(module, torch.nn.Linear)}
    moved = largest = 0.0
    for name, module in quantised.named_modules():
        if name in names and hasattr(module.weight, "quant_state"):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
            moved = max(moved, float((names[name].weight - weight).abs().max()))
            largest = max(largest, float(names[name].weight.abs().max()))
            names[name].weight.data = weight
    assert 0 < moved < 0.3 * largest and not hasattr(quantised.lm_head.weight, "quant_state")
    assert shape_of(quantised, True, False) == shape_of(whole, True, False)
    packed = pack(oracles.random_samples(SHAPES, seed=2))
    assert packed is not None
    models = []
    for model in (whole, quantised):
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        models.append(PackedModel(get_peft_model(model, config)).train())
    losses = [model(packed)[0] for model in models]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
    for loss in losses:
        loss.backward()
    trained = [{n: p.grad for n, p in model.named_parameters() if p.requires_grad} for model in models]
    assert trained[0].keys() == trained[1].keys() and all("lora_" in name for name in trained[0])
    for name, gradient in trained[0].items():
        torch.testing.assert_close(trained[1][name], gradient, rtol=1e-3, atol=1e-4)
    halved = half_weights(models[1])
    assert "model.base_model.model.lm_head" in halved and not any("base_layer" in name for name in halved)
    cpu = torch.device("cpu")
    check_packed_forward(models[1], oracles.random_samples(SHAPES, seed=3), cpu)
    adapt_under_autocast(models[1])
    with torch.autocast("cpu", torch.bfloat16):
        check_packed_forward(models[1], oracles.random_samples(SHAPES, seed=3), cpu)
