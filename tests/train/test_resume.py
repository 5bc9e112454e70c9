"""A training that stopped goes on as if it had not: whatever a pruner, a schedule or an epoch needs from before."""

from typing import Any

import pytest
import torch
from loops import POOLED, REUSE, cell_of, pooling, run, started, timeless

from qtuning.data.samples import Sample
from qtuning.train.cost import Cost

SINGLE = {"batch_size": 2, "accumulation": 1, "epochs": 3}  # 9 updates an epoch of the full data
STALE = {"scoring": {"schedule": "stale", "epochs": 2, "compare_every": 2}}
POOL = pooling(5, compare_every=2)  # 3 and 2 updates an epoch
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[int, ...]]] = {
    # in the middle of an epoch and between two
    **{
        method: (method, {}, SINGLE, (3, 4))
        for method in ("infobatch+ppl", "entropy+random", "random+fastv", "q-tuning", "longest+rho-1")
    },
    "once": ("deita+ppl", {}, SINGLE, (3, 5, 8)),
    "once, from given numbers": ("less+random", {}, SINGLE, (3, 5)),
    "once, and stale": ("ds2+ppl", STALE, SINGLE | {"batch_size": 4}, (2, 3, 8)),
    "stale": ("q-tuning", STALE, SINGLE | {"batch_size": 4}, (3, 5, 11)),
    "reuse-graph": ("q-tuning", REUSE, SINGLE, (3, 4)),
    "scores one epoch ago": ("asking_pruners:relieved+asking_pruners:of_relieved", {}, SINGLE, (3, 9, 10)),
    "scores one epoch ago, by epoch": ("asking_pruners:relieved_set+ppl", {}, SINGLE, (3, 5, 6)),
    "scores one epoch ago, of tokens alone": ("random+asking_pruners:of_relieved", {}, SINGLE, (3, 5, 6)),
    "scores one epoch ago, drawn once": ("random-once+asking_pruners:of_relieved", {}, SINGLE, (5, 6)),
    # between pools and inside them, before and after agreement is looked at
    "pool": ("q-tuning", POOL, POOLED, (1, 2, 3, 6)),
    "pool by losses": ("infobatch+ppl", POOL, POOLED, (1, 2, 3, 6)),
    "pool without pruned tokens": ("random+ppl", POOL | {"pruned_tokens": "remove"}, POOLED, (1, 2, 3, 6)),
}


@pytest.mark.parametrize("case", CASES)
def test_going_on_from_a_checkpoint(tiny_llama: Any, samples: list[Sample], case: str) -> None:
    method, options, training, stops = CASES[case]
    cell = cell_of(method, (0.5, 0.7 if "pool" in case or case == "reuse-graph" else 0.5), options=options, **training)
    straight = run(cell, tiny_llama, samples)
    assert ("compare_every" in str(options)) == any("agreement/tokens_kept" in record for record in straight.records)
    for stop in stops:
        first, _ = started(cell, tiny_llama, samples)
        for window in first.windows():
            first.step(window)
            if window.update + 1 == stop:
                break
        second, _ = started(cell, tiny_llama, samples)  # a new process in its place
        assert first.optimizer is not None and second.optimizer is not None
        second.bare.load_state_dict(first.bare.state_dict())
        second.optimizer.load_state_dict(first.optimizer.state_dict())
        numbers, tensors = first.state()
        second.restore(tensors, {**numbers, "update": first.progress.update, "cost": [vars(first.cost)]})
        rest = [record for record, _ in map(second.step, second.windows())]
        assert timeless(straight.records[stop:]) == timeless(rest)
        weights = dict(second.bare.model.named_parameters())
        assert all(torch.equal(weight, weights[name]) for name, weight in straight.weights.items())


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_going_on_keeps_the_account_on_another_number_of_processes(
    tiny_llama: Any, samples: list[Sample], processes: int
) -> None:
    """Saved by so many processes, restored on one: sums, but for updates and wall-clock seconds."""
    loop, _ = started(cell_of("q-tuning", (0.5, 0.5)), tiny_llama, samples)
    numbers, tensors = loop.state()
    costs = [
        vars(Cost(updates=4, samples_kept=10 + rank, seconds_total=7.0, cpu_seconds=1.5)) for rank in range(processes)
    ]
    loop.restore(tensors, {**numbers, "update": 4, "cost": costs})
    assert (loop.cost.updates, loop.cost.seconds_total) == (4, 7.0)
    assert loop.cost.cpu_seconds == 1.5 * processes  # each process has its own
    assert loop.cost.samples_kept == sum(10 + rank for rank in range(processes))
