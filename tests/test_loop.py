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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qtuning.batch import Sample
from qtuning.config import Cell, Pruning, Training
from qtuning.loop import Loop, Window, learning_rate, plan_windows
from qtuning.packed_model import PackedModel
from qtuning.pruners.base import Candidates
from qtuning.pruners.select import method_of
from qtuning.scores import NonFinite

ROOT = Path(__file__).parents[1]
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
METHODS = {"full": ("full", "none"), "random": ("random", "random"), "q-tuning": ("q-tuning", "q-tuning")}


def cell_of(method: str, budget: tuple[float, float] = (1.0, 1.0), seed: int = 0, **training: Any) -> Cell:
    sample, token = METHODS[method]
    pruning = Pruning(
        sample_pruner=sample,
        token_pruner=token,
        sample_ratio=budget[0],
        token_ratio=budget[1],
        token_options={"lambda": 0.5} if method == "q-tuning" else {},
    )
    return Cell.model_validate(
        {
            "model": {"name": "m", "label": "M", "source": {"kind": "hub", "id": "a/b"}, "parameters": 10},
            "train_set": {"name": "t", "label": "T", "source": {"kind": "mini-world", "file": "f"}},
            "pruning": pruning.model_dump(),
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


def started(cell: Cell, model: Any, samples: Sequence[Sample]) -> tuple[Loop, list[Window]]:
    """A loop over a copy of the model, put together as training does it."""
    from accelerate import Accelerator

    from qtuning.cost import shape_of

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
    method = method_of(cell.pruning, cell.training.optimizer_updates == "matched")
    everything = Candidates(
        torch.tensor([sample.number for sample in samples]), torch.tensor([s.response_length for s in samples])
    )
    windows = plan_windows(cell, method, everything)
    prepared, optimizer = accelerator.prepare(wrapped, optimizer)
    return Loop(cell, method, samples, accelerator, prepared, optimizer, shape, len(windows)), windows


def run(cell: Cell, model: Any, samples: Sequence[Sample]) -> Run:
    loop, windows = started(cell, model, samples)
    records, trace = [], []
    for window in windows:
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


@pytest.mark.parametrize("method", ["q-tuning", "random"])
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
    loop, windows = started(cell_of(method, (1.0, 1.0)), tiny_llama, samples)
    with torch.no_grad():
        loop.bare.get_parameter("model.model.norm.weight")[3] = math.nan
    before = {name: p.detach().clone() for name, p in loop.bare.model.named_parameters()}
    numbers = [samples[position].number for batch in windows[0].batches for position in batch]
    with pytest.raises(NonFinite) as caught:
        loop.step(windows[0])
    named = numbers if method == "full" else numbers[:4]  # scoring stops at the first batch that is not finite
    assert str(named) in str(caught.value)
    for name, parameter in loop.bare.model.named_parameters():
        assert torch.equal(parameter.nan_to_num(7.0), before[name].nan_to_num(7.0)), "no parameter was updated"
        assert parameter.grad is None
    assert loop.cost.updates == 0


def test_dropout_has_a_stream_of_its_own(build: Any, samples: list[Sample]) -> None:
    """Draws elsewhere in the program change nothing: a resumed run drops out what the straight one did."""
    model = build("llama", attention_dropout=0.5)
    first, windows = started(cell_of("full"), model, samples)
    second, _ = started(cell_of("full"), model, samples)
    a = first.step(windows[0])[0]["loss"]
    torch.rand(1000)
    assert second.step(windows[0])[0]["loss"] == a
    without, _ = started(cell_of("full"), build("llama"), samples)
    assert without.step(windows[0])[0]["loss"] != a


# Two processes: batches 0, 2, 4 of an epoch on the first and 1, 3 on the second, which has none in the last window.
ON_TWO_PROCESSES = {"full": (1.0, 1.0), "random": (0.5, 0.5), "q-tuning": (0.5, 0.5)}
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
    for method, budget in ON_TWO_PROCESSES.items():
        alone = run(cell_of(method, budget), tiny_llama, samples)
        result = json.loads((tmp_path / f"{method}.json").read_text())
        for key in ("samples", "samples_kept", "samples_asked", "tokens_kept", "tokens_asked", "response_tokens"):
            assert [r[key] for r in result["records"]] == [r[key] for r in alone.records], (method, key)
        for key in ("loss", "grad_norm"):
            assert [r[key] for r in result["records"]] == pytest.approx([r[key] for r in alone.records], rel=1e-4)
        assert {tuple(row[:3] + row[5:]) for row in result["trace"]} == {row[:3] + row[5:] for row in alone.trace}
        weights = load_file(tmp_path / f"{method}.safetensors")
        assert apart(weights, alone.weights, tiny_llama) <= CLOSE
        drift = load_file(tmp_path / f"{method}-other.safetensors")
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
    for method, budget in ON_TWO_PROCESSES.items():
        result = run(cell_of(method, budget, **SPLIT), model, samples)
        save_file(result.weights, folder / (f"{method}.safetensors" if rank == 0 else f"{method}-other.safetensors"))
        if rank == 0:
            (folder / f"{method}.json").write_text(json.dumps({"records": result.records, "trace": result.trace}))
    cell = cell_of("q-tuning", (0.5, 0.5), **SPLIT)
    _, windows = started(cell, model, samples)
    bad = windows[0].batches[1][0]
    (folder / "poison.json").write_text(json.dumps({"bad": bad}))
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = math.nan
    try:
        run(cell, model, poisoned(samples, bad))
    except NonFinite as error:
        (folder / f"nonfinite-{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
