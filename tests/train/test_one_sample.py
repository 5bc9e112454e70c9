"""A train set of one sample: nothing divides by a spread of nothing, and something is trained."""

from typing import Any

import pytest
import torch
from loops import cell_of, run

from qtuning.data.samples import Sample


@pytest.mark.parametrize(
    "method", ["full", "random", "infobatch+fastv", "entropy+sparsevlm", "q-tuning", "longest+random", "ppl-mid+ppl"]
)
def test_one_sample_trains(tiny_llama: Any, samples: list[Sample], method: str) -> None:
    made = run(cell_of(method, (1.0, 1.0) if method == "full" else (0.5, 0.5)), tiny_llama, samples[3:4])
    assert len(made.records) >= 1
    assert all(weight.isfinite().all() for weight in made.weights.values())
    start = {name: parameter.detach() for name, parameter in tiny_llama.named_parameters()}
    assert not all(torch.equal(start[name], weight) for name, weight in made.weights.items())


def test_the_rate_falls_to_zero_with_epochs_of_different_length(tiny_llama: Any, samples: list[Sample]) -> None:
    """InfoBatch's last epochs are whole: an estimate of the updates that knew nothing of them would end too early."""
    made = run(
        cell_of("infobatch-original+none", (0.25, 1.0), epochs=8, accumulation=1, warmup=0),
        tiny_llama,
        samples,
    )
    rates = [record["learning_rate"] for record in made.records]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1e-2) and 0 < rates[-1] < 2e-3, "the last is a step above zero"
    lengths = [sum(record["epoch"] == epoch for record in made.records) for epoch in range(8)]
    assert lengths[-1] > lengths[0]
