"""LoRA on bfloat16 weights under autocast: the same numbers, and less to save for the backward pass."""

import copy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor, nn

from qtuning.experiment.cell import Training
from qtuning.model.batch import pack
from qtuning.model.load import adapt_under_autocast
from qtuning.model.packed import PackedModel
from qtuning.train.candidates import load_for_scoring, score_all
from qtuning.train.gradients import SampleGradients
from qtuning.train.influence import _adapted


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


@pytest.fixture
def saved(build: Any, tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a model in bfloat16 and of an adapter for it that changes it."""
    from peft import LoraConfig, get_peft_model

    model = build("llama").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "tokenizer_config.json").write_text("{}")  # a model folder has one
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "base", tmp_path / "adapter"


def casts(model: nn.Module) -> set[bool]:
    """Whether adapters cast what goes into them to float32."""
    return {
        bool(part.cast_input_dtype_enabled) for part in model.modules() if hasattr(part, "cast_input_dtype_enabled")
    }


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_a_tuned_model_that_scores_computes_as_it_was_trained(saved: tuple[Path, Path], precision: str) -> None:
    """References and `localise`: in bfloat16 under autocast, by the same numbers; else peft's cast stays."""
    half = precision == "bf16"
    context: Any = (lambda: torch.autocast("cpu", torch.bfloat16)) if half else nullcontext
    accelerator: Any = SimpleNamespace(
        device=torch.device("cpu"), mixed_precision=precision, autocast=context, process_index=0, num_processes=1
    )
    samples = oracles.random_samples([(5, 9), (3, 7), (2, 4)], seed=0)
    model = load_for_scoring(saved[0], "bfloat16", samples, accelerator, saved[1])
    assert casts(model) == {not half}
    found, _ = score_all(model, samples, accelerator, batch_size=2)
    for part in model.modules():
        if hasattr(part, "cast_input_dtype_enabled"):
            part.cast_input_dtype_enabled = True  # type: ignore[assignment]
    cast, _ = score_all(model, samples, accelerator, batch_size=2)
    assert torch.equal(found.nll, cast.nll) and torch.equal(found.entropy, cast.entropy)


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_gradients_of_samples_are_made_as_in_the_warm_up(saved: tuple[Path, Path], precision: str) -> None:
    half = precision == "bf16"
    training = Training(mixed_precision=precision, tuning="lora")  # type: ignore[arg-type]
    warmup: Any = SimpleNamespace(dtype="bfloat16", training=training)
    model = _adapted(saved[0], warmup, saved[1], recompute=False)
    assert casts(model) == {not half}
    samples = oracles.random_samples([(5, 9), (3, 7)], seed=0)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found, _ = SampleGradients(model).of(samples, torch.device("cpu"))
    exact, _ = SampleGradients(model.float()).of(samples, torch.device("cpu"))
    assert found.dtype == torch.float32 and found.shape == exact.shape
    assert float((found - exact).norm()) <= 0.1 * float(exact.norm())
