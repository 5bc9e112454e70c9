"""Peak memory and disk of a cell: weights, gradients, optimizer, activations, logits; what a job leaves behind."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qtuning.experiment.needs import FORWARDS, needs_of, schedule_of
from qtuning.experiment.schema import Cell, Evaluation, Training
from qtuning.plan.lengths import Lengths
from qtuning.plan.shapes import BYTES, Shape
from qtuning.plan.work import BenchmarkWork

CHUNK = 256  # head.CHUNK, which torch comes with; a test compares them

# Bytes that autograd saves for one token in one layer, for each channel of (hidden, queries, keys, intermediate), by
# tuning and arithmetic; counted on LLaMA layers of transformers 5.23 with peft 0.21 (a test counts them again). peft
# casts the input of each adapter to float32, which is most of what LoRA on bfloat16 weights takes.
SAVED = {
    ("full", "float32"): (24, 12, 8, 16),
    ("full", "bfloat16"): (16, 6, 4, 8),
    ("full", "autocast"): (26, 6, 4, 8),
    ("lora", "float32"): (16, 12, 8, 16),
    ("lora", "bfloat16"): (28, 8, 4, 10),
    ("lora", "autocast"): (18, 6, 4, 8),
}
LINEAR = 7  # matrices of a layer that carry an adapter


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. tokens: whose activations are held, in the largest batch that is trained."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    tokens: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def saved_bytes(shape: Shape, training: Training, dtype: str) -> float:
    """Bytes that autograd saves for one token in one layer."""
    arithmetic = "autocast" if training.mixed_precision == "bf16" else dtype
    channels = (shape.hidden, shape.query_width, shape.kv_width, shape.intermediate)
    saved = sum(size * width for size, width in zip(SAVED[training.tuning, arithmetic], channels, strict=True))
    rank = training.lora.r * LINEAR * (2 if arithmetic == "autocast" else 4) if training.tuning == "lora" else 0
    return float(saved + rank + 4 * shape.heads)


def training_memory(cell: Cell, shape: Shape, lengths: Lengths) -> Memory:
    """Peak of training a cell, at its largest batch."""
    assert cell.training is not None and cell.pruning is not None
    training, size = cell.training, BYTES[cell.dtype]
    lora = training.tuning == "lora"
    trained = shape.lora_parameters(training.lora.r) if lora else shape.parameters
    trained_bytes = trained * (4 if lora else size)
    weights = float(shape.parameters * size + (trained_bytes if lora else 0))
    if training.mixed_precision == "bf16" and size == 4:
        weights += 2.0 * shape.matmul  # autocast keeps copies of the matrices during a pass
    copies = 2 if training.processes > 1 else 1  # data-parallel training reduces gradients in buckets
    scored, trained_tokens = largest_batches(cell, lengths)
    layer = saved_bytes(shape, training, cell.dtype)
    if training.gradient_checkpointing:
        activations = trained_tokens * (shape.layers * shape.hidden * size + layer)
    else:
        activations = trained_tokens * (shape.layers + 1) * layer  # one more: what the backward pass holds at a time
    # without gradient: what one layer holds, of all candidates
    activations = max(activations, scored * (3 * shape.intermediate + 6 * shape.hidden) * max(size, 2))
    logits = CHUNK * shape.vocabulary * 12.0
    if not lora:
        logits += shape.head * 4.0
    return Memory(weights, float(copies * trained_bytes), 2.0 * trained_bytes, activations, logits, trained_tokens)


def largest_batches(cell: Cell, lengths: Lengths) -> tuple[float, float]:
    """(tokens of the largest batch that is scored, of the largest that is trained); 0 where nothing is scored.

    A batch of B samples has B times the mean, and the largest of n about sqrt(2 ln n) standard deviations more, but
    never more than B of the longest. Under `pool` the kept samples make up full batches again. Under `reuse-graph` a
    batch is held whole until it is decided, beside what was kept of the earlier ones of its update, under global
    selection all of them.
    """
    assert cell.training is not None and cell.pruning is not None
    training, pruning, needs = cell.training, cell.pruning, needs_of(cell.pruning)
    size = training.batch_size
    kept = size if needs.by_epoch else max(1, round(pruning.sample_ratio * size))
    if pruning.selection == "global" and not needs.by_epoch:
        kept = size  # the kept of all windows may fall into one batch
    schedule, whole = schedule_of(pruning), lengths.tokens
    if schedule == "pool":
        kept = size
    elif schedule == "reuse-graph":
        kept = size + (training.accumulation - 1) * kept
    if pruning.sample_pruner == "longest":
        longest = np.sort(lengths.tokens)[-max(1, round(pruning.sample_ratio * len(lengths.tokens))) :]
    else:
        longest = lengths.tokens
    batches = max(2.0, training.epochs * lengths.rows / size)

    def largest(count: int, tokens: np.ndarray) -> float:
        usual = count * tokens.mean() + math.sqrt(2 * math.log(batches) * count) * tokens.std()
        return float(min(usual, count * tokens.max()))

    scores = bool(needs.all & FORWARDS)
    # where batches hold more than what is kept of them, all lengths are among them
    trained = largest(kept, whole if schedule == "reuse-graph" and not needs.by_epoch else longest)
    return (largest(size, whole) if scores else 0.0), trained


def evaluation_memory(cell: Cell, evaluation: Evaluation, shape: Shape, work: Iterable[BenchmarkWork]) -> Memory:
    """Peak of evaluating a cell: weights, cache of a batch, logits of all positions of choices (log_softmax: twice)."""
    size = BYTES[evaluation.dtype]
    adapters = cell.training.lora.r if cell.training is not None and cell.training.tuning == "lora" else 0
    weights = shape.parameters * size + 4.0 * shape.lora_parameters(adapters)
    cache = logits = activations = 0.0
    for asked in work:
        # batches are sorted by length: the first is the longest, some twice the mean
        longest = min(float(evaluation.max_length), 2 * asked.prompt_tokens + asked.most_steps)
        cache = max(cache, asked.batch_size * longest * shape.cache_bytes(evaluation.dtype))
        positions = asked.batch_size * (longest if asked.choices else 1)
        logits = max(logits, positions * shape.vocabulary * 8.0)
        activations = max(activations, asked.batch_size * longest * (3 * shape.intermediate + 6 * shape.hidden) * size)
    return Memory(weights, 0.0, 0.0, cache + activations, logits)
