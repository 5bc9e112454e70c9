"""Scores of a batch: the definitions, and independence of the company a sample is scored in."""

import copy
import math
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.model.batch import pack
from qtuning.model.packed import PackedModel, half_weights
from qtuning.scoring.scores import BatchScores, NonFinite, batch_scores, observe, segment_mean

CPU = torch.device("cpu")
SHAPES = [(3, 9), (1, 1), (7, 4), (2, 20), (5, 1), (1, 6)]  # prompt, response


def scored(model: PackedModel, samples: list[Sample]) -> BatchScores:
    packed = pack(samples)
    assert packed is not None
    return batch_scores(samples, *model.score(packed), everywhere=False)


def padded_logits(model: Any, samples: list[Sample]) -> list[Tensor]:
    """[L_i, V] of each sample, from one right-padded forward of the transformers model itself."""
    width = max(len(sample.tokens) for sample in samples)
    ids = torch.zeros(len(samples), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.tokens)] = sample.tokens
        mask[row, : len(sample.tokens)] = 1
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return [logits[row, : len(sample.tokens)] for row, sample in enumerate(samples)]


def test_definitions_against_a_right_padded_forward(tiny_llama: Any, packed_llama: PackedModel) -> None:
    samples = oracles.random_samples(SHAPES, seed=0)
    scores = scored(packed_llama, samples)
    assert scores.nll.dtype == scores.entropy.dtype == torch.float64
    assert scores.lengths.tolist() == [response for _, response in SHAPES]
    start = 0
    for index, (sample, logits) in enumerate(zip(samples, padded_logits(tiny_llama, samples), strict=True)):
        rows = logits[sample.prompt - 1 : -1].double().numpy()
        nll = oracles.token_nll(rows, sample.tokens[sample.prompt :].tolist())
        entropy = oracles.token_entropy(rows)
        part = slice(start, start + len(nll))
        np.testing.assert_allclose(scores.nll[part], nll, atol=5e-6)
        np.testing.assert_allclose(scores.entropy[part], entropy, atol=5e-6)
        np.testing.assert_allclose(scores.token_ppl[part], np.exp(nll), rtol=1e-5)
        assert float(scores.ppl[index]) == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-5)
        assert float(scores.ent[index]) == pytest.approx(sum(entropy) / len(entropy), abs=5e-6)
        start += len(nll)
    assert start == len(scores.nll)


def test_company_and_order_do_not_matter(packed_llama: PackedModel) -> None:
    samples = oracles.random_samples(SHAPES, seed=1)
    alone = [scored(packed_llama, [sample]) for sample in samples]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [2, 4], [3, 3, 3]):
        together = scored(packed_llama, [samples[index] for index in order])
        torch.testing.assert_close(together.nll, torch.cat([alone[i].nll for i in order]), rtol=0, atol=5e-6)
        torch.testing.assert_close(together.entropy, torch.cat([alone[i].entropy for i in order]), rtol=0, atol=5e-6)
        torch.testing.assert_close(together.ppl, torch.cat([alone[i].ppl for i in order]), rtol=1e-5, atol=0)


def test_samples_never_see_each_other(packed_llama: PackedModel) -> None:
    """Whatever stands in one sample, the scores of the others keep every bit."""
    samples = oracles.random_samples(SHAPES, seed=2)
    before = scored(packed_llama, samples)
    for changed in range(len(samples)):
        other = oracles.random_samples(SHAPES, seed=100 + changed)[changed]
        after = scored(packed_llama, [*samples[:changed], other, *samples[changed + 1 :]])
        for name in ("nll", "entropy"):
            old, new = (getattr(scores, name).split(before.lengths.tolist()) for scores in (before, after))
            assert not torch.equal(old[changed], new[changed])
            assert all(torch.equal(old[i], new[i]) for i in range(len(samples)) if i != changed)


def test_scoring_is_free_of_dropout_and_leaves_the_mode_alone(build: Any) -> None:
    model = PackedModel(build("llama", attention_dropout=0.5)).train()
    samples = oracles.random_samples(SHAPES, seed=3)
    first, second = scored(model, samples), scored(model, samples)
    assert torch.equal(first.nll, second.nll) and model.training
    packed = pack(samples)
    assert packed is not None
    assert not torch.equal(model(packed)[1], model(packed)[1]), "training itself drops out"
    assert not first.nll.requires_grad


