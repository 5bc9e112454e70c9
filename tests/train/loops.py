"""Cells, runs and comparisons that the tests of training share."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from qtuning.data.samples import Sample
from qtuning.experiment.cell import Cell, Model, Training
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.model.packed import PackedModel
from qtuning.pruners.base import Instructions, Ratings
from qtuning.pruners.method import method_of
from qtuning.train.accelerator import make_accelerator
from qtuning.train.candidates import CellSamples
from qtuning.train.optimizer import make_optimizer
from qtuning.train.sharding import rest, shard, whole
from qtuning.train.step import TrainingLoop
from qtuning.train.windows import UpdateWindow

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
    "longest-original+ppl-original",
    "infobatch-original+fastv-original",
    "random+sparsevlm-original",
    "random+token-cleaning",
    "longest-history+sparsevlm-history",
    "entropy-history+random",
    "infobatch-history+ppl",
]
GLOBAL = {"selection": "global"}
REUSE: dict[str, Any] = {"scoring": {"schedule": "reuse-graph"}}
POOLED: dict[str, Any] = {"batch_size": 2, "accumulation": 1}  # 9 batches an epoch


def whole_batches(training: Mapping[str, Any]) -> dict[str, Any]:
    """`accumulation` batches an update, as samples an update."""
    others = {key: value for key, value in training.items() if key != "accumulation"}
    return others | {"update_samples": training["accumulation"] * training["batch_size"]}


def cell_of(
    method: str,
    budget: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    **training: Any,
) -> Cell:
    chosen = dict(options or {})
    if method.endswith(("rho-1", "token-cleaning")):
        chosen["reference"] = "m"
    entry = MethodEntry(method=NAMED.get(method, method), options=chosen)
    ratios = Ratios(sample_ratio=budget[0], token_ratio=budget[1])
    return Cell.model_validate(
        {
            "model": MODEL,
            "train_set": {"name": "t", "label": "T", "source": {"kind": "mini-world", "file": "f"}},
            "pruning": make_pruning(entry, ratios, models={"m": Model.model_validate(MODEL)}).model_dump(),
            "training": whole_batches(TRAINING | training),
            "seeds": {"data": seed, "pruner": seed, "init": seed},
        }
    )


def pooling(batches: int, **more: Any) -> dict[str, Any]:
    return {"scoring": {"schedule": "pool", "batches": batches, **more}}


@dataclass
class Run:
    records: list[dict[str, Any]]
    trace: list[tuple[Any, ...]]
    weights: dict[str, Tensor]
    cost: dict[str, float]


def train_set_of(samples: Sequence[Sample]) -> CellSamples:
    """The samples with made-up texts, ratings and influence, and losses of a made-up reference model."""
    rng = torch.Generator().manual_seed(7)
    texts = Instructions(
        torch.randint(1, 99, (len(samples),), generator=rng),
        torch.rand(len(samples), generator=rng, dtype=torch.float64),
    )
    reference = [torch.rand(sample.response_length, generator=rng, dtype=torch.float64) for sample in samples]
    influence = [torch.rand(sample.response_length, generator=rng, dtype=torch.float64) for sample in samples]
    ratings = Ratings(*(torch.randint(0, 6, (len(samples),), generator=rng).double() for _ in range(3)))
    of_samples = torch.rand(len(samples), 2, generator=rng, dtype=torch.float64)
    return CellSamples(samples, texts, reference, influence, ratings, of_samples)


def started(
    cell: Cell, model: Any, samples: Sequence[Sample], sharded: bool = False
) -> tuple[TrainingLoop, UpdateWindow]:
    """A loop over a copy of the model, put together as training does it, and its first update."""
    assert cell.training is not None and cell.pruning is not None
    accelerator = make_accelerator(cell.training.mixed_precision, sharded)
    wrapped = PackedModel(copy.deepcopy(model))
    if sharded:
        shard(wrapped, accelerator.device)
        assert all(isinstance(parameter, DTensor) for parameter in wrapped.parameters())
    wrapped = wrapped.to(accelerator.device)
    optimizer = make_optimizer(cell.training, [p for p in wrapped.parameters() if p.requires_grad])
    prepared = accelerator.prepare_model(wrapped, device_placement=False, evaluation_mode=sharded)
    loop = TrainingLoop(cell, method_of(cell.pruning), train_set_of(samples), accelerator, prepared, optimizer)
    return loop, next(loop.windows())


def run(cell: Cell, model: Any, samples: Sequence[Sample], sharded: bool = False) -> Run:
    loop, _ = started(cell, model, samples, sharded)
    records, trace = [], []
    for window in loop.windows():
        record, rows = loop.step(window)
        records.append(record)
        trace += rows
    rest(loop.bare)
    weights = {name: whole(p.detach()).clone() for name, p in loop.bare.model.named_parameters()}
    return Run(records, trace, weights, loop.cost.summary())


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


def timeless(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if not k.startswith("seconds")} for record in records]
