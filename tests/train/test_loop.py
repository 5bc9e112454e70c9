"""The training loop against a plain PyTorch one, against itself at other shapes, and on two processes.

Run as a script (`accelerate launch tests/test_loop.py FOLDER`) it trains the cells of `ON_TWO_PROCESSES`.
"""

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.methods import pruning
from qtuning.experiment.schema import Cell, MethodEntry, Model, Ratios, Training
from qtuning.model.batch import pack
from qtuning.model.packed import PackedModel
from qtuning.pruners.base import Instructions
from qtuning.pruners.method import method_of
from qtuning.scoring.scores import NonFinite
from qtuning.train.__main__ import run_as_worker
from qtuning.train.loop import Loop
from qtuning.train.schedule import Window, learning_rate
from qtuning.train.survey import TrainSet

ROOT = Path(__file__).parents[2]
SHAPES = [(1 + index % 4, 1 + (7 * index) % 11) for index in range(18)]  # batches of 4 leave one of 2
TRAINING: dict[str, Any] = {
    "tuning": "full",
    "epochs": 2,
    "batch_size": 4,
    "accumulation": 2,
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "warmup": 0.2,
}
CLOSE = 1e-3  # share of the way, after float32 sums in another order
MODEL: dict[str, Any] = {"name": "m", "label": "M", "source": {"kind": "hub", "id": "a/b"}, "parameters": 10}
NAMED = {"random": "random+random"}
BASELINES = [
    f"{sample}+{token}"
    for sample in ("random", "longest", "entropy", "infobatch", "ppl-high", "ppl-low", "ppl-mid")
    for token in ("random", "ppl", "fastv", "sparsevlm", "rho-1")
]
HISTORY = [
    "longest-history+sparsevlm-history",
    "entropy-history+random",
    "infobatch-history+ppl",
]


def cell_of(
    method: str,
    budget: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    **training: Any,
) -> Cell:
    chosen = dict(options or {})
    if method.endswith("rho-1"):
        chosen["reference"] = "m"
    entry = MethodEntry(method=NAMED.get(method, method), options=chosen)
    ratios = Ratios(sample_ratio=budget[0], token_ratio=budget[1])
    return Cell.model_validate(
        {
            "model": MODEL,
            "train_set": {"name": "t", "label": "T", "source": {"kind": "mini-world", "file": "f"}},
            "pruning": pruning(entry, ratios, models={"m": Model.model_validate(MODEL)}).model_dump(),
            "training": TRAINING | training,
            "seeds": {"data": seed, "pruner": seed, "init": seed},
        }
    )


@dataclass
class Run:
    records: list[dict[str, Any]]
    trace: list[tuple[Any, ...]]
    weights: dict[str, Tensor]
    cost: dict[str, float]


def train_set_of(samples: Sequence[Sample]) -> TrainSet:
    """The samples with made-up texts, and losses of a made-up reference model."""
    rng = torch.Generator().manual_seed(7)
    texts = Instructions(
        torch.randint(1, 99, (len(samples),), generator=rng),
        torch.rand(len(samples), generator=rng, dtype=torch.float64),
    )
    reference = [torch.rand(sample.response_length, generator=rng, dtype=torch.float64) for sample in samples]
    return TrainSet(samples, texts, reference)


def started(cell: Cell, model: Any, samples: Sequence[Sample]) -> tuple[Loop, Window]:
    """A loop over a copy of the model, put together as training does it, and its first update."""
    from accelerate import Accelerator

    from qtuning.train.cost import shape_of

    assert cell.training is not None and cell.pruning is not None
    accelerator = Accelerator(mixed_precision=cell.training.mixed_precision)
    wrapped = PackedModel(copy.deepcopy(model)).to(accelerator.device)
    shape = shape_of(wrapped.model, False, False)
    optimizer = torch.optim.AdamW(
        wrapped.parameters(),
        lr=cell.training.learning_rate,
        weight_decay=cell.training.weight_decay,
        fused=True,
    )
    prepared, optimizer = accelerator.prepare(wrapped, optimizer)
    method = method_of(cell.pruning)
    loop = Loop(cell, method, train_set_of(samples), accelerator, prepared, optimizer, shape)
    return loop, next(loop.windows())


def run(cell: Cell, model: Any, samples: Sequence[Sample]) -> Run:
    loop, _ = started(cell, model, samples)
    records, trace = [], []
    for window in loop.windows():
        record, rows = loop.step(window)
        records.append(record)
        trace += rows
    weights = {name: p.detach().clone() for name, p in loop.bare.model.named_parameters()}
    return Run(records, trace, weights, loop.cost.summary())


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return oracles.random_samples(SHAPES, seed=0)


def apart(first: Mapping[str, Tensor], second: Mapping[str, Tensor], origin: Any) -> float:
    """Distance of two results, as a share of the way that training went. (Single weights say less: AdamW's first
    steps are signs of gradients, and a gradient of almost nothing may change its sign with the rounding.)"""
    start = {name: parameter.detach() for name, parameter in origin.named_parameters()}
    assert first.keys() == second.keys() == start.keys()
    distance = sum(float((first[name] - second[name]).double().square().sum()) for name in start)
    way = sum(float((second[name] - start[name]).double().square().sum()) for name in start)
    assert way > 0.1, "there is something to compare"
    return math.sqrt(distance / way)


def described_rate(update: int, updates: int, training: Training) -> float:
    """The schedule in words: rise in equal steps to the full rate over the warm-up; then fall to zero after the end."""
    warm = round(training.warmup * updates)
    if update < warm:
        return training.learning_rate * (update + 1) / warm
    done = (update - warm) / (updates - warm)
    if training.schedule == "constant":
        return training.learning_rate
    if training.schedule == "linear":
        return training.learning_rate * (1 - done)
    return training.learning_rate * (1 + math.cos(math.pi * done)) / 2


