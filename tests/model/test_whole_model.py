"""Models that cannot be taken apart: their own forward on padded samples, against that of each sample alone."""

import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import oracles
import pytest
import torch
from gradients import assert_same_gradients, masks_of, naive_gradients
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qtuning.errors import UserError
from qtuning.model.batch import Packed, Sample, pack
from qtuning.model.packed import PackedModel
from qtuning.model.whole import LOGITS, SLACK, WholeModel, groups, wrap
from qtuning.scoring.scores import observe
from qtuning.train.cost import shape_of

CPU = torch.device("cpu")
SHAPES = [(3, 9), (1, 1), (4, 14), (2, 6), (3, 8)]
FAMILIES: dict[str, dict[str, Any]] = {
    "bloom": {},  # alibi: its attention takes no arguments of ours
    "gpt_oss": {  # attention sinks, experts
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
}


def tempered(tiny_llama: Any) -> Any:
    """A Llama whose logits are scaled word by word with learned factors, of which its configuration says nothing."""
    from transformers import LlamaForCausalLM

    class TemperedForCausalLM(LlamaForCausalLM):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.factors = nn.Parameter(torch.linspace(0.5, 1.5, config.vocab_size))

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * self.factors
            return output

    model = TemperedForCausalLM(copy.deepcopy(tiny_llama.config))
    model.load_state_dict(tiny_llama.state_dict(), strict=False)
    return model


@pytest.fixture(params=["learned factors", *FAMILIES])
def strange(request: Any, build: Callable[..., Any], tiny_llama: Any) -> Any:
    if request.param in FAMILIES:
        model = build(request.param, **FAMILIES[request.param])
        model.set_experts_implementation("eager")  # the default one knows no float64, which the truth is computed in
        return model
    return tempered(tiny_llama)


def packed_of(samples: list[Sample], *more: Any) -> Packed:
    packed = pack(samples, *more)
    assert packed is not None
    return packed


def test_scores_loss_and_gradients_are_those_of_its_own_forward(strange: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtuning.model.whole.LOGITS", 2 * 97 * 18)  # two samples at a time
    samples = oracles.random_samples(SHAPES, seed=1)
    masks, weights = masks_of(samples, seed=2), [1.0, 1.0, 0.5, 2.0, 1.0]
    truth, gradients = naive_gradients(strange, samples, masks, weights)
    exact = copy.deepcopy(strange).double()
    with torch.no_grad():
        rows = [exact(input_ids=s.tokens[None]).logits[0, s.prompt - 1 : -1].numpy() for s in samples]
    with pytest.warns(UserWarning, match="runs as a whole, through full logits") as caught:
        wrapped, difference = wrap(strange, samples, CPU)
    assert isinstance(wrapped, WholeModel) and difference < 1e-4
    assert len([warning for warning in caught if "as a whole" in str(warning.message)]) == 1

    scores = observe(wrapped.train(), samples, {"scores"}, None, CPU).scores
    assert scores is not None and wrapped.training
    nll = [oracles.token_nll(z, s.tokens[s.prompt :].tolist()) for z, s in zip(rows, samples, strict=True)]
    torch.testing.assert_close(scores.nll, torch.cat([torch.as_tensor(part) for part in nll]), rtol=0, atol=1e-5)
    entropy = torch.cat([torch.as_tensor(oracles.token_entropy(z)) for z in rows])
    torch.testing.assert_close(scores.entropy, entropy, rtol=0, atol=1e-5)

    packed, loss = packed_of(samples, masks, weights), 0.0
    pieces = wrapped.pieces(packed)
    assert len(pieces) > 1 and sorted(row for piece in pieces for row in piece.rows) == sorted(packed.rows)
    losses: dict[int, torch.Tensor] = {}
    for piece in pieces:
        part, token_losses = wrapped(piece)
        part.backward()
        loss += float(part.detach())
        losses |= dict(zip(piece.rows, token_losses.split(piece.counts), strict=True))
    assert loss == pytest.approx(truth, rel=2e-6)
    assert_same_gradients(wrapped, gradients)
    kept = torch.cat([torch.as_tensor(nll[row])[masks[row]] for row in packed.rows])
    torch.testing.assert_close(torch.cat([losses[row] for row in packed.rows]).double(), kept, rtol=0, atol=1e-5)


def test_a_known_family_is_taken_apart_without_a_word(tiny_llama: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped, _ = wrap(copy.deepcopy(tiny_llama), oracles.random_samples(SHAPES, seed=3), CPU)
    assert wrapped.taken_apart and type(wrapped) is PackedModel


def test_as_a_whole_a_known_family_scores_the_same(tiny_llama: Any) -> None:
    packed = packed_of(oracles.random_samples(SHAPES, seed=4))
    apart, whole = PackedModel(copy.deepcopy(tiny_llama)), WholeModel(copy.deepcopy(tiny_llama))
    for ours, theirs in zip(apart.score(packed), whole.score(packed), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-6)


def test_broken_weights_are_refused_all_the_same(tiny_llama: Any) -> None:
    model = copy.deepcopy(tiny_llama)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"the padded forward differs .* its weights are broken"):
        wrap(model, oracles.random_samples(SHAPES, seed=5), CPU)


def test_attention_cannot_be_had(tiny_llama: Any) -> None:
    whole = WholeModel(tempered(tiny_llama))
    with pytest.raises(UserError, match="TemperedForCausalLM: this pruner needs attention"):
        observe(whole, oracles.random_samples(SHAPES, seed=6), {"attention"}, 1, CPU)


def test_flops_are_those_of_padded_batches_and_full_logits(tiny_llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, and by PyTorch's own counter, which takes attention for a full square and sees rotary angles."""
    monkeypatch.setattr("qtuning.model.whole.LOGITS", 2 * 97 * 18)
    whole, apart = WholeModel(copy.deepcopy(tiny_llama)), PackedModel(copy.deepcopy(tiny_llama))
    shape, packed = shape_of(tiny_llama, False, False), packed_of(oracles.random_samples(SHAPES, seed=7))
    assert packed.lengths == (11, 1, 17, 7, 10)
    padded = whole.forwarded(packed)
    assert sorted(padded.lengths) == [1, 7, 11, 11, 17] and padded.targets == 47, "11 and 10 go together"
    pairs = 17 * 9 + 2 * 11 * 6 + 7 * 4 + 1
    assert shape.forward_flops(padded) == 2 * shape.matmul * 47 + 4 * shape.attention * pairs + 2 * shape.head * 47
    assert apart.forwarded(packed) is packed
    with FlopCounterMode(display=False) as counter:
        whole.score(packed)
    seen = sum(n for name, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(name))
    products = shape.forward_flops(padded) - 4 * shape.attention * pairs
    squares = 4 * shape.attention * sum(length**2 for length in padded.lengths)
    assert products <= seen <= products * 1.01 + squares


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=30), st.sampled_from([97, 50_000, 10**6]))
def test_groups_hold_similar_lengths_and_a_bounded_number_of_logits(lengths: list[int], vocabulary: int) -> None:
    found = groups(lengths, vocabulary)
    assert sorted(itertools.chain.from_iterable(found)) == list(range(len(lengths)))
    for group in found:
        sizes = [lengths[index] for index in group]
        assert max(sizes) <= SLACK * min(sizes)
        assert len(group) == 1 or len(group) * max(sizes) * vocabulary <= LOGITS