def test_perplexity_of_extreme_losses_stays_finite() -> None:
    nll = torch.tensor([600.0, 0.0, 88.8], dtype=torch.float64)
    scores = BatchScores(nll, torch.zeros_like(nll), torch.tensor([1, 2]))
    np.testing.assert_allclose(scores.ppl, [math.exp(600.0), math.exp(44.4)], rtol=1e-12)
    assert bool(torch.isfinite(scores.token_ppl).all())


def test_equal_samples_have_equal_scores_wherever_they_stand() -> None:
    """Ties must be ties: the mean of a segment may not depend on the place of the segment."""
    rng = torch.Generator().manual_seed(0)
    for length in (1, 2, 3, 5, 17, 300):
        segment = torch.rand(length, generator=rng, dtype=torch.float64) * 7
        shifted = torch.cat([torch.rand(3, generator=rng, dtype=torch.float64), segment, segment, segment[:1], segment])
        lengths = torch.tensor([1, 2, length, length, 1, length])
        means = segment_mean(shifted, lengths).exp()
        assert float(means[2]) == float(means[3]) == float(means[5])
        assert float(segment_mean(segment, torch.tensor([length]))[0]) == pytest.approx(math.fsum(segment) / length)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_weights_are_named_with_their_samples(packed_llama: PackedModel, value: float) -> None:
    samples = oracles.random_samples(SHAPES, seed=4)
    samples[2].tokens[1] = 2  # no other sample has it
    with torch.no_grad():
        packed_llama.get_parameter("model.model.embed_tokens.weight")[2] = value
    with pytest.raises(NonFinite, match=rf"samples \[{samples[2].number}\]"):
        scored(packed_llama, samples)


def test_a_perplexity_beyond_float64_is_no_error(packed_llama: PackedModel) -> None:
    """exp(l) of a loss above 709 nats is infinite: perplexities stop below, the loss itself stays what it is."""
    with torch.no_grad():
        packed_llama.get_parameter("model.lm_head.weight").mul_(1e4)
    scores = scored(packed_llama, oracles.random_samples(SHAPES, seed=5))
    assert float(scores.nll.max()) > 1000 and bool(torch.isfinite(scores.nll).all())
    assert float(scores.token_ppl.max()) == float(scores.ppl.max()) == math.exp(700)


def test_an_infinite_loss_names_its_samples(build: Any) -> None:
    """A token that the model holds to be impossible, while every entropy is finite."""
    model = PackedModel(build("phi"))
    samples = oracles.random_samples(SHAPES, seed=6)
    samples[3].tokens[-1] = 2  # no other sample has it
    with torch.no_grad():
        model.get_parameter("model.lm_head.bias")[2] = -math.inf
    with pytest.raises(NonFinite, match=rf"samples \[{samples[3].number}\]"):
        scored(model, samples)


FORWARDS = [{"scores"}, {"scores", "losses"}, {"sequence-entropy"}, {"scores", "attention"}]


@pytest.mark.parametrize("needs", FORWARDS)
def test_observed_scores_are_as_good_as_naive_float32(build: Any, needs: set[str]) -> None:
    """The whole forward, on a vocabulary and lengths that fit no block size: no further from float64 than
    transformers' own padded float32 forward with a plain log-softmax."""
    model = build("llama", vocab_size=509, num_hidden_layers=3)
    samples = oracles.random_samples([(3, 19), (1, 1), (7, 31), (2, 5)], seed=7, vocabulary=509)
    observed = observe(PackedModel(copy.deepcopy(model)), samples, needs, 1, CPU).scores
    assert observed is not None

    def response(logits: list[Tensor]) -> list[Tensor]:
        return [rows[s.prompt - 1 : -1] for s, rows in zip(samples, logits, strict=True)]

    exact = torch.cat(response(padded_logits(copy.deepcopy(model).double(), samples))).numpy()
    labels = torch.cat([sample.tokens[sample.prompt :] for sample in samples])
    log_p = torch.cat(response(padded_logits(model, samples))).log_softmax(dim=-1)
    for mine, naive, truth in (
        (observed.nll, -log_p.gather(1, labels[:, None])[:, 0], oracles.token_nll(exact, labels.tolist())),
        (observed.entropy, -(log_p.exp() * log_p).sum(dim=-1), oracles.token_entropy(exact)),
    ):
        error, naive_error = np.abs(mine.numpy() - truth).max(), np.abs(naive.double().numpy() - truth).max()
        assert error <= naive_error + 1e-6
        assert naive_error < 1e-4, "the comparison is with something good"
    assert bool((observed.nll >= 0).all()) and bool((observed.entropy >= 0).all())
    assert float(observed.entropy.max()) <= np.float32(math.log(509))