def plain_training(
    cell: Cell, model: Any, batches: list[list[Sample]]
) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """Supervised fine-tuning as a textbook has it: padded batches, transformers' forward, one mean over the tokens.

    Returns weights, losses and gradient norms.
    """
    training = cell.training
    assert training is not None
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=training.weight_decay)
    losses, norms = [], []
    for update, batch in enumerate(batches):
        width = max(len(sample.tokens) for sample in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.int64)
        labels = torch.full((len(batch), width), -100)
        for row, sample in enumerate(batch):
            ids[row, : len(sample.tokens)] = sample.tokens
            labels[row, sample.prompt : len(sample.tokens)] = sample.tokens[sample.prompt :]
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        limit = math.inf if training.max_grad_norm is None else training.max_grad_norm
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit)))
        for group in optimizer.param_groups:
            group["lr"] = described_rate(update, len(batches), training)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}, losses, norms


def updates_of(result: Run, samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of each update, as the trace has them."""
    by_number = {sample.number: sample for sample in samples}
    return [[by_number[row[2]] for row in result.trace if row[0] == update] for update in range(len(result.records))]


@pytest.mark.parametrize(
    "training",
    [{}, {"schedule": "linear", "max_grad_norm": None}, {"batch_size": 18, "accumulation": 1}],
    ids=["partial window", "no clipping", "one batch an epoch"],
)
def test_without_pruning_it_is_plain_training(tiny_llama: Any, samples: list[Sample], training: dict[str, Any]) -> None:
    """The mean over the tokens of the whole window, the last and smaller window of an epoch included."""
    cell = cell_of("full", **training)
    result = run(cell, tiny_llama, samples)
    batches = updates_of(result, samples)
    weights, losses, norms = plain_training(cell, tiny_llama, batches)
    if not training:
        assert [len(batch) for batch in batches] == [8, 8, 2] * 2
    assert [record["loss"] for record in result.records] == pytest.approx(losses, rel=1e-4)
    assert [record["grad_norm"] for record in result.records] == pytest.approx(norms, rel=1e-4)
    if training.get("max_grad_norm", 1.0) is not None:
        assert max(norms) > 1.0, "clipping is in use"
    assert apart(result.weights, weights, tiny_llama) <= CLOSE
    numbers = sorted(sample.number for sample in samples)
    for epoch in (0, 1):
        assert sorted(row[2] for row in result.trace if row[1] == epoch) == numbers


@pytest.mark.parametrize("method", ["q-tuning", *BASELINES[::6], *HISTORY])
def test_the_whole_budget_is_plain_training_bit_for_bit(tiny_llama: Any, samples: list[Sample], method: str) -> None:
    full, whole = run(cell_of("full"), tiny_llama, samples), run(cell_of(method), tiny_llama, samples)
    for key in ("loss", "grad_norm", "learning_rate", "tokens_kept", "samples_kept"):
        assert [record[key] for record in full.records] == [record[key] for record in whole.records]
    assert all(torch.equal(weight, whole.weights[name]) for name, weight in full.weights.items())


def test_the_same_cell_twice(tiny_llama: Any, samples: list[Sample]) -> None:
    cell = cell_of("q-tuning", (0.5, 0.7))
    first, second, other = (run(c, tiny_llama, samples) for c in (cell, cell, cell_of("q-tuning", (0.5, 0.7), seed=1)))
    assert first.trace == second.trace
    assert all(torch.equal(weight, second.weights[name]) for name, weight in first.weights.items())
    assert first.trace != other.trace


def test_accumulation_is_a_larger_batch(tiny_llama: Any, samples: list[Sample]) -> None:
    parts, whole, single = (
        run(cell_of("full", batch_size=size, accumulation=times), tiny_llama, samples)
        for size, times in ((4, 2), (8, 1), (1, 8))
    )
    for other in (parts, single):
        assert [r["tokens_kept"] for r in other.records] == [r["tokens_kept"] for r in whole.records]
        assert [r["loss"] for r in other.records] == pytest.approx([r["loss"] for r in whole.records], rel=1e-5)
        assert [r["grad_norm"] for r in other.records] == pytest.approx(
            [r["grad_norm"] for r in whole.records], rel=1e-4
        )
        assert apart(other.weights, whole.weights, tiny_llama) <= CLOSE


GLOBAL = {"selection": "global"}


@pytest.mark.parametrize("method", ["q-tuning", "random", "longest+sparsevlm", "q-tuning+rho-1", "entropy+fastv"])
def test_global_selection_does_not_see_how_a_window_is_cut(tiny_llama: Any, samples: list[Sample], method: str) -> None:
    """Batch 8 = 8 accumulated batches of 1, under reading A9 `global` (on two processes: below)."""
    whole, single, parts = (
        run(cell_of(method, (0.5, 0.5), options=GLOBAL, batch_size=size, accumulation=times), tiny_llama, samples)
        for size, times in ((8, 1), (1, 8), (4, 2))
    )
    for other in (single, parts):
        assert [row[:3] + row[5:10] for row in other.trace] == [row[:3] + row[5:10] for row in whole.trace]
        for key in ("samples_kept", "samples_asked", "tokens_kept", "tokens_asked"):
            assert [r[key] for r in other.records] == [r[key] for r in whole.records]
        assert [r["loss"] for r in other.records] == pytest.approx([r["loss"] for r in whole.records], rel=1e-4)
        assert apart(other.weights, whole.weights, tiny_llama) <= CLOSE
    device = run(cell_of(method, (0.5, 0.5), batch_size=1, accumulation=8), tiny_llama, samples)
    assert [row[9] for row in device.trace] != [row[9] for row in single.trace], "the reading makes a difference"


def test_a_window_of_which_nothing_is_kept_makes_no_update(tiny_llama: Any, samples: list[Sample]) -> None:
    """Reading A10, `none`, with batches of one: the thresholds keep nothing."""
    cell = cell_of("q-tuning", (0.5, 0.5), options={"supplement": "none"}, batch_size=1, accumulation=2)
    result = run(cell, tiny_llama, samples)
    assert {record["tokens_kept"] for record in result.records} == {0}
    assert {record["loss"] for record in result.records} == {None}
    assert result.cost["updates"] == 0 and result.cost["updates_skipped"] == len(result.records) == 18
    assert all(torch.equal(w, result.weights[name]) for name, w in tiny_llama.named_parameters())


def test_methods_by_epoch_are_scored_once_an_epoch(tiny_llama: Any, samples: list[Sample]) -> None:
    drawn = run(cell_of("entropy+random", (0.5, 0.5)), tiny_llama, samples)
    assert drawn.cost["samples_scored"] == 36 and drawn.cost["samples_kept"] == 18
    both = run(cell_of("entropy+ppl", (0.5, 0.5)), tiny_llama, samples)
    assert both.cost["samples_scored"] == 36 + 18, "and what is kept once more, for the tokens"
    matched = run(cell_of("entropy+ppl", (0.5, 0.5), options={"updates": "matched-updates"}), tiny_llama, samples)
    assert matched.cost["samples_scored"] == 36 and matched.cost["updates"] == 6 > both.cost["updates"] == 4
    twice = run(cell_of("random", (0.5, 0.5), options={"passes": "twice"}), tiny_llama, samples)
    assert twice.cost["samples_kept"] == 2 * (2 + 2 + 1), "half of each of the batches of 4, 4 and 1 of an epoch"


def test_infobatch_rescales_remembers_and_anneals(tiny_llama: Any, samples: list[Sample]) -> None:
    """Four epochs, the data full again in the last (anneal 0.75)."""
    cell = cell_of("infobatch+none", (0.5, 1.0), options={"anneal": 0.75}, epochs=4)
    result = run(cell, tiny_llama, samples)
    by_epoch = [[row for row in result.trace if row[1] == epoch] for epoch in range(4)]
    assert [len(rows) for rows in by_epoch] == [9, 9, 9, 18]
    assert {row[10] for row in by_epoch[0]} == {2.0}, "nothing is known of any sample: 18 / 9"
    assert {row[10] for row in by_epoch[3]} == {1.0}
    assert len({row[10] for row in by_epoch[1]}) == 2, "below the mean loss and not"
    assert sum(row[10] for row in by_epoch[1]) == pytest.approx(18)
    losses = [row[11] for row in result.trace if row[0] == 0]
    lengths = [row[9] for row in result.trace if row[0] == 0]
    mean = sum(2 * loss * length for loss, length in zip(losses, lengths, strict=True)) / sum(lengths)
    first = result.records[0]
    assert first["objective"] == pytest.approx(mean, rel=1e-5), "weighted sum over the number of kept tokens"
    assert first["loss"] == pytest.approx(mean / 2, rel=1e-5), "and the mean without the factors"
    assert "selection/below_mean_share" in result.records[4], "the draw of an epoch is told of, too"
    matched = run(
        cell_of("infobatch+none", (0.5, 1.0), options={"updates": "matched-updates"}, batch_size=18, accumulation=1),
        tiny_llama,
        samples,
    )
    assert matched.records[0]["objective"] == pytest.approx(matched.records[0]["loss"], rel=1e-5), "weights average 1"


def test_the_trace_tells_what_a_draw_by_scores_left_out(tiny_llama: Any, samples: list[Sample]) -> None:
    result = run(cell_of("entropy+random", (0.5, 0.5)), tiny_llama, samples)
    for epoch in (0, 1):
        rows = [row for row in result.trace if row[1] == epoch]
        assert sorted(row[2] for row in rows) == sorted(sample.number for sample in samples)
        kept, dropped = ([row[4] for row in rows if row[6] is flag] for flag in (True, False))
        assert len(kept) == len(dropped) == 9 and min(kept) > max(dropped), "the highest entropies stay"
    assert [record["samples"] for record in result.records] == [8, 1, 8, 1]


def test_a_pruner_may_log_what_it_likes_when_it_likes(tiny_llama: Any, samples: list[Sample]) -> None:
    loop, _ = started(cell_of("q-tuning", (0.5, 0.5)), tiny_llama, samples)
    decider = loop.decider
    whole, calls = decider.method.prune_samples, [0]

    def sometimes(*arguments: Any) -> Any:
        calls[0] += 1
        chosen = whole(*arguments)
        return replace(chosen, log={"now_and_then": 3.0} if calls[0] % 2 else {})

    decider.method = replace(decider.method, prune_samples=sometimes)
    record, _ = loop.step(next(loop.windows()))
    assert record["selection/now_and_then"] == 3.0


STALE = {"scoring": {"schedule": "stale", "epochs": 2, "compare_every": 2}}


def test_stale_scores_are_those_of_the_epoch_they_were_made_in(tiny_llama: Any, samples: list[Sample]) -> None:
    """Scored before epochs 0 and 2 of three; the first decision is that of fresh scores."""
    fresh = run(cell_of("q-tuning", (0.5, 0.5), epochs=3), tiny_llama, samples)
    stale = run(cell_of("q-tuning", (0.5, 0.5), options=STALE, epochs=3), tiny_llama, samples)
    assert stale.cost["samples_scored"] == 2 * 18 and fresh.cost["samples_scored"] == 3 * 18
    assert [row[:3] + row[5:10] for row in stale.trace if row[0] == 0] == [
        row[:3] + row[5:10] for row in fresh.trace if row[0] == 0
    ]
    ppl = [{row[2]: row[3] for row in stale.trace if row[1] == epoch} for epoch in range(3)]
    assert ppl[0] == ppl[1] and all(ppl[2][number] != value for number, value in ppl[0].items())
    assert stale.records[0]["agreement/samples_kept"] == stale.records[0]["agreement/quadrants"] == 1.0
    assert stale.records[0]["agreement/spearman_ppl"] == pytest.approx(1.0)
    assert "agreement/tokens_kept" not in stale.records[1], "every second update"
    late = [r["agreement/tokens_kept"] for r in stale.records if "agreement/tokens_kept" in r][-1]
    assert 0.0 <= late <= 1.0
    looked = run(
        cell_of("q-tuning", (0.5, 0.5), options={"scoring": {"schedule": "stale", "epochs": 2}}, epochs=3),
        tiny_llama,
        samples,
    )
    assert all(torch.equal(w, looked.weights[name]) for name, w in stale.weights.items()), "looking changes nothing"


def test_scores_in_bfloat16_steer_training_in_float32(tiny_llama: Any, samples: list[Sample]) -> None:
    options = {"scoring": {"precision": "bfloat16", "compare_every": 1}}
    result = run(cell_of("q-tuning", (0.5, 0.5), options=options), tiny_llama, samples)
    assert all(record["agreement/spearman_ppl"] > 0.95 for record in result.records)
    whole = run(cell_of("q-tuning", (1.0, 1.0), options=options), tiny_llama, samples)
    full = run(cell_of("full"), tiny_llama, samples)
    assert all(torch.equal(w, whole.weights[name]) for name, w in full.weights.items())


@pytest.mark.parametrize("schedule", ["stale", "proxy", "fresh", "reuse-graph", "pool", "no batch"])
def test_remembered_losses_are_those_of_the_weights_that_learned(
    build: Any, tiny_llama: Any, samples: list[Sample], schedule: str
) -> None:
    """InfoBatch decides by the losses of the model that is trained, and not by those of a table."""
    scoring: dict[str, Any] = {"schedule": schedule}
    options: dict[str, Any] = {"scoring": scoring}
    method = "infobatch+ppl"
    if schedule == "stale":
        scoring["epochs"] = 2
    elif schedule == "proxy":
        options["proxy"] = "m"
    elif schedule == "pool":
        scoring["batches"] = 2
    elif schedule == "no batch":  # only drawn by scores, of the epoch's start
        options, method = {}, "entropy+random"
    loop, _ = started(cell_of(method, (0.5, 0.5), options=options), tiny_llama, samples)
    if schedule == "proxy":
        other, _ = started(cell_of("q-tuning"), build("llama", seed=5), samples)
        loop.surveyor.table = other.surveyor.whole_train_set({"scores"}, 0).scores
    position = {sample.number: index for index, sample in enumerate(samples)}
    differ = 0
    for window in loop.windows():
        before = loop.surveyor.losses.clone()
        _, trace = loop.step(window)
        for row in trace:
            ppl, trained, remembered = row[3], row[11], float(loop.surveyor.losses[position[row[2]]])
            if schedule in ("fresh", "reuse-graph", "pool") and ppl is not None:
                assert remembered == math.log(ppl)
            elif trained is not None:
                assert remembered == trained
                differ += ppl is not None and abs(math.log(ppl) - trained) > 0.01
            else:
                assert remembered == pytest.approx(float(before[position[row[2]]]), nan_ok=True), "nothing is learned"
    assert (differ > 0) == (schedule in ("stale", "proxy", "no batch"))


@pytest.mark.parametrize("stop", [3, 5, 11])
def test_stale_scores_survive_a_checkpoint(tiny_llama: Any, samples: list[Sample], stop: int) -> None:
    cell = cell_of("q-tuning", (0.5, 0.5), options=STALE, batch_size=4, accumulation=1, epochs=3)
    straight = run(cell, tiny_llama, samples)
    rest, weights = resumed_after(cell, tiny_llama, samples, stop)
    assert timeless(straight.records[stop:]) == timeless(rest)
    assert all(torch.equal(weight, weights[name]) for name, weight in straight.weights.items())


REUSE: dict[str, Any] = {"scoring": {"schedule": "reuse-graph"}}


@pytest.mark.parametrize("method", ["q-tuning", "entropy+ppl", "longest+ppl", "infobatch+ppl"])
@pytest.mark.parametrize("selection", ["device", "global"])
def test_reused_graphs_train_as_fresh_scores_do(
    tiny_llama: Any, samples: list[Sample], method: str, selection: str
) -> None:
    """The same decisions in every update, and weights that differ by the rounding of float32."""
    options = {"selection": selection}
    fresh = run(cell_of(method, (0.5, 0.7), options=options), tiny_llama, samples)
    reused = run(cell_of(method, (0.5, 0.7), options=options | REUSE), tiny_llama, samples)
    assert [row[:3] + row[5:11] for row in reused.trace] == [row[:3] + row[5:11] for row in fresh.trace]
    for column in (3, 4, 11):
        ours, theirs = ([row[column] for row in r.trace if row[column] is not None] for r in (reused, fresh))
        assert ours == pytest.approx(theirs, rel=1e-3) and len(theirs) > 0
    for key in ("loss", "grad_norm"):
        assert [r[key] for r in reused.records] == pytest.approx([r[key] for r in fresh.records], rel=1e-3)
    assert apart(reused.weights, fresh.weights, tiny_llama) <= CLOSE
    ours, theirs = reused.cost, fresh.cost
    for key in ("samples_scored", "tokens_scored", "flops_scoring", "samples_kept", "tokens_kept", "updates"):
        assert ours[key] == theirs[key]
    assert ours["tokens_forwarded"] == 0 < theirs["tokens_forwarded"], "scored and trained in one forward"
    assert ours["flops_training"] < theirs["flops_training"]


def test_where_no_batch_is_scored_there_is_no_graph_to_reuse(tiny_llama: Any, samples: list[Sample]) -> None:
    plain = run(cell_of("entropy+random", (0.5, 0.5)), tiny_llama, samples)
    for scoring in (REUSE, pooling(3)):
        other = run(cell_of("entropy+random", (0.5, 0.5), options=scoring), tiny_llama, samples)
        assert timeless(other.records) == timeless(plain.records)


def test_reuse_is_refused_where_training_drops_out(build: Any, samples: list[Sample]) -> None:
    with pytest.raises(UserError, match=r"reuse-graph': .*attention_dropout"):
        started(cell_of("q-tuning", (0.5, 0.5), options=REUSE), build("llama", attention_dropout=0.5), samples)


def pooling(batches: int, **more: Any) -> dict[str, Any]:
    return {"scoring": {"schedule": "pool", "batches": batches, **more}}


def test_a_pool_of_one_is_fresh_scoring_bit_for_bit(tiny_llama: Any, samples: list[Sample]) -> None:
    cell = cell_of("q-tuning", (0.5, 0.7), options=pooling(2), accumulation=1)
    assert cell.pruning is not None
    scoring = cell.pruning.scoring.model_copy(update={"batches": 1})  # nobody can ask for it
    one = run(
        cell.model_copy(update={"pruning": cell.pruning.model_copy(update={"scoring": scoring})}),
        *(tiny_llama, samples),
    )
    fresh = run(cell_of("q-tuning", (0.5, 0.7), accumulation=1), tiny_llama, samples)
    assert timeless(one.records) == timeless(fresh.records)
    assert sorted(one.trace) == sorted(fresh.trace)
    assert all(torch.equal(weight, one.weights[name]) for name, weight in fresh.weights.items())


POOLED: dict[str, Any] = {"batch_size": 2, "accumulation": 1}  # 9 batches an epoch


@pytest.mark.parametrize(
    ("ratio", "batches", "spans"),
    [(0.5, 4, [2, 2, 1]), (0.25, 4, [1, 1, 1]), (0.5, 5, [3, 2]), (1.0, 4, [4, 4, 1]), (0.5, 100, [5])],
)
def test_a_pool_makes_fewer_updates_of_full_batches(
    tiny_llama: Any, samples: list[Sample], ratio: float, batches: int, spans: list[int]
) -> None:
    result = run(cell_of("q-tuning", (ratio, 0.7), options=pooling(batches), **POOLED), tiny_llama, samples)
    fresh = run(cell_of("q-tuning", (ratio, 0.7), **POOLED), tiny_llama, samples)
    assert len(result.records) == 2 * sum(spans) == result.cost["updates"]
    # of every batch of the pool, what fresh scores would decide, in the first pool
    size = 2 * batches
    first = {row[2]: row[5:11] for row in result.trace if row[0] < spans[0]}
    assert len(first) == min(size, len(samples))
    before = {row[2]: row[5:11] for row in fresh.trace if row[0] == 0}
    assert {number: first[number] for number in before} == before
    # every sample is told of once an epoch, what is trained in the update that trains it, the rest with the first
    for epoch in (0, 1):
        rows = [row for row in result.trace if row[1] == epoch]
        assert sorted(row[2] for row in rows) == sorted(sample.number for sample in samples)
    assert all((row[11] is not None) == (row[9] > 0) for row in result.trace)
    at = 0
    for span in spans:
        later = [row for row in result.trace if at < row[0] < at + span]
        assert all(row[9] > 0 for row in later)
        asked = [record["samples_asked"] for record in result.records[at : at + span]]
        assert asked[0] > 0 and not any(asked[1:])
        scored = {record["selection/iterations"] for record in result.records[at : at + 1]}
        assert scored and "selection/iterations" not in (result.records[at + 1] if span > 1 else {})
        at += span
    cost = result.cost
    assert cost["samples_scored"] == fresh.cost["samples_scored"] == 36
    assert cost["samples_kept"] == fresh.cost["samples_kept"]
    rates = [record["learning_rate"] for record in result.records]
    expected = [described_rate(u, 2 * sum(spans), cell_of("full").training) for u in range(2 * sum(spans))]  # type: ignore[arg-type]
    assert rates == pytest.approx(expected)


def test_an_update_of_a_pool_is_plain_training_on_its_samples(tiny_llama: Any, samples: list[Sample]) -> None:
    """All tokens of the kept samples (25 x 100): the first update equals a textbook step on just these."""
    cell = cell_of("q-tuning", (0.5, 1.0), options=pooling(9), batch_size=2, accumulation=3, epochs=1)
    loop, window = started(cell, tiny_llama, samples)
    assert (window.span, len(window.batches)) == (2, 9)
    record, trace = loop.step(window)
    trained = [next(s for s in samples if s.number == row[2]) for row in trace if row[9]]
    assert 3 < len(trained) < 9
    _, losses, norms = plain_training(cell, tiny_llama, [trained, trained])
    assert record["loss"] == pytest.approx(losses[0], rel=1e-5)
    assert record["grad_norm"] == pytest.approx(norms[0], rel=1e-4)


def test_pools_under_global_selection_do_not_see_how_they_are_cut(tiny_llama: Any, samples: list[Sample]) -> None:
    """4 updates of 2 batches of 2, of 1 of 4, of 4 of 1: the same 16 samples are one selection."""
    runs = [
        run(
            cell_of("q-tuning", (0.5, 0.7), options=GLOBAL | pooling(4), batch_size=size, accumulation=times),
            tiny_llama,
            samples,
        )
        for size, times in ((2, 2), (4, 1), (1, 4))
    ]
    for other in runs[1:]:
        assert sorted(row[:3] + row[5:11] for row in other.trace) == sorted(
            row[:3] + row[5:11] for row in runs[0].trace
        )
        assert apart(other.weights, runs[0].weights, tiny_llama) <= CLOSE


@pytest.mark.parametrize("method", ["q-tuning", "infobatch+ppl", "random+ppl"])
@pytest.mark.parametrize("stop", [1, 2, 3, 6])
def test_a_pool_survives_a_checkpoint_anywhere(tiny_llama: Any, samples: list[Sample], method: str, stop: int) -> None:
    """Between pools (3 and 2 updates an epoch) and inside them, before and after agreement is looked at."""
    options = pooling(5, compare_every=2) | {"pruned_tokens": "remove" if method == "random+ppl" else "mask"}
    cell = cell_of(method, (0.5, 0.7), options=options, **POOLED)
    straight = run(cell, tiny_llama, samples)
    assert any("agreement/tokens_kept" in record for record in straight.records)
    rest, weights = resumed_after(cell, tiny_llama, samples, stop)
    assert timeless(straight.records[stop:]) == timeless(rest)
    assert all(torch.equal(weight, weights[name]) for name, weight in straight.weights.items())


def test_a_pool_is_compared_when_its_scores_are_oldest(tiny_llama: Any, samples: list[Sample]) -> None:
    result = run(cell_of("q-tuning", (0.5, 0.7), options=pooling(5, compare_every=1), **POOLED), tiny_llama, samples)
    seen = ["agreement/samples_kept" in record for record in result.records]
    assert seen == [False, False, True, False, True] * 2, "in the last updates of pools of 3 and 2"
    rare = run(cell_of("q-tuning", (0.5, 0.7), options=pooling(5, compare_every=7), **POOLED), tiny_llama, samples)
    assert ["agreement/samples_kept" in record for record in rare.records] == [
        False,
        False,
        True,
        *[False] * 4,
        True,
        *[False] * 2,
    ]
    assert any(record.get("agreement/spearman_ppl", 1.0) < 1.0 for record in result.records), "scores have aged"
    assert all(torch.equal(w, rare.weights[name]) for name, w in result.weights.items()), "looking changes nothing"


@pytest.mark.parametrize("stop", [3, 4])
def test_reused_graphs_go_on_from_a_checkpoint(tiny_llama: Any, samples: list[Sample], stop: int) -> None:
    cell = cell_of("q-tuning", (0.5, 0.7), options=REUSE, batch_size=2, accumulation=1, epochs=3)
    straight = run(cell, tiny_llama, samples)
    rest, weights = resumed_after(cell, tiny_llama, samples, stop)
    assert timeless(straight.records[stop:]) == timeless(rest)
    assert all(torch.equal(weight, weights[name]) for name, weight in straight.weights.items())


def timeless(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if not k.startswith("seconds")} for record in records]


def resumed_after(
    cell: Cell, model: Any, samples: Sequence[Sample], stop: int
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The records and weights of a run that stopped after `stop` updates and went on in a new process's place."""
    first, _ = started(cell, model, samples)
    for window in first.windows():
        first.step(window)
        if window.update + 1 == stop:
            break
    second, _ = started(cell, model, samples)
    second.bare.load_state_dict(first.bare.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    numbers, tensors = first.state()
    second.restore(tensors, {**numbers, "update": first.place.update, "cost": [vars(first.cost)]})
    rest = [record for record, _ in map(second.step, second.windows())]
    return rest, {name: p.detach() for name, p in second.bare.model.named_parameters()}


@pytest.mark.parametrize("method", ["infobatch+ppl", "entropy+random", "random+fastv", "q-tuning", "longest+rho-1"])
@pytest.mark.parametrize("stop", [3, 4])
def test_going_on_from_a_checkpoint(tiny_llama: Any, samples: list[Sample], method: str, stop: int) -> None:
    """In the middle of an epoch and between two."""
    cell = cell_of(method, (0.5, 0.5), batch_size=2, accumulation=1, epochs=3)
    straight = run(cell, tiny_llama, samples)
    rest, weights = resumed_after(cell, tiny_llama, samples, stop)
    assert timeless(straight.records[stop:]) == timeless(rest)
    assert all(torch.equal(weight, weights[name]) for name, weight in straight.weights.items())


@pytest.mark.parametrize("method", [*BASELINES, *HISTORY])
def test_every_baseline_trains_within_its_budget(tiny_llama: Any, samples: list[Sample], method: str) -> None:
    result = run(cell_of(method, (0.5, 0.5), epochs=1), tiny_llama, samples)
    assert sum(record["samples_kept"] for record in result.records) == 9
    assert len(result.records) == 2 and all(math.isfinite(record["loss"]) for record in result.records)
    if not method.endswith("history"):
        assert all(record["tokens_kept"] == record["tokens_asked"] for record in result.records)


def test_a_masked_token_has_exactly_no_gradient_at_its_logits(tiny_llama: Any, samples: list[Sample]) -> None:
    """The hidden states that would predict it get none from the head, so neither would its logits."""
    model = PackedModel(copy.deepcopy(tiny_llama))
    keep = [torch.arange(sample.response_length) % 3 == 0 for sample in samples]
    packed = pack(samples, keep)
    assert packed is not None
    caught: list[Tensor] = []
    model.causal_lm.model.norm.register_forward_hook(lambda module, inputs, output: caught.append(output))
    loss, _ = model(packed)
    caught[0].retain_grad()
    loss.backward()
    rows = caught[0].grad[0].abs().sum(dim=-1)  # type: ignore[index]
    predicts = torch.zeros(packed.tokens, dtype=torch.bool)
    predicts[packed.source] = True
    assert 0 < int(predicts.sum()) == sum(int(mask.sum()) for mask in keep) < packed.tokens
    assert bool((rows[~predicts] == 0).all()) and bool((rows[predicts] > 0).all())


def test_a_pruned_token_can_be_taken_out_of_the_sequence(tiny_llama: Any, samples: list[Sample]) -> None:
    """Reading A8, `remove`: the first update equals plain training on the shortened samples."""
    cell = cell_of("random", (1.0, 0.5), options={"pruned_tokens": "remove"}, batch_size=6, accumulation=1, epochs=1)
    loop, window = started(cell, tiny_llama, samples)
    loop.step(window)
    removed = loop.cost
    masked, _ = started(cell_of("random", (1.0, 0.5), batch_size=6, accumulation=1, epochs=1), tiny_llama, samples)
    record, trace = masked.step(window)
    assert removed.tokens_kept == masked.cost.tokens_kept == record["tokens_kept"]
    lengths = {sample.number: (sample.prompt, sample.response_length) for sample in samples}
    expected = sum(lengths[row[2]][0] + row[9] - 1 for row in trace if row[9])
    assert removed.tokens_forwarded == expected < masked.cost.tokens_forwarded


def test_every_pruner_meets_the_samples_in_one_order(tiny_llama: Any, samples: list[Sample]) -> None:
    full, pruned, drawn = (
        run(cell_of(method, budget), tiny_llama, samples)
        for method, budget in (("full", (1.0, 1.0)), ("q-tuning", (0.25, 0.5)), ("random", (0.5, 0.5)))
    )
    assert [row[:3] for row in full.trace] == [row[:3] for row in pruned.trace]
    for epoch in (0, 1):
        order, subset = ([row[2] for row in r.trace if row[1] == epoch] for r in (full, drawn))
        assert len(subset) == 9 and subset == [number for number in order if number in set(subset)]
    epochs = [{row[2] for row in drawn.trace if row[1] == epoch} for epoch in (0, 1)]
    assert epochs[0] != epochs[1], "drawn anew each epoch"


def test_records_trace_and_cost_agree(tiny_llama: Any, samples: list[Sample]) -> None:
    result = run(cell_of("q-tuning", (0.5, 0.5)), tiny_llama, samples)
    lengths = {sample.number: sample.response_length for sample in samples}
    size = {sample.number: len(sample.tokens) for sample in samples}
    for record in result.records:
        rows = [row for row in result.trace if row[0] == record["update"]]
        assert record["samples"] == len(rows) and record["samples_kept"] == sum(row[6] for row in rows)
        assert record["response_tokens"] == sum(lengths[row[2]] for row in rows) == sum(row[8] for row in rows)
        assert record["tokens_kept"] == sum(row[9] for row in rows) >= 1
        assert record["samples_asked"] == record["samples_kept"]
        assert all((row[9] > 0) <= row[6] for row in rows)
        assert record["learning_rate"] == described_rate(record["update"], 6, cell_of("full").training)  # type: ignore[arg-type]
    cost = result.cost
    assert cost["updates"] == 6 and cost["samples_scored"] == 36
    assert cost["tokens_scored"] == 2 * sum(size.values()) - 36, "the last token of a sample is no input"
    assert cost["response_tokens"] == 2 * sum(lengths.values())
    assert cost["samples_kept"] == sum(row[6] for row in result.trace)
    assert cost["tokens_kept"] == sum(row[9] for row in result.trace)
    assert cost["tokens_kept"] <= cost["tokens_forwarded"] < cost["tokens_scored"]
    assert cost["flops_total"] == cost["flops_scoring"] + cost["flops_training"] > 0
    plain = run(cell_of("full"), tiny_llama, samples).cost
    assert plain["samples_scored"] == plain["flops_scoring"] == 0 and plain["tokens_forwarded"] == cost["tokens_scored"]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "updates"), [(0.0, 7), (0.1, 40), (0.5, 5), (0.9, 1), (0.99, 10)])
