"""What one layer's attention says, against transformers' own eager weights and a plain reading of the definitions."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.model.attention import Collected, Collector, attended, packed_attention
from qtuning.model.packed import PackedModel
from qtuning.scoring.scores import NonFinite, TokenAttention, observe

CPU = torch.device("cpu")
SHAPES = [(3, 9), (1, 1), (4, 14), (2, 6), (7, 1)]  # prompt, response
WINDOWED = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, two query heads a key": ("llama", {}),
    "mistral, sliding window": ("mistral", {"sliding_window": 5}),
    "gemma2, soft caps and a window": ("gemma2", {**WINDOWED, "attn_logit_softcapping": 0.5}),
    "gemma3, both kinds of layer": ("gemma3_text", WINDOWED),
    "granite, scaled": ("granite", {"attention_multiplier": 0.2}),
}


def told(
    weights: NDArray[np.float64], states: NDArray[np.float64], prompt: int, tolerance: float = 1.0
) -> tuple[list[float], list[float], int]:
    """received, rated, rank of the head-mean matrix [L, L] of one sample with hidden states [L, H].

    tolerance: of the rank, in float32's own.
    """
    length = len(weights)
    response = range(prompt, length)
    received = [sum(weights[q][t] for q in range(length)) / length for t in response]
    relevance = dict.fromkeys(response, 0.0)
    for p in range(prompt):  # each prompt token has one vote, which it divides by similarity
        alike = {q: math.exp(float(np.dot(states[p], states[q]))) for q in response}
        for q in response:
            relevance[q] += alike[q] / sum(alike.values()) / prompt
    mean = sum(relevance.values()) / len(relevance)
    raters = [q for q in response if relevance[q] >= mean]
    rated = [sum(weights[q][t] for q in raters) / len(raters) for t in response]
    block = np.array([[weights[q][t] for t in response] for q in raters])
    values = np.linalg.svd(block, compute_uv=False)
    least = tolerance * max(block.shape) * np.finfo(np.float32).eps * values.max()
    return received, rated, int((values > least).sum())


def head_means(model: Any, sample: Sample) -> list[NDArray[np.float64]]:
    """[L, L] of every layer, from transformers' eager attention in float64 on the sample alone."""
    exact = copy.deepcopy(model).double()
    exact.set_attn_implementation("eager")
    with torch.no_grad():
        layers = exact(input_ids=sample.tokens[None], use_cache=False, output_attentions=True).attentions
    return [layer[0].double().mean(dim=0).numpy() for layer in layers]


def embedded(model: Any, sample: Sample) -> NDArray[np.float64]:
    """[L, H]: the hidden states before the first layer, in float64."""
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        return exact.get_input_embeddings()(sample.tokens).numpy()  # type: ignore[no-any-return]


def attention_of(model: PackedModel, samples: list[Sample], layer: int, *more: str) -> TokenAttention:
    observed = observe(model, samples, {"attention-rank", *more}, layer, CPU)
    assert observed.attention is not None
    return observed.attention


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_equals_the_models_own_attention(build: Callable[..., Any], family: str) -> None:
    name, config = FAMILIES[family]
    model = build(name, **config)
    wrapped = PackedModel(copy.deepcopy(model))
    samples = oracles.random_samples(SHAPES, seed=0)
    truth = [head_means(model, sample) for sample in samples]
    states = [embedded(model, sample) for sample in samples]
    for layer in (1, 2):
        mine = attention_of(wrapped, samples, layer)
        assert mine.rank is not None
        assert mine.received.dtype == mine.rated.dtype == torch.float64 and mine.rank.dtype == torch.int64
        every = zip(truth, states, samples, strict=True)
        expected = [told(means[layer - 1], state, sample.prompt) for means, state, sample in every]
        np.testing.assert_allclose(mine.received, np.concatenate([e[0] for e in expected]), atol=1e-6)
        np.testing.assert_allclose(mine.rated, np.concatenate([e[1] for e in expected]), atol=1e-6)
        assert mine.rank.tolist() == [e[2] for e in expected]


def test_the_definitions_by_hand() -> None:
    """One prompt token, two response tokens, each row uniform over what it may see."""
    third = 1 / 3
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [third, third, third]])
    # the first response token is like the prompt, so it is the only rater
    found = attended(weights, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 1, True)
    np.testing.assert_allclose(found.received, [5 / 18, 1 / 9], atol=1e-7)
    assert found.rated.tolist() == [0.5, 0.0] and found.rank == 1
    other = attended(weights, torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), 1, False)
    np.testing.assert_allclose(other.rated, [third, third], atol=1e-7)
    assert other.rank == 0, "nobody asked"


