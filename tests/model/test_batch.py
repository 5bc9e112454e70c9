"""Packing, attention over packed samples, and the packed model: against transformers' own padded forward."""

import copy
from collections.abc import Callable
from typing import Any

import oracles
import pytest
import torch
from gradients import FAMILIES, assert_same_gradients, masks_of, naive_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.model.batch import Packed, pack, pack_whole, without
from qtuning.model.packed import PackedModel, causal_lm_of, check_packed_forward

CPU = torch.device("cpu")
SHAPES = [(3, 9), (1, 1), (4, 14), (2, 6)]


def test_layout() -> None:
    first = Sample(0, torch.tensor([5, 6, 7, 8, 9]), 2)
    second = Sample(1, torch.tensor([10, 11, 12]), 1)
    packed = pack([first, second], [torch.tensor([True, True, False]), torch.tensor([False, True])], [1.0, 2.5])
    assert packed is not None
    # the last kept token of each sample is a label only, and nothing after it is forwarded
    assert packed.input_ids.tolist() == [5, 6, 7, 10, 11]
    assert packed.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert packed.lengths == (3, 2)
    assert packed.source.tolist() == [1, 2, 4]
    assert packed.labels.tolist() == [7, 8, 12]
    assert packed.weights.tolist() == [1.0, 1.0, 2.5]
    assert (packed.tokens, packed.targets) == (5, 3)
    assert (packed.rows, packed.counts) == ((0, 1), (2, 1))


def test_layout_of_whole_sequences() -> None:
    """Last tokens are inputs here; what the last position predicts has a place but no meaning."""
    samples = [Sample(0, torch.tensor([5, 6, 7, 8]), 2), Sample(1, torch.tensor([10, 11]), 1)]
    layouts = {predicting: pack_whole(samples, predicting) for predicting in ("everywhere", "response", "nowhere")}
    for packed in layouts.values():
        assert packed.input_ids.tolist() == [5, 6, 7, 8, 10, 11]
        assert packed.position_ids.tolist() == [0, 1, 2, 3, 0, 1]
        assert (packed.lengths, packed.rows) == ((4, 2), (0, 1))
    assert layouts["everywhere"].source.tolist() == [0, 1, 2, 3, 4, 5]
    assert layouts["everywhere"].labels.tolist() == [6, 7, 8, 5, 11, 10]
    assert layouts["response"].source.tolist() == [1, 2, 4]
    assert layouts["response"].labels.tolist() == [7, 8, 11]
    assert [layouts[name].counts for name in layouts] == [(4, 2), (2, 1), (0, 0)]


def test_removed_tokens_leave_the_sequence() -> None:
    """Reading A8: what follows a removed token is predicted without it."""
    sample = Sample(7, torch.tensor([5, 6, 20, 21, 22, 23]), 2)
    shorter = without(sample, torch.tensor([True, False, False, True]))
    assert (shorter.number, shorter.prompt, shorter.tokens.tolist()) == (7, 2, [5, 6, 20, 23])
    assert sample.tokens.tolist() == [5, 6, 20, 21, 22, 23]
    packed = pack([shorter, without(sample, torch.zeros(4, dtype=torch.bool))])
    assert packed is not None and packed.rows == (0,)
    assert packed.input_ids.tolist() == [5, 6, 20] and packed.labels.tolist() == [20, 23]
    assert packed.position_ids.tolist() == [0, 1, 2]
    assert torch.equal(without(sample, torch.ones(4, dtype=torch.bool)).tokens, sample.tokens)


def test_nothing_kept_is_no_batch() -> None:
    samples = oracles.random_samples(SHAPES, seed=0)
    assert pack(samples, [torch.zeros(s.response_length, dtype=torch.bool) for s in samples]) is None
    assert pack([]) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 8)), min_size=1, max_size=6), st.data())
def test_every_kept_token_is_predicted_once_from_its_own_past(
    shapes: list[tuple[int, int]], data: st.DataObject
) -> None:
    samples = oracles.random_samples(shapes, seed=1)
    masks = [
        torch.tensor(data.draw(st.lists(st.booleans(), min_size=s.response_length, max_size=s.response_length)))
        for s in samples
    ]
    packed = pack(samples, masks)
    wanted = [
        (tuple(s.tokens[:t].tolist()), int(s.tokens[t]))
        for s, mask in zip(samples, masks, strict=True)
        for t in range(s.prompt, len(s.tokens))
        if mask[t - s.prompt]
    ]
    if packed is None:
        assert not wanted
        return
    assert sum(packed.lengths) == packed.tokens and len(packed.source) == len(packed.labels) == len(packed.weights)
    starts = [sum(packed.lengths[:index]) for index in range(len(packed.lengths))]
    found = []
    for source, label in zip(packed.source.tolist(), packed.labels.tolist(), strict=True):
        start = max(s for s in starts if s <= source)
        assert packed.position_ids[start : source + 1].tolist() == list(range(source - start + 1))
        found.append((tuple(packed.input_ids[start : source + 1].tolist()), label))
    assert found == wanted
    assert packed.rows == tuple(row for row, mask in enumerate(masks) if bool(mask.any()))
    assert packed.counts == tuple(int(masks[row].sum()) for row in packed.rows)
    # and no more goes through the model than the predictions need
    assert packed.tokens == sum(
        s.prompt + int(mask.nonzero().max()) for s, mask in zip(samples, masks, strict=True) if bool(mask.any())
    )


def test_moving_changes_nothing() -> None:
    packed = pack(oracles.random_samples(SHAPES, seed=0))
    assert packed is not None
    moved = packed.to(CPU)
    assert isinstance(moved, Packed) and torch.equal(moved.input_ids, packed.input_ids)
    assert (moved.lengths, moved.rows, moved.counts) == (packed.lengths, packed.rows, packed.counts)