def test_learning_rate(schedule: str, warmup: float, updates: int) -> None:
    training = Training.model_validate({"schedule": schedule, "warmup": warmup, "learning_rate": 3e-4})
    rates = [learning_rate(update, updates, training) for update in range(updates)]
    warm = round(warmup * updates)
    assert all(0 < rate <= 3e-4 * (1 + 1e-12) for rate in rates)
    assert rates[:warm] == sorted(rates[:warm]) and rates[warm:] == sorted(rates[warm:], reverse=True)
    if 0 < warm < updates:
        assert rates[warm - 1] == pytest.approx(3e-4) and rates[warm] == pytest.approx(3e-4)
        assert rates == pytest.approx([described_rate(update, updates, training) for update in range(updates)])
    if schedule != "constant" and warm < updates:
        assert learning_rate(updates, updates, training) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("method", ["full", "q-tuning"])
def test_broken_weights_stop_before_the_update(tiny_llama: Any, samples: list[Sample], method: str) -> None:
    loop, window = started(cell_of(method, (1.0, 1.0)), tiny_llama, samples)
    with torch.no_grad():
        loop.bare.get_parameter("model.model.norm.weight")[3] = math.nan
    before = {name: p.detach().clone() for name, p in loop.bare.model.named_parameters()}
    numbers = [samples[position].number for batch in window.batches for position in batch]
    with pytest.raises(NonFinite) as caught:
        loop.step(window)
    named = numbers if method == "full" else numbers[:4]  # scoring stops at the first batch that is not finite
    assert str(named) in str(caught.value)
    for name, parameter in loop.bare.model.named_parameters():
        assert torch.equal(parameter.nan_to_num(7.0), before[name].nan_to_num(7.0)), "no parameter was updated"
        assert parameter.grad is None
    assert loop.cost.updates == 0


