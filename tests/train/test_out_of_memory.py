"""Too little memory: scoring goes on in parts, everything else is told in one line."""

import copy
from typing import Any

import oracles
import pytest
import torch
from loops import REUSE, cell_of, run, started

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.model.out_of_memory import OutOfMemory, is_out_of_memory, telling
from qtuning.train.parts import Parts, size_of

SAID = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"
# of torch 2.13 on a CPU: torch.empty(10**13)
ON_CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
SHAPES = [(3, 9), (1, 1), (4, 14), (2, 6), (5, 11), (2, 2)]


@pytest.fixture
def samples() -> list[Sample]:
    return list(oracles.random_samples(SHAPES * 3, seed=0))


def limited(model: Any, tokens: int, training: bool, error: Exception) -> Any:
    """A copy of the model whose forward has memory for so many tokens, in training or in scoring."""
    model = copy.deepcopy(model)

    def look(backbone: Any, _: Any, more: dict[str, Any]) -> None:
        if backbone.training == training and sum(more["segments"]) > tokens:
            raise error

    model.model.register_forward_pre_hook(look, with_kwargs=True)
    return model


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(SAID), MemoryError(), RuntimeError(ON_CPU)])
def test_scoring_goes_on_in_parts(tiny_llama: Any, samples: list[Sample], error: Exception) -> None:
    """Four samples a batch have up to 43 tokens. A single one has up to 18."""
    cell = cell_of("q-tuning", (0.5, 0.5))
    whole, parts = run(cell, tiny_llama, samples), run(cell, limited(tiny_llama, 20, False, error), samples)
    for ours, theirs in zip(parts.trace, whole.trace, strict=True):
        assert ours[3:5] == pytest.approx(theirs[3:5], rel=1e-5), "perplexity and entropy"
        assert (ours[:3], ours[5:9], ours[12:]) == (theirs[:3], theirs[5:9], theirs[12:]), "all decisions"
    for key in ("samples_scored", "tokens_scored", "flops_scoring"):
        assert parts.cost[key] == pytest.approx(whole.cost[key], rel=1e-12)


def test_embeddings_and_attention_come_in_parts_too(tiny_llama: Any, samples: list[Sample]) -> None:
    found = []
    for model in (tiny_llama, limited(tiny_llama, 20, False, torch.OutOfMemoryError(SAID))):
        source = started(cell_of("q-tuning", (0.5, 0.5)), model, samples)[0].source
        source.layer = 1
        candidates, _ = source.candidates(range(6), {"embeddings", "attention", "attention-rank", "scores"}, 0)
        assert candidates.attention is not None and candidates.embeddings is not None
        found.append((candidates.embeddings, candidates.attention.received, candidates.attention.rated))
        assert candidates.attention.rank is not None and len(candidates.attention.rank) == 6
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=1e-5)


def test_what_fits_is_remembered(samples: list[Sample]) -> None:
    tried: list[int] = []

    def forward(part: Any) -> int:
        tried.append(sum(len(sample.tokens) for sample in part))
        if tried[-1] > 20:
            raise torch.OutOfMemoryError(SAID)
        return len(part)

    parts = Parts()
    assert sum(parts.each(samples[:6], forward)) == 6
    failed = sum(tokens > 20 for tokens in tried)
    assert failed > 0 and sum(parts.each(samples[:6], forward)) == 6
    assert sum(tokens > 20 for tokens in tried) == failed


def test_a_single_sample_that_does_not_fit(tiny_llama: Any, samples: list[Sample]) -> None:
    with pytest.raises(UserError, match=r"^out of memory in scoring: 1 sample, 12 tokens .*; lower training.cutoff$"):
        run(cell_of("q-tuning", (0.5, 0.5)), limited(tiny_llama, 5, False, torch.OutOfMemoryError(SAID)), samples[:1])


@pytest.mark.parametrize(("recompute", "key"), [(False, "--recompute always"), (True, "batch_size")])
def test_training_tells_what_to_lower(tiny_llama: Any, samples: list[Sample], recompute: bool, key: str) -> None:
    small = limited(tiny_llama, 20, True, torch.OutOfMemoryError(SAID))
    with pytest.raises(UserError) as caught:
        run(cell_of("full", gradient_checkpointing=recompute), small, samples)
    told = str(caught.value)
    assert "\n" not in told and "out of memory in training: 4 samples, " in told
    assert "Tried to allocate 2.00 GiB" in told and key in told.partition("; ")[2]


def test_graphs_tell_of_the_schedule(tiny_llama: Any, samples: list[Sample]) -> None:
    small = limited(tiny_llama, 10, True, torch.OutOfMemoryError(SAID))
    with pytest.raises(UserError, match=r"in scoring: 4 samples, \d+ tokens .*schedule: fresh"):
        run(cell_of("q-tuning", (0.5, 0.5), options=REUSE), small, samples)


def test_other_errors_stay_what_they_are() -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"), telling("training", "a batch", "nothing"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(OutOfMemory, match="MemoryError"), telling("training", "a batch", "take more"):
        raise MemoryError
    with pytest.raises(ValueError, match="no memory"):
        Parts().each([*oracles.random_samples([(1, 1)], seed=0)], lambda part: _refuse())


def test_the_words_are_those_of_torch() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**16)
    assert is_out_of_memory(caught.value)


def _refuse() -> int:
    raise ValueError("no memory of it")


def test_sizes() -> None:
    assert size_of(oracles.random_samples([(3, 9)], seed=0)) == "1 sample, 12 tokens"
    assert size_of(oracles.random_samples([(600, 900), (1, 1)], seed=0)) == "2 samples, 1,502 tokens"


def test_processes_tell_each_other() -> None:
    error = OutOfMemory("out of memory in scoring: 8 samples", "lower training.batch_size", "scoring")
    told = copy.copy(error)  # by the same method as a process sends it
    assert (type(told), str(told), vars(told)) == (OutOfMemory, str(error), vars(error))
