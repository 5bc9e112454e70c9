"""Updates on a GPU that is not there (fake_gpu.py): no tensor on the wrong device, no dtype that a kernel lacks, and no
wait but the ones that are meant."""

import copy
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from fake_gpu import GPU, FakeAccelerator, FakeGpu, fake_gpu
from loops import GLOBAL, REUSE, SHAPES, cell_of, pooling, train_set_of
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from qtuning.model.load import adapt_under_autocast
from qtuning.model.packed import PackedModel, causal_lm_of
from qtuning.pruners.method import method_of
from qtuning.scoring.scores import embed
from qtuning.train.checkpoint import Checkpointer
from qtuning.train.step import TrainingLoop

BOTH = (0.5, 0.5)
BFLOAT16, FLOAT32 = ("_varlen_attn", torch.bfloat16), ("scaled_dot_product_attention", torch.float32)
EVENTS = 2  # waits for the seconds of scoring and of training, when all is done


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch) as found:
        yield found


def adapted(model: nn.Module, *targets: str) -> nn.Module:
    """bfloat16 weights under float32 adapters; on all linear layers if no targets are named."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=list(targets) or "all-linear")
    return get_peft_model(copy.deepcopy(model).to(torch.bfloat16), config)  # type: ignore[arg-type]


def started(gpu: FakeGpu, model: nn.Module, cell: Any) -> TrainingLoop:
    """A loop as training puts it together, on the GPU."""
    samples = oracles.random_samples(SHAPES, seed=0)
    accelerator: Any = FakeAccelerator(cell.training.mixed_precision == "bf16")
    wrapped = gpu.move(PackedModel(model))
    if cell.training.mixed_precision == "bf16":
        adapt_under_autocast(wrapped)
    prepared = accelerator.prepare(wrapped)
    trainable = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3, fused=True)
    loop = TrainingLoop(cell, method_of(cell.pruning), train_set_of(samples), accelerator, prepared, optimizer)
    gpu.waits = gpu.moved = gpu.pageable = 0
    gpu.attention.clear()
    return loop


def an_update(gpu: FakeGpu, model: nn.Module, cell: Any) -> dict[str, Any]:
    """The metrics of the first update of a cell."""
    loop = started(gpu, model, cell)
    record, _ = loop.step(next(loop.windows()))
    assert record["seconds_training"] == 1.5, "by events"
    assert loop.optimizer is not None and loop.optimizer.state
    assert all(state["exp_avg"].device == GPU for state in loop.optimizer.state.values())
    assert gpu.pageable == 0, "whatever goes there goes from pinned memory, and nothing waits for it"
    return record


def test_an_update_waits_once_a_scored_batch_and_once_for_its_numbers(gpu: FakeGpu, tiny_llama: Any) -> None:
    """LoRA on bfloat16 weights: one copy there for each batch that is scored or trained, one varlen call a layer."""
    cell = cell_of("q-tuning", BOTH, tuning="lora", mixed_precision="bf16")  # 2 batches an update
    record = an_update(gpu, adapted(tiny_llama), cell)
    assert 0 < record["tokens_kept"] < record["response_tokens"]
    assert gpu.waits == 2 + 1 + EVENTS
    assert gpu.moved == 2 + 2
    assert gpu.attention == [BFLOAT16] * 2 * (2 + 2)


# method, options, training; batches that are scored, that are trained
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], int, int]] = {
    "everything": ("full", {}, {}, 0, 2),
    "random, nothing scored": ("random", {}, {}, 0, 2),
    "together": ("q-tuning", GLOBAL, {}, 2, 2),
    "graphs reused": ("q-tuning", REUSE, {}, 2, 2),
    "pooled": ("q-tuning", pooling(2), {"batch_size": 2, "accumulation": 1}, 2, 1),
    "scores in bfloat16": ("q-tuning", {"scoring": {"precision": "bfloat16"}}, {"mixed_precision": "no"}, 2, 2),
    "no autocast": ("q-tuning", {}, {"mixed_precision": "no"}, 2, 2),
    "entropy of the sequence": ("q-tuning", {"entropy": "sequence"}, {}, 2, 2),
    "attention": ("random+fastv", {"layer": -1}, {}, 2, 2),
    "scores and attention": ("q-tuning+fastv", {"layer": -1}, {}, 2, 2),
    "attention to raters": ("random+sparsevlm", {"layer": 1}, {}, 2, 2),
    "drawn before the epoch": ("entropy+random", {}, {}, 5, 2),
    "own losses": ("infobatch+ppl", {}, {}, 2, 2),
    "checkpointed": ("q-tuning", {}, {"gradient_checkpointing": True}, 2, 2),
}


WAYS = [(name, "full") for name in CASES]
WAYS += [(name, "lora") for name in ("together", "graphs reused", "attention to raters", "no autocast", "checkpointed")]


@pytest.mark.parametrize(("name", "tuning"), WAYS)
def test_every_way_to_score_and_train_stays_on_the_gpu(gpu: FakeGpu, build: Any, name: str, tuning: str) -> None:
    """LoRA: bfloat16 weights; full: float32 weights, under autocast unless the case says otherwise."""
    method, options, training, scored, trained = CASES[name]
    cell = cell_of(method, BOTH, options=options, **{"tuning": tuning, "mixed_precision": "bf16"} | training)
    model = build("llama", num_hidden_layers=1)
    model = adapted(model, "q_proj", "down_proj") if tuning == "lora" else model
    if training.get("gradient_checkpointing"):
        causal_lm_of(model).activation_checkpointing_enable()
    an_update(gpu, model, cell)
    assert (gpu.waits - EVENTS, gpu.moved) == (scored + 1, scored + trained)
    exact = tuning == "full" and cell.training.mixed_precision == "no"
    assert gpu.attention and set(gpu.attention) <= ({FLOAT32, BFLOAT16} if exact else {BFLOAT16})
    assert (FLOAT32 in gpu.attention) == exact


@pytest.mark.parametrize("options", [{}, REUSE])
def test_an_update_walks_through_no_modules(
    gpu: FakeGpu, tiny_llama: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """A 7B model under LoRA has 2,666: each walk takes milliseconds in which the GPU runs dry."""
    cell = cell_of("q-tuning", BOTH, options=options, tuning="lora", mixed_precision="bf16")
    loop = started(gpu, adapted(tiny_llama), cell)
    windows = loop.windows()
    loop.step(next(windows))  # in which the modules are listed once
    walks: list[str] = []

    def counted(name: str) -> Any:
        walk = getattr(nn.Module, name)

        def count(*arguments: Any, **options: Any) -> Any:
            walks.append(name)
            return walk(*arguments, **options)

        return count

    for name in ("modules", "named_modules", "parameters", "named_parameters", "train", "eval", "zero_grad", "apply"):
        monkeypatch.setattr(nn.Module, name, counted(name))
    loop.step(next(windows))
    assert not walks


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "qwen3"])
def test_other_families_stay_on_the_gpu(gpu: FakeGpu, build: Any, family: str) -> None:
    """Sliding windows, soft caps, norms of queries and keys."""
    settings: dict[str, Any] = {} if family == "qwen3" else {"sliding_window": 5}
    if family.startswith("gemma"):
        settings |= {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8}
    cell = cell_of("q-tuning", BOTH, tuning="lora", mixed_precision="bf16")
    an_update(gpu, adapted(build(family, **settings), "q_proj", "down_proj"), cell)
    assert set(gpu.attention) == (set() if family == "gemma2" else {BFLOAT16}), "gemma2 has soft caps"


def test_between_updates_nothing_is_asked_of_the_gpu(gpu: FakeGpu, tiny_llama: Any, tmp_path: Path) -> None:
    """Whether it is time for a checkpoint is for the clock of the processor to say."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    loop = started(gpu, copy.deepcopy(tiny_llama), cell_of("full"))
    try:
        Checkpointer(loop, tmp_path, {}, 1e9, time.perf_counter(), time.process_time()).after_update(None, last=False)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert gpu.waits == gpu.moved == 0 and not list(tmp_path.iterdir())