@pytest.mark.parametrize("count", range(1, 40))
def test_response_tokens_of_equal_relevance_all_rate(count: int) -> None:
    """The rounded mean of equal numbers can lie above every one of them."""
    for size in (0.0, 0.1, 1.0, 3.0):
        weights = torch.zeros(count + 2, count + 2)
        weights[2:, 0], weights[2:, 2:] = 0.1, torch.eye(count) * 0.9
        found = attended(weights, torch.full((count + 2, 3), size), 2, True)
        np.testing.assert_allclose(found.rated, [0.9 / count] * count, rtol=1e-6)
        assert found.rank == count


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.sampled_from([1.0, 8.0]), st.integers(0, 999))
def test_attended_equals_the_plain_reading(prompt: int, response: int, spread: float, seed: int) -> None:
    """Sharp attention too, whose matrix has not the rank of its rows."""
    length, rng = prompt + response, torch.Generator().manual_seed(seed)
    scores = torch.randn(length, length, generator=rng) * spread
    states = torch.randn(length, 4, generator=rng)
    weights = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf).softmax(dim=-1)
    found = attended(weights, states, prompt, True)
    plain = weights.double().numpy(), states.double().numpy(), prompt
    received, rated, least_rank = told(*plain, tolerance=3.0)
    np.testing.assert_allclose(found.received, received, atol=1e-12)
    np.testing.assert_allclose(found.rated, rated, atol=1e-12)
    # between the two lies what the rounding of the singular values may decide
    assert 1 <= least_rank <= found.rank <= told(*plain, tolerance=1 / 3)[2] <= response
    assert 0 < float(found.received.sum()) <= 1 + 1e-6


def test_equal_rows_lower_the_rank() -> None:
    """Three raters; two look alike but for what float32 cannot tell from nothing."""
    weights = torch.zeros(4, 4)
    weights[1:, 0] = 0.5
    weights[1, 1], weights[2, 1], weights[2, 2] = 0.5, 0.5, 1e-9
    weights[3, 1], weights[3, 3] = 0.25, 0.25
    assert attended(weights, torch.ones(4, 2), 1, True).rank == 2


def test_company_and_order_do_not_matter(packed_llama: PackedModel) -> None:
    samples = oracles.random_samples(SHAPES, seed=1)
    alone = [attention_of(packed_llama, [sample], 2) for sample in samples]
    for order in ([0, 1, 2, 3, 4], [4, 2, 1, 0, 3], [2, 4], [2, 2]):
        together = attention_of(packed_llama, [samples[index] for index in order], 2)
        for name in ("received", "rated"):
            expected = torch.cat([getattr(alone[index], name) for index in order])
            torch.testing.assert_close(getattr(together, name), expected, rtol=0, atol=1e-6)
        assert together.rank.tolist() == [int(alone[index].rank) for index in order]


def test_layers_count_from_either_end(packed_llama: PackedModel) -> None:
    samples = oracles.random_samples(SHAPES, seed=2)
    first, second = (attention_of(packed_llama, samples, layer).received for layer in (1, 2))
    assert not torch.allclose(first, second)
    assert torch.equal(attention_of(packed_llama, samples, -2).received, first)
    assert torch.equal(attention_of(packed_llama, samples, -1).received, second)


@pytest.mark.parametrize("layer", [0, 3, -3, None])
def test_a_layer_that_is_not_there_is_refused(packed_llama: PackedModel, layer: int | None) -> None:
    with pytest.raises(UserError, match=r"options\.layer: .*choose 1 to 2, or -2 to -1"):
        observe(packed_llama, oracles.random_samples(SHAPES, seed=2), {"attention"}, layer, CPU)


def test_a_layer_without_attention_is_refused(packed_llama: PackedModel) -> None:
    """Some families alternate attention with something else."""
    packed_llama.causal_lm.model.layers[0].self_attn.layer_idx = 7  # what is asked for never comes by
    with pytest.raises(UserError, match=r"options\.layer: layer 1 of the model has no attention"):
        observe(packed_llama, oracles.random_samples(SHAPES, seed=2), {"attention"}, 1, CPU)


@contextmanager
def counting(model: PackedModel) -> Iterator[list[str]]:
    """The modules that finish a forward, by name."""
    done: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: done.append(name))
        for name, module in model.causal_lm.named_modules()
    ]
    yield done
    for handle in handles:
        handle.remove()


