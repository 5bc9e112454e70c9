"""Peak memory of a training and of an evaluation: weights, gradients, optimizer, activations, logits."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qtuning.experiment.cell import Cell, Evaluation, Training
from qtuning.experiment.needs import FORWARDS, needs_of, schedule_of
from qtuning.model.flops import CHUNK
from qtuning.plan.lengths import Array, Lengths
from qtuning.plan.shapes import BYTES, Shape
from qtuning.plan.work import BenchmarkWork

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


def trained_bytes(shape: Shape, training: Training, dtype: str) -> int:
    """Bytes of the weights that are trained. Adapters are float32, whatever the base is."""
    if training.tuning == "lora":
        return shape.lora_parameters(training.lora.r) * BYTES["float32"]
    return shape.parameters * BYTES[dtype]


def saved_bytes(shape: Shape, training: Training, dtype: str) -> float:
    """Bytes that autograd saves for one token in one layer."""
    arithmetic = "autocast" if training.mixed_precision == "bf16" else dtype
    channels = (shape.hidden, shape.query_width, shape.kv_width, shape.intermediate)
    saved = sum(size * width for size, width in zip(SAVED[training.tuning, arithmetic], channels, strict=True))
    rank = training.lora.r * LINEAR * (2 if arithmetic == "autocast" else 4) if training.tuning == "lora" else 0
    return float(saved + rank + 4 * shape.heads)


def training_memory(cell: Cell, shape: Shape, lengths: Lengths) -> Memory:
    """Peak of training a cell, at its largest batch."""
    assert cell.training is not None
    training, size = cell.training, BYTES[cell.dtype]
    lora, trained = training.tuning == "lora", trained_bytes(shape, training, cell.dtype)
    weights = float(shape.parameters * size + (trained if lora else 0))
    if training.mixed_precision == "bf16" and size == 4:
        weights += 2.0 * shape.matmul  # autocast keeps copies of the matrices during a pass
    scored_tokens, trained_tokens = largest_batches(cell, lengths)
    layer = saved_bytes(shape, training, cell.dtype)
    if training.gradient_checkpointing:
        activations = trained_tokens * (shape.layers * shape.hidden * size + layer)
    else:
        activations = trained_tokens * (shape.layers + 1) * layer  # one more: what the backward pass holds at a time
    activations = max(activations, _forward_bytes(shape, scored_tokens, size))
    logits = CHUNK * shape.vocabulary * 12.0
    if not lora:
        logits += shape.head * 4.0  # the head's gradient, summed over chunks
    return Memory(weights, float(trained), 2.0 * trained, activations, logits, trained_tokens)


def largest_batches(cell: Cell, lengths: Lengths) -> tuple[float, float]:
    """(tokens of the largest batch that is scored, of the largest that is trained); 0 where nothing is scored.

    A batch of B samples has B times the mean, and the largest of n batches about sqrt(2 ln n) standard deviations more,
    but never more than B of the longest.
    """
    assert cell.training is not None and cell.pruning is not None
    training, pruning, needs = cell.training, cell.pruning, needs_of(cell.pruning)
    size, schedule = training.batch_size, schedule_of(cell.pruning)
    kept = size if needs.by_epoch else max(1, round(pruning.sample_ratio * size))
    if pruning.selection == "global":
        kept = size  # the kept of all windows may fall into one batch
    if schedule == "pool":
        kept = size  # the kept samples make up full batches again
    elif schedule == "reuse-graph":
        # a batch is held whole until it is decided, beside what was kept of the earlier ones of its update
        kept = size + (training.batches - 1) * kept
    trained = lengths.tokens
    if pruning.sample_pruner in ("longest", "longest-original") and (schedule != "reuse-graph" or needs.by_epoch):
        ascending, kept_of_all = np.sort(trained), max(1, round(pruning.sample_ratio * len(trained)))
        trained = ascending[:kept_of_all] if pruning.sample_pruner == "longest" else ascending[-kept_of_all:]
    batches = max(2.0, training.epochs * lengths.rows / size)

    def largest(count: int, tokens: Array) -> float:
        usual = count * tokens.mean() + math.sqrt(2 * math.log(batches) * count) * tokens.std()
        return float(min(usual, count * tokens.max()))

    return (largest(size, lengths.tokens) if needs.all & FORWARDS else 0.0), largest(kept, trained)


def evaluation_memory(cell: Cell, evaluation: Evaluation, shape: Shape, work: Iterable[BenchmarkWork]) -> Memory:
    """Peak of evaluating a cell: weights, cache of a batch, logits of a chunk of positions (twice).

    vLLM takes what there is and fits its batches to it: counted is one sequence, the least that it needs.
    """
    size = BYTES[evaluation.dtype]
    adapters = cell.training.lora.r if cell.training is not None and cell.training.tuning == "lora" else 0
    weights = shape.parameters * size + 4.0 * shape.lora_parameters(adapters)
    cache = logits = activations = 0.0
    for asked in work:
        # batches are sorted by length: the first is the longest, some twice the mean
        answers = asked.answers * asked.answer_tokens
        rows = 1 if evaluation.backend == "vllm" else asked.batch_size
        longest = min(float(evaluation.max_length), 2 * asked.prompt_tokens + max(2 * answers, asked.most_steps))
        cache = max(cache, rows * longest * shape.cache_bytes(evaluation.dtype))
        positions = max(rows, CHUNK if asked.answers else 0)
        logits = max(logits, positions * shape.vocabulary * 8.0)
        activations = max(activations, _forward_bytes(shape, rows * longest, size))
    return Memory(weights, 0.0, 0.0, cache + activations, logits)


def _forward_bytes(shape: Shape, tokens: float, size: int) -> float:
    """What one layer holds in a forward without gradient, at `size` bytes a number."""
    return tokens * (3 * shape.intermediate + 6 * shape.hidden) * size