MASKS: dict[str, Callable[[list[Sample]], list[Tensor]]] = {
    "all": lambda samples: [torch.ones(s.response_length, dtype=torch.bool) for s in samples],
    "half": lambda samples: masks_of(samples, seed=1),
    "few": lambda samples: masks_of(samples, seed=2, share=0.15),
    "some samples without a token": lambda samples: [
        mask & (index % 2 == 1) for index, mask in enumerate(masks_of(samples, seed=3, share=0.6))
    ],
    "one token in all": lambda samples: [
        torch.arange(s.response_length) == (4 if index == 2 else -1) for index, s in enumerate(samples)
    ],
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_the_naive_masked_batch(tiny_llama: Any, name: str, checkpointing: bool) -> None:
    samples = oracles.random_samples(SHAPES, seed=5)
    masks, weights = MASKS[name](samples), [1.0, 1.0, 0.5, 2.0]
    truth, gradients = naive_gradients(tiny_llama, samples, masks, weights)
    model = copy.deepcopy(tiny_llama)
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    wrapped = PackedModel(model).train()
    packed = pack(samples, masks, weights)
    assert packed is not None
    loss, _ = wrapped(packed)
    loss.backward()
    assert float(loss) == pytest.approx(truth, rel=2e-6)
    assert_same_gradients(wrapped, gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_its_own_forward(build: Callable[..., Any], family: str) -> None:
    """Sequences longer than the sliding window, soft caps strong enough to bend, heads scaled and tied."""
    name, config = FAMILIES[family]
    model = build(name, **config)
    samples = oracles.random_samples(SHAPES, seed=6)
    masks = masks_of(samples, seed=7, share=0.7)
    truth, gradients = naive_gradients(model, samples, masks, [1.0] * len(samples))
    wrapped = PackedModel(model).train()
    packed = pack(samples, masks)
    assert packed is not None
    loss, _ = wrapped(packed)
    loss.backward()
    assert float(loss) == pytest.approx(truth, rel=2e-6)
    assert_same_gradients(wrapped, gradients)


def test_the_sliding_window_is_really_in_use(build: Callable[..., Any]) -> None:
    """Else the tests above would pass without one."""
    packed = pack(oracles.random_samples(SHAPES, seed=6))
    assert packed is not None
    narrow, wide = (float(PackedModel(build("mistral", sliding_window=w)).score(packed)[0].sum()) for w in (5, 64))
    assert abs(narrow - wide) > 0.01


def test_lora_takes_part(tiny_llama: Any) -> None:
    """A peft-wrapped model is scored and trained with its adapters; the base and the head stay frozen."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    adapted = get_peft_model(
        copy.deepcopy(tiny_llama), LoraConfig(r=2, lora_alpha=1, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    samples = oracles.random_samples(SHAPES, seed=8)
    masks = masks_of(samples, seed=9)
    truth, gradients = naive_gradients(adapted, samples, masks, [1.0] * len(samples))
    wrapped = PackedModel(adapted)
    assert causal_lm_of(adapted) is adapted.get_base_model() and causal_lm_of(tiny_llama) is tiny_llama
    packed = pack(samples, masks)
    assert packed is not None
    loss, _ = wrapped(packed)
    loss.backward()
    assert float(loss) == pytest.approx(truth, rel=2e-6)
    assert gradients and all("lora_" in name for name in gradients)
    assert_same_gradients(wrapped, gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_accepts(build: Callable[..., Any], family: str) -> None:
    name, config = FAMILIES[family]
    wrapped = PackedModel(build(name, **config)).train()
    samples = oracles.random_samples([(3, 9), (2, 6)], seed=10)
    assert check_packed_forward(wrapped, samples, CPU) <= 1e-5
    assert wrapped.training
    # and the packed attention is in place again
    packed = pack(samples)
    assert packed is not None and torch.isfinite(wrapped(packed)[0])


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (
            "gpt_oss",
            {
                "num_local_experts": 2,
                "num_experts_per_tok": 1,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
        ("bloom", {}),
    ],
    ids=["attention sinks", "alibi"],
)
def test_the_check_refuses_attention_we_do_not_know(
    build: Callable[..., Any], family: str, config: dict[str, Any]
) -> None:
    wrapped = PackedModel(build(family, **config))
    with pytest.raises(UserError, match=r"ForCausalLM: the packed forward differs .* not known"):
        check_packed_forward(wrapped, oracles.random_samples([(3, 9), (2, 6)], seed=11), CPU)


def test_the_check_refuses_a_head_we_do_not_know(tiny_llama: Any) -> None:
    from transformers import LlamaForCausalLM

    class Tempered(LlamaForCausalLM):
        """Scales its logits in the forward, and says so nowhere."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 1.05
            return output

    model = Tempered(copy.deepcopy(tiny_llama.config))
    model.load_state_dict(tiny_llama.state_dict())
    with pytest.raises(UserError, match="Tempered: the packed forward differs"):
        check_packed_forward(PackedModel(model), oracles.random_samples([(3, 9), (2, 6)], seed=12), CPU)


def test_the_check_refuses_nan(tiny_llama: Any) -> None:
    wrapped = PackedModel(copy.deepcopy(tiny_llama))
    with torch.no_grad():
        wrapped.get_parameter("model.lm_head.weight").fill_(float("nan"))
    with pytest.raises(UserError, match=r"its weights hold NaN or infinity, or numbers .* too large for float32$"):
        check_packed_forward(wrapped, oracles.random_samples([(3, 9), (2, 6)], seed=12), CPU)
