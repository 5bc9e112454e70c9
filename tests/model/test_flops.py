"""FLOPs against PyTorch's own counter of matrix products."""

import copy
from typing import Any

import oracles
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from qtuning.model.batch import Packed, pack
from qtuning.model.flops import ModelShape
from qtuning.model.packed import PackedModel
from qtuning.scoring.scores import observe
from qtuning.train.cost import shape_of

SHAPES = [(3, 9), (1, 4), (6, 2)]


def batch() -> Packed:
    packed = pack(oracles.random_samples(SHAPES, seed=0))
    assert packed is not None
    return packed


def attention_flops(shape: ModelShape, packed: Packed, full: bool) -> float:
    """Two products of 2 FLOPs a pair and channel; `full` counts the pairs that causality leaves out as well."""
    pairs = sum(n * n if full else n * (n + 1) / 2 for n in packed.lengths)
    return 2 * 2 * shape.attention * pairs


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_forward_flops(build: Any, family: str, tied: bool) -> None:
    wrapped = PackedModel(build(family, tie_word_embeddings=tied))
    packed, shape = batch(), shape_of(wrapped.model, False, False)
    with FlopCounterMode(display=False) as counter:
        wrapped.score(packed)
    # the counter takes attention as a full square (where it sees it at all) and counts rotary angles
    seen = [t for name, t in counter.get_flop_counts()["Global"].items() if "attention" not in str(name)]
    ours = shape.forward_flops(packed.positions) - attention_flops(shape, packed, full=False)
    assert ours <= sum(seen) <= ours + attention_flops(shape, packed, full=True) + 0.01 * ours


def test_forward_flops_by_hand(tiny_llama: Any) -> None:
    """Hidden 32, 4 heads and 2 key-value heads of 8, intermediate 48, 2 layers, vocabulary 97."""
    shape = shape_of(tiny_llama, False, False)
    assert shape.matmul == 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48)
    assert (shape.attention, shape.head) == (2 * 4 * 8, 97 * 32)
    packed = batch()
    assert (packed.lengths, packed.tokens, packed.targets) == ((11, 4, 7), 22, 15)
    pairs = 66 + 10 + 28
    assert (
        shape.forward_flops(packed.positions)
        == 2 * shape.matmul * 22 + 4 * shape.attention * pairs + 2 * shape.head * 15
    )


def test_a_forward_that_stops_early_costs_the_layers_that_ran(build: Any) -> None:
    """FastV's attention after layer 2 of 6 costs a third of the layers, at most, and no head."""
    wrapped = PackedModel(build("llama", num_hidden_layers=6))
    shape, samples = shape_of(wrapped.model, False, False), oracles.random_samples([(8, 24), (5, 30)], seed=0)
    with FlopCounterMode(display=False) as counter:
        observed = observe(wrapped, samples, {"attention"}, 2, torch.device("cpu"))
    whole = shape.forward_flops(observed.packed.positions)
    ours = shape.forward_flops(observed.packed.positions, observed.depth)
    assert ours == pytest.approx(whole / 3) and observed.packed.targets == 0
    assert whole / 6 < counter.get_total_flops() <= ours
    # the head does not become cheaper with the layers
    head = 2 * shape.head * batch().targets
    assert shape.forward_flops(batch().positions, 0.5) == (shape.forward_flops(batch().positions) - head) / 2 + head


@pytest.mark.parametrize(("frozen", "checkpointing", "factor"), [(0, 0, 3), (1, 0, 2), (0, 1, 4), (1, 1, 3)])
def test_training_flops(tiny_llama: Any, frozen: bool, checkpointing: bool, factor: int) -> None:
    shape, packed = shape_of(tiny_llama, bool(frozen), bool(checkpointing)), batch()
    assert shape.training_flops(packed.positions) == factor * shape.forward_flops(packed.positions)


def test_adapters_do_not_change_the_shape(tiny_llama: Any) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(copy.deepcopy(tiny_llama), LoraConfig(r=4, target_modules="all-linear"))
    assert shape_of(adapted, True, False) == shape_of(tiny_llama, True, False)
