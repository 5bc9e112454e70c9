"""torch.compile of the layers: the same scores and gradients but for rounding, and no new code for a new batch."""

import copy
from typing import Any

import oracles
import pytest
import torch

from qtuning.model.attention import PACKED, packed_attention
from qtuning.model.batch import pack
from qtuning.model.compiled import compile_layers
from qtuning.model.packed import PackedModel

BATCHES = [[(3, 9), (2, 5)], [(4, 14), (2, 6), (3, 3)], [(2, 9), (3, 8), (1, 4), (6, 6)], [(3, 19), (5, 9)]]


@pytest.mark.slow  # a C++ compiler makes the code
def test_compiled_layers_are_the_same_layers(build: Any, request: pytest.FixtureRequest) -> None:
    from torch._dynamo.utils import counters
    from transformers import AttentionInterface

    request.addfinalizer(lambda: AttentionInterface.register(PACKED, packed_attention))
    model = build("llama", num_hidden_layers=2)
    plain, compiled = PackedModel(copy.deepcopy(model)).train(), PackedModel(copy.deepcopy(model)).train()
    compile_layers(compiled)
    graphs = []
    for seed, shapes in enumerate(BATCHES):
        packed = pack(oracles.random_samples(shapes, seed=seed))
        assert packed is not None
        for ours, theirs in zip(compiled.score(packed), plain.score(packed), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        losses = [each(packed)[0] for each in (compiled, plain)]
        torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
        for loss in losses:
            loss.backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and len(set(graphs)) == 1, "all lengths and numbers of segments share the code"
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
