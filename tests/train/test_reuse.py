"""Training through the forward that scored: exact gradients, freed graphs, and what it refuses."""

import copy
import gc
import weakref
from typing import Any

import oracles
import pytest
import torch
from gradients import FAMILIES, assert_same_gradients, masks_of, naive_gradients

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.model.batch import pack
from qtuning.model.packed import PackedModel
from qtuning.scoring.scores import observe
from qtuning.train.cost import shape_of
from qtuning.train.reuse import observe_with_graphs, require_reusable

CPU = torch.device("cpu")
SHAPES = [(3, 9), (1, 1), (4, 14), (2, 6)]
WEIGHTS = [1.0, 1.0, 0.5, 2.0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dropped", [set(), {0, 3}])
def test_gradients_are_those_of_the_masked_loss(build: Any, family: str, dropped: set[int]) -> None:
    name, settings = FAMILIES[family]
    model = build(name, **settings)
    samples = oracles.random_samples(SHAPES, seed=1)
    masks = [m & (row not in dropped) for row, m in enumerate(masks_of(samples, seed=2, share=0.7))]
    truth, gradients = naive_gradients(model, samples, masks, WEIGHTS)
    wrapped = PackedModel(model).train()
    observed, graphs = observe_with_graphs(wrapped, samples, {"scores"}, CPU)
    packed = pack(samples, masks, WEIGHTS)
    assert packed is not None and observed.scores is not None
    graphs.keep_only(packed.rows)
    loss, nll = graphs.loss(wrapped, packed)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(truth, rel=2e-6)
    assert_same_gradients(wrapped, gradients)
    kept = observed.scores.nll[torch.cat(masks)]
    torch.testing.assert_close(nll.double(), kept, rtol=0, atol=5e-6)


@pytest.mark.parametrize("needs", [{"scores"}, {"scores", "sequence-entropy"}])
def test_scores_are_those_without_graphs(tiny_llama: Any, needs: set[str]) -> None:
    samples = oracles.random_samples(SHAPES, seed=3)
    plain = observe(PackedModel(copy.deepcopy(tiny_llama)), samples, needs, None, CPU)
    seen, _ = observe_with_graphs(PackedModel(copy.deepcopy(tiny_llama)), samples, needs, CPU)
    assert plain.scores is not None and seen.scores is not None
    assert (plain.packed.tokens, plain.depth) == (seen.packed.tokens, seen.depth)
    torch.testing.assert_close(seen.scores.nll, plain.scores.nll, rtol=0, atol=5e-6)
    torch.testing.assert_close(seen.scores.entropy, plain.scores.entropy, rtol=0, atol=5e-6)
    if "sequence-entropy" in needs:
        torch.testing.assert_close(seen.scores.sequence_ent, plain.scores.sequence_ent, rtol=0, atol=5e-6)
    assert not seen.scores.nll.requires_grad


def test_lora_takes_part_under_checkpointing(tiny_llama: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model = copy.deepcopy(tiny_llama)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    torch.manual_seed(3)
    # small adapters: with large ones a naive float32 step is itself further from the truth than is asked for
    settings = LoraConfig(r=2, lora_alpha=1, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(model, settings)
    samples = oracles.random_samples(SHAPES, seed=4)
    masks = masks_of(samples, seed=5)
    _, gradients = naive_gradients(adapted, samples, masks, WEIGHTS)
    wrapped = PackedModel(adapted).train()
    _, graphs = observe_with_graphs(wrapped, samples, {"scores"}, CPU)
    packed = pack(samples, masks, WEIGHTS)
    assert packed is not None and gradients
    graphs.loss(wrapped, packed)[0].backward()
    assert_same_gradients(wrapped, gradients)


def test_graphs_of_dropped_samples_are_freed(packed_llama: PackedModel) -> None:
    samples = oracles.random_samples(SHAPES, seed=6)
    alive: list[weakref.ref[torch.Tensor]] = []

    def remember(_: Any, inputs: Any, output: torch.Tensor) -> None:
        alive.append(weakref.ref(output))

    packed_llama.causal_lm.model.layers[0].mlp.gate_proj.register_forward_hook(remember)  # type: ignore[union-attr, index]
    _, graphs = observe_with_graphs(packed_llama.train(), samples, {"scores"}, CPU)
    gc.collect()
    assert [ref() is not None for ref in alive] == [True] * 4, "activations that backward needs"
    graphs.keep_only({2})
    gc.collect()
    assert [ref() is not None for ref in alive] == [False, False, True, False]
    assert [len(hidden) for hidden in graphs.hidden.values()] == [sum(SHAPES[2]) - 1]


def test_the_embedding_gets_one_gradient(packed_llama: PackedModel) -> None:
    """Not one of the size of the vocabulary a sample."""
    samples = oracles.random_samples(SHAPES, seed=7)
    calls: list[Any] = []
    lookups: list[Any] = []
    embeddings: Any = packed_llama.causal_lm.get_input_embeddings()
    embeddings.weight.register_hook(calls.append)
    embeddings.register_forward_hook(lambda *_: lookups.append(1))
    _, graphs = observe_with_graphs(packed_llama.train(), samples, {"scores"}, CPU)
    packed = pack(samples)
    assert packed is not None
    graphs.loss(packed_llama, packed)[0].backward()
    assert len(calls) == len(lookups) == 1


def test_backward_flops_are_two_thirds_of_a_step_but_for_the_head(tiny_llama: Any) -> None:
    packed = pack(oracles.random_samples(SHAPES, seed=8))
    assert packed is not None
    full, frozen = (shape_of(tiny_llama, frozen, False) for frozen in (False, True))
    head, forward = 2 * full.head * packed.targets, full.forward_flops(packed.positions)
    assert full.backward_flops(packed.positions) == pytest.approx(2 * (forward - head) + 3 * head)
    assert frozen.backward_flops(packed.positions) == pytest.approx(forward - head + 2 * head)
    recomputed = shape_of(tiny_llama, False, True)
    assert recomputed.backward_flops(packed.positions) == pytest.approx(3 * forward)


@pytest.mark.parametrize(
    ("needs", "pruned_tokens", "message"),
    [
        ({"scores", "attention"}, "mask", "needs attention"),
        ({"scores"}, "remove", "pruned_tokens = 'remove'"),
    ],
)
def test_what_cannot_be_right_is_refused(
    packed_llama: PackedModel, needs: set[str], pruned_tokens: str, message: str
) -> None:
    require_reusable(packed_llama, {"scores"}, "mask")
    with pytest.raises(UserError, match=f"reuse-graph': .*{message}") as error:
        require_reusable(packed_llama, needs, pruned_tokens)
    assert "\n" not in str(error.value)


def test_dropout_is_refused_by_name(build: Any, tiny_llama: Any) -> None:
    from peft import LoraConfig, get_peft_model

    with pytest.raises(UserError, match="attention_dropout would blur"):
        require_reusable(PackedModel(build("llama", attention_dropout=0.1)), {"scores"}, "mask")
    lora = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1)
    with pytest.raises(UserError, match=r"lora_dropout.* would blur"):
        require_reusable(PackedModel(get_peft_model(copy.deepcopy(tiny_llama), lora)), {"scores"}, "mask")


def test_samples_are_told_apart_by_their_places(packed_llama: PackedModel) -> None:
    """A kept set in which the first samples are missing."""
    samples = [*oracles.random_samples(SHAPES, seed=9)]
    masks = [torch.zeros(s.response_length, dtype=torch.bool) for s in samples]
    masks[3][2] = True
    _, graphs = observe_with_graphs(packed_llama.train(), samples, {"scores"}, CPU)
    packed = pack(samples, masks)
    assert packed is not None
    alone = Sample(0, samples[3].tokens, samples[3].prompt)
    only = pack([alone], [masks[3]])
    assert only is not None
    torch.testing.assert_close(graphs.loss(packed_llama, packed)[0], packed_llama(only)[0])