@pytest.mark.parametrize("needs", [{"sequence-entropy"}, {"sequence-entropy", "scores", "attention"}])
def test_sequence_entropy_is_the_mean_over_every_position(tiny_llama: Any, needs: set[str]) -> None:
    """Prompt and last token included (reading A4, `sequence`)."""
    samples = oracles.random_samples(SHAPES, seed=8)
    observed = observe(PackedModel(copy.deepcopy(tiny_llama)), samples, needs, 1, CPU)
    assert observed.scores is not None and observed.scores.sequence_ent is not None
    truth = [
        oracles.token_entropy(logits.numpy()) for logits in padded_logits(copy.deepcopy(tiny_llama).double(), samples)
    ]
    np.testing.assert_allclose(observed.scores.sequence_ent, [sum(h) / len(h) for h in truth], atol=5e-6)
    np.testing.assert_allclose(
        observed.scores.ent, [h[s.prompt - 1 : -1].mean() for h, s in zip(truth, samples, strict=True)], atol=5e-6
    )
    assert observed.depth == 1.0
    assert observed.packed.targets == observed.packed.tokens == sum(len(sample.tokens) for sample in samples)


def test_what_nobody_asked_for_is_not_there(packed_llama: PackedModel) -> None:
    samples = oracles.random_samples(SHAPES, seed=9)
    observed = observe(packed_llama, samples, {"scores"}, None, CPU)
    assert observed.scores is not None and observed.scores.sequence_ent is None and observed.attention is None
    packed = pack(samples)
    assert packed is not None and torch.equal(observed.packed.source, packed.source)
    assert torch.equal(observed.scores.nll, scored(packed_llama, samples).nll)


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True}, {"vocab_size": 700}])
def test_copied_weights_score_as_autocast_does(build: Any, settings: dict[str, Any]) -> None:
    """Bit for bit, tied embeddings (which stay float32) and several chunks included; and the weights come back."""
    model = PackedModel(build("llama", **settings)).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    samples = oracles.random_samples([*SHAPES, (5, 290)], seed=12)
    copies = half_weights(model)
    assert {weight.dtype for weight in copies.values()} == {torch.bfloat16}
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert sum(weight.numel() for weight in copies.values()) == linear
    with torch.autocast("cpu", torch.bfloat16):
        plain = observe(model, samples, {"scores"}, None, CPU).scores
        copied = observe(model, samples, {"scores"}, None, CPU, copies).scores
    assert plain is not None and copied is not None and model.training
    assert torch.equal(plain.nll, copied.nll) and torch.equal(plain.entropy, copied.entropy)
    exact = observe(model, samples, {"scores"}, None, CPU).scores
    assert exact is not None and not torch.equal(exact.nll, copied.nll)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_uniform_predictions_have_the_largest_entropy(packed_llama: PackedModel) -> None:
    with torch.no_grad():
        packed_llama.get_parameter("model.lm_head.weight").zero_()
    scores = observe(packed_llama, oracles.random_samples(SHAPES, seed=10), {"sequence-entropy"}, None, CPU).scores
    assert scores is not None and scores.sequence_ent is not None
    for values in (scores.nll, scores.entropy, scores.ent, scores.sequence_ent, scores.ppl.log()):
        np.testing.assert_allclose(values, math.log(97), rtol=2e-7)


def test_an_entropy_outside_the_response_must_be_finite_too(packed_llama: PackedModel) -> None:
    """Only the last token is broken, which no response position sees."""
    samples = oracles.random_samples(SHAPES, seed=11)
    samples[0].tokens[-1] = 2  # no other sample has it
    with torch.no_grad():
        packed_llama.get_parameter("model.model.embed_tokens.weight")[2] = math.nan
    assert bool(torch.isfinite(scored(packed_llama, samples).entropy).all())
    with pytest.raises(NonFinite, match=rf"samples \[{samples[0].number}\]"):
        observe(packed_llama, samples, {"sequence-entropy"}, None, CPU)