def test_embeddings_are_averaged_on_the_gpu(gpu: FakeGpu, tiny_llama: Any) -> None:
    """[B, H] numbers come back, not those of every position."""
    model = gpu.move(PackedModel(copy.deepcopy(tiny_llama)))
    samples = oracles.random_samples(SHAPES[:4], seed=0)
    found, _ = embed(model, samples, GPU)  # type: ignore[arg-type]
    assert found.shape == (4, 32) and gpu.waits == 1


def test_an_old_gpu_goes_by_segments(monkeypatch: pytest.MonkeyPatch, tiny_llama: Any) -> None:
    """Turing has no flash attention: grouped keys are expanded, and cuDNN is off (fake_gpu.py asserts both)."""
    with fake_gpu(monkeypatch, capability=(7, 5)) as turing:
        cell = cell_of("q-tuning", BOTH, tuning="lora", mixed_precision="bf16")
        an_update(turing, adapted(tiny_llama, "q_proj"), cell)
    assert set(turing.attention) == {("scaled_dot_product_attention", torch.bfloat16)}


def test_mistakes_are_found(gpu: FakeGpu, tiny_llama: Any) -> None:
    """A look at a value, a tensor on the wrong device, a copy that waits: what this file relies on."""
    gpu.pageable = 0
    torch.ones(3).to(GPU, non_blocking=True), torch.ones(3, pin_memory=True).to(GPU)
    assert gpu.pageable == 2
    weight = gpu.move(copy.deepcopy(tiny_llama)).lm_head.weight
    with pytest.raises(DataDependentOutputException):
        float(weight.sum())
    with pytest.raises(DataDependentOutputException):
        bool(torch.isfinite(weight).all())
    with pytest.raises(AssertionError, match="convert all Tensors to FakeTensors"):
        weight + torch.ones(97, 32)
    with pytest.raises(AssertionError, match="convert all Tensors to FakeTensors"):
        weight.index_select(0, torch.tensor([3]))