def test_dropout_has_a_stream_of_its_own(build: Any, samples: list[Sample]) -> None:
    """Draws elsewhere in the program change nothing: a resumed run drops out what the straight one did."""
    model = build("llama", attention_dropout=0.5)
    first, window = started(cell_of("full"), model, samples)
    second, _ = started(cell_of("full"), model, samples)
    a = first.step(window)[0]["loss"]
    torch.rand(1000)
    assert second.step(window)[0]["loss"] == a
    without, _ = started(cell_of("full"), build("llama"), samples)
    assert without.step(window)[0]["loss"] != a


# Two processes: batches 0, 2, 4 of an epoch on the first and 1, 3 on the second, which has none in the last window.
# name -> method, budget, options; under `global` selection the decisions are those of one process, whatever the split
ON_TWO_PROCESSES: dict[str, tuple[str, tuple[float, float], dict[str, Any]]] = {
    "full": ("full", (1.0, 1.0), {}),
    "random": ("random", (0.5, 0.5), {}),
    "q-tuning": ("q-tuning", (0.5, 0.5), {}),
    "q-tuning-global": ("q-tuning", (0.5, 0.5), GLOBAL),
    "random-global": ("random", (0.25, 0.5), GLOBAL),
    "infobatch": ("infobatch+ppl", (0.5, 0.5), {}),
    "entropy": ("entropy+fastv", (0.5, 0.5), {}),
    "pool": ("q-tuning", (0.5, 0.5), {"scoring": {"schedule": "pool", "batches": 3}}),
    "pool-global": ("q-tuning", (0.5, 0.5), GLOBAL | {"scoring": {"schedule": "pool", "batches": 3}}),
    # batches of which nothing is kept: a process without tokens neither hangs nor changes the others
    "nothing": ("q-tuning", (0.25, 0.5), {"supplement": "none"}),
}
SPLIT: dict[str, Any] = {"processes": 2, "accumulation": 1}


