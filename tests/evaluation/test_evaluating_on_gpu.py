"""Generations and answers on a GPU that is not there (fake_gpu.py): few waits, and kernels that keep no L^2 weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gpu import GPU, FakeGpu, fake_gpu
from transformers import AutoTokenizer

from qtuning.evaluation.answers import AnswerScorer
from qtuning.evaluation.generation import StopTexts, generate
from qtuning.evaluation.sdpa import ON_GPU

TOKENS = 6


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    torch.backends.cuda.enable_cudnn_sdp(False)  # as EvaluatedModel.prepare_for_gpu does
    with fake_gpu(monkeypatch) as found:
        yield found
    torch.backends.cuda.enable_cudnn_sdp(True)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, gpu: FakeGpu, build: Any) -> Any:
    """Grouped keys: 4 heads, 2 of keys and values."""
    built = build("llama").to(request.param)
    built.set_attn_implementation(ON_GPU)
    return gpu.move(built)


@pytest.mark.parametrize("padded", [True, False])
def test_a_token_is_one_wait(gpu: FakeGpu, model: Any, tiny_model: Path, padded: bool) -> None:
    """And one look at the padding at the beginning, which transformers would take in every forward."""
    gpu.whole = int(padded)  # also the token that is generated, which neither stops a row nor could
    context = torch.full((3, 9), 5).to(GPU)
    stops = StopTexts(["zz"], AutoTokenizer.from_pretrained(tiny_model), 9)
    gpu.waits = gpu.moved = 0
    found = generate(model, context, torch.ones_like(context), TOKENS, stops, [2])
    assert found.shape == (3, 9 + TOKENS) and found.device == GPU
    assert (gpu.waits, gpu.moved) == (1 + TOKENS, 0)
    assert len(gpu.attention) == 2 * TOKENS and {dtype for _, dtype in gpu.attention} == {model.dtype}


def test_rows_that_end_cost_two_more_copies(gpu: FakeGpu, model: Any, tiny_model: Path) -> None:
    """Their texts come back, and the places of the others go there."""
    context = torch.full((3, 9), 5).to(GPU)
    stops = StopTexts(["zz"], AutoTokenizer.from_pretrained(tiny_model), 9)
    gpu.waits = gpu.moved = 0
    ends = [1]  # what the GPU is made to generate
    assert generate(model, context, torch.ones_like(context), TOKENS, stops, ends).shape == (3, 10)
    assert (gpu.waits, gpu.moved) == (1 + 1 + 1, 2)


@pytest.mark.parametrize("branched", [True, False])
def test_a_forward_of_answers_is_one_copy_there_and_one_back(
    gpu: FakeGpu, model: Any, branched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of their tokens: here 3 chunks of the head. Without a mask of ours transformers looks whether
    positions are those of packed sequences, before the forward begins."""
    looks: list[torch.Size] = []
    name = "transformers.masking_utils.find_packed_sequence_indices"
    monkeypatch.setattr(name, lambda positions: looks.append(positions.shape))  # and finds none
    long = [3 + place % 50 for place in range(300)]
    pairs = [([1, 5, 6], long), ([1, 7], [8, 9] * 150), *([([1, 5, 6], [4, 4])] if branched else [])]
    scorer = AnswerScorer(model, max_length=400, batch_size=8)
    gpu.waits = gpu.moved = gpu.pageable = 0
    assert len(scorer.score(pairs)) == len(pairs)
    forwards = 2 if branched else 1  # trees with branches and without are not mixed
    assert (gpu.waits, gpu.moved, gpu.pageable) == (forwards, forwards, 0) and len(looks) == 1
    assert len(gpu.attention) == 2 * forwards