def test_attention_alone_runs_no_later_layer_and_no_head(build: Callable[..., Any]) -> None:
    model = PackedModel(build("llama", num_hidden_layers=4)).train()
    samples = oracles.random_samples(SHAPES, seed=3)
    with counting(model) as done:
        observed = observe(model, samples, {"attention"}, 2, CPU)
    assert "model.layers.0" in done and "model.layers.1.self_attn.q_proj" in done
    beyond = ("model.layers.1.mlp", "model.layers.2", "model.layers.3", "model.norm", "lm_head")
    assert not [name for name in done if name.startswith(beyond)]
    assert (observed.depth, observed.scores, observed.packed.targets) == (0.5, None, 0)
    assert observed.packed.tokens == sum(len(sample.tokens) for sample in samples)
    assert model.training, "the mode is as before, although the forward was broken off"


@pytest.mark.parametrize("need", ["scores", "sequence-entropy"])
def test_attention_beside_scores_is_the_same_and_runs_every_layer(build: Callable[..., Any], need: str) -> None:
    model = PackedModel(build("llama", num_hidden_layers=4))
    samples = oracles.random_samples(SHAPES, seed=4)
    alone = attention_of(model, samples, 2)
    with counting(model) as done:
        observed = observe(model, samples, {"attention", need}, 2, CPU)
    assert "model.norm" in done and observed.depth == 1.0 and observed.attention is not None
    assert torch.equal(observed.attention.received, alone.received)
    assert torch.equal(observed.attention.rated, alone.rated)
    plain = observe(model, samples, {"scores"}, None, CPU)
    assert observed.scores is not None and plain.scores is not None and plain.attention is None
    torch.testing.assert_close(observed.scores.nll, plain.scores.nll, rtol=0, atol=5e-6)
    torch.testing.assert_close(observed.scores.entropy, plain.scores.entropy, rtol=0, atol=5e-6)


def test_attention_leaves_no_dropout_and_no_graph(build: Callable[..., Any]) -> None:
    model = PackedModel(build("llama", attention_dropout=0.5)).train()
    samples = oracles.random_samples(SHAPES, seed=5)
    first, second = (attention_of(model, samples, 2) for _ in range(2))
    assert torch.equal(first.received, second.received) and not first.received.requires_grad


def take(query: Tensor, key: Tensor, segments: tuple[int, ...], prompts: tuple[int, ...]) -> Collector:
    """What a collector finds of one call of the packed attention; scores are q k^T."""
    states = [torch.ones(length, 2) for length in segments]  # all response tokens rate
    collector = Collector(0, prompts, stop=True, states=states)
    module = nn.Module()
    module.layer_idx = 0  # type: ignore[assignment]
    with pytest.raises(Collected):
        packed_attention(module, query, key, key, None, segments=segments, collector=collector, scaling=1.0)
    return collector


def test_weights_are_float32_under_autocast() -> None:
    """A model in bfloat16 rounds its queries and keys; the weights made of them are not rounded once more."""
    rng = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 4, 12, 8, generator=rng).bfloat16() for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = take(query, key, (12,), (5,)).found[0]
    scores = query[0].double() @ key[0].double().transpose(1, 2)
    weights = scores.masked_fill(torch.ones(12, 12).triu(1).bool(), -math.inf).softmax(dim=-1).mean(dim=0)
    received, rated, _ = told(weights.numpy(), np.ones((12, 2)), 5)
    np.testing.assert_allclose(found.received, received, atol=1e-6)
    np.testing.assert_allclose(found.rated, rated, atol=1e-6)


def test_memory_holds_one_head_of_one_segment_at_a_time() -> None:
    """16 heads and 3 segments of 90: never 16 matrices, never one of 270 x 270."""

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.numel = max(self.numel, result.numel())
            return result

    query = torch.zeros(1, 16, 270, 1)
    with Largest() as largest:
        take(query, query, (90, 90, 90), (10, 20, 30))
    assert largest.numel == 90 * 90


def test_attention_that_is_not_finite_is_named_with_its_samples(packed_llama: PackedModel) -> None:
    samples = oracles.random_samples(SHAPES, seed=6)
    samples[2].tokens[-1] = 2  # no other sample has it, and as the last token it is no input of the loss
    with torch.no_grad():
        packed_llama.get_parameter("model.model.embed_tokens.weight")[2] = math.nan
    with pytest.raises(NonFinite, match=rf"attention .* samples \[{samples[2].number}\]"):
        observe(packed_llama, samples, {"attention"}, 1, CPU)