def poisoned(samples: Sequence[Sample], bad: int) -> list[Sample]:
    """Token 2, which no other sample has, at the head of sample `bad`."""
    result = list(samples)
    result[bad] = Sample(samples[bad].number, samples[bad].tokens.clone(), samples[bad].prompt)
    result[bad].tokens[0] = 2
    return result


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_accumulation(
    tiny_llama: Any, samples: list[Sample], tmp_path: Path
) -> None:
    tiny_llama.save_pretrained(tmp_path / "model")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    config = ROOT / "configs" / "accelerate" / "ddp-2.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launched = subprocess.run(
        [*launch, "--config_file", str(config), __file__, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    for name, (method, budget, options) in ON_TWO_PROCESSES.items():
        alone = run(cell_of(method, budget, options=options), tiny_llama, samples)
        result = json.loads((tmp_path / f"{name}.json").read_text())
        for key in ("samples", "samples_kept", "samples_asked", "tokens_kept", "tokens_asked", "response_tokens"):
            assert [r[key] for r in result["records"]] == [r[key] for r in alone.records], (name, key)
        assert [r["loss"] is None for r in result["records"]] == [r["loss"] is None for r in alone.records]
        for key in ("loss", "grad_norm"):
            ours, theirs = (
                [r[key] for r in records if r[key] is not None] for records in (result["records"], alone.records)
            )
            assert ours == pytest.approx(theirs, rel=1e-4)
        assert {tuple(row[:3] + row[5:11]) for row in result["trace"]} == {row[:3] + row[5:11] for row in alone.trace}
        weights = load_file(tmp_path / f"{name}.safetensors")
        assert apart(weights, alone.weights, tiny_llama) <= CLOSE
        drift = load_file(tmp_path / f"{name}-other.safetensors")
        assert all(torch.equal(weights[name], drift[name]) for name in weights), "both processes hold the same weights"

    # one process alone meets the poison: both stop, and both say which sample
    bad = samples[json.loads((tmp_path / "poison.json").read_text())["bad"]].number
    for rank in (0, 1):
        assert f"samples [{bad}]" in (tmp_path / f"nonfinite-{rank}.txt").read_text()


def main(folder: Path) -> None:
    """What `accelerate launch` runs."""
    from accelerate import Accelerator
    from transformers import AutoModelForCausalLM

    rank = Accelerator().process_index
    model = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager").eval()
    samples = oracles.random_samples(SHAPES, seed=0)
    for name, (method, budget, options) in ON_TWO_PROCESSES.items():
        result = run(cell_of(method, budget, options=options, **SPLIT), model, samples)
        save_file(result.weights, folder / (f"{name}.safetensors" if rank == 0 else f"{name}-other.safetensors"))
        if rank == 0:
            (folder / f"{name}.json").write_text(json.dumps({"records": result.records, "trace": result.trace}))
    cell = cell_of("q-tuning", (0.5, 0.5), **SPLIT)
    _, window = started(cell, model, samples)
    bad = window.batches[1][0]
    (folder / "poison.json").write_text(json.dumps({"bad": bad}))
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = math.nan
    try:
        run(cell, model, poisoned(samples, bad))
    except NonFinite as error:
        (folder / f"nonfinite-{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    run_as_worker(lambda: main(Path(sys.argv[1])))
