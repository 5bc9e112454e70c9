"""Peak memory of a training and of an evaluation: weights, gradients, optimizer, activations, logits."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qtuning.experiment.cell import Cell, Evaluation, Training
from qtuning.experiment.needs import FORWARDS, needs_of, schedule_of
from qtuning.model.flops import CHUNK
from qtuning.plan.lengths import Array, Lengths
from qtuning.plan.shapes import BYTES, Attention, Shape
from qtuning.plan.work import BenchmarkWork

# Bytes that autograd saves for one token in one layer, for each channel of (hidden, queries, keys, intermediate), by
# tuning, dtype of the weights and mixed_precision; counted on LLaMA layers of transformers 5.23 with peft 0.21 (a test
# counts them again). peft casts the input of each adapter to float32, which is most of what LoRA on bfloat16 weights
# takes; under autocast we keep it from that (model/load.py).
SAVED = {
    ("full", "float32", "no"): (24, 12, 8, 16),
    ("full", "bfloat16", "no"): (16, 6, 4, 8),
    ("full", "float32", "bf16"): (26, 6, 4, 8),
    ("full", "bfloat16", "bf16"): (16, 6, 4, 8),
    ("lora", "float32", "no"): (16, 12, 8, 16),
    ("lora", "bfloat16", "no"): (28, 8, 4, 10),
    ("lora", "float32", "bf16"): (18, 6, 4, 8),
    ("lora", "bfloat16", "bf16"): (12, 6, 4, 8),
}
LINEAR = 7  # matrices of a layer that carry an adapter
NF4 = 0.516  # bytes of a weight in 4 bits, with the scales of each 64, which are quantised themselves
MOMENTS = {"adamw": 8.0, "adamw-8bit": 2.04}  # bytes of a float32 weight's two moments
CAPPED = 8  # bytes of each attention weight where scores are capped, by autograd's three copies; 4: by the math kernel


@dataclass(frozen=True)
class Place:
    """Where a training runs, as far as its memory depends on that.

    processes: that share an update, one a device. sharded: whether each holds a slice of the model (FSDP).
    """

    processes: int = 1
    sharded: bool = False
    attention: Attention = "fused"


ALONE = Place()


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


def moments_bytes(shape: Shape, training: Training, dtype: str) -> float:
    """Bytes of Adam's two moments, which have the dtype of the weights, or 8 bits."""
    trained = trained_bytes(shape, training, dtype)
    if training.optimizer == "adamw":
        return 2.0 * trained
    return MOMENTS["adamw-8bit"] * trained / (4 if training.tuning == "lora" else BYTES[dtype])


def base_bytes(shape: Shape, training: Training, dtype: str) -> float:
    """Bytes of the model without adapters. In 4 bits all matrices but the head, and one of them whole as it is used."""
    size = BYTES[dtype]
    if training.quantization == "none":
        return float(shape.parameters * size)
    largest = shape.hidden * max(shape.intermediate, shape.query_width)
    return NF4 * shape.matmul + size * (shape.parameters - shape.matmul + largest)


def saved_bytes(shape: Shape, training: Training, dtype: str, attention: Attention = "fused") -> float:
    """Bytes that autograd saves for one token in one layer, without what grows with the square of the length."""
    mixed = training.mixed_precision
    keys = shape.kv_width if attention == "fused" else shape.query_width
    channels = (shape.hidden, shape.query_width, keys, shape.intermediate)
    saved = sum(size * width for size, width in zip(SAVED[training.tuning, dtype, mixed], channels, strict=True))
    rank = training.lora.r * LINEAR * (2 if mixed == "bf16" else 4) if training.tuning == "lora" else 0
    return float(saved + rank + 4 * shape.heads)


def saved_pair_bytes(shape: Shape, attention: Attention) -> float:
    """Bytes that autograd saves in one layer for one token that attends to one (masked or not): L^2 of a sample."""
    if shape.capped:
        return float(CAPPED * shape.heads)
    return 4.0 * shape.heads if attention == "math" else 0.0


def training_memory(cell: Cell, shape: Shape, lengths: Lengths, place: Place = ALONE) -> Memory:
    """Peak of training a cell, at its largest batch, on one device."""
    assert cell.training is not None and cell.pruning is not None
    training, size = cell.training, BYTES[cell.dtype]
    lora, trained = training.tuning == "lora", trained_bytes(shape, training, cell.dtype)
    base, moments = base_bytes(shape, training, cell.dtype), moments_bytes(shape, training, cell.dtype)
    weights, gradients = base + (trained if lora else 0), float(trained)
    reused = schedule_of(cell.pruning) == "reuse-graph"
    batches = training.accumulation(place.processes)
    if place.sharded:
        # embedding and head stay gathered in a pass, and so do two layers: one computes, the next is on its way
        layer = shape.matmul / shape.layers * (NF4 if training.quantization != "none" else size)
        whole = base if reused else (base - shape.layers * layer) + 2 * layer
        weights = weights / place.processes + whole
        gradients, moments = gradients / place.processes + (0 if lora else layer), moments / place.processes
    elif place.processes > 1:
        gradients *= 2  # DDP sums them in buckets of its own
    if training.mixed_precision == "bf16" and size == 4 and training.quantization == "none":
        # autocast's copies of the matrices; autograd saves those that a graph was made with
        layers = 1 if place.sharded and training.gradient_checkpointing else shape.layers
        weights += (
            2.0
            * shape.matmul
            * layers
            / shape.layers
            * (batches if reused and not training.gradient_checkpointing else 1)
        )
    scored_tokens, (trained_tokens, squares) = largest_batches(cell, lengths, place.processes)
    layer_bytes = trained_tokens * saved_bytes(shape, training, cell.dtype, place.attention)
    layer_bytes += squares * saved_pair_bytes(shape, place.attention)
    if training.gradient_checkpointing:
        activations = trained_tokens * shape.layers * shape.hidden * size + layer_bytes
    else:
        activations = layer_bytes * (shape.layers + 1)  # one more: what the backward pass holds at a time
    activations = max(activations, _forward_bytes(shape, scored_tokens, size))
    logits = CHUNK * shape.vocabulary * 12.0
    if not lora:
        logits += shape.head * 4.0  # the head's gradient, summed over chunks
    return Memory(weights, gradients, moments, activations, logits, trained_tokens)


def largest_batches(cell: Cell, lengths: Lengths, processes: int = 1) -> tuple[float, tuple[float, float]]:
    """(tokens of the largest batch that a process scores, (tokens, sum of L^2) of the largest that it trains).

    0 tokens where nothing is scored. A batch of B samples has B times the mean, and the largest of n batches about
    sqrt(2 ln n) standard deviations more, but never more than B of the longest.
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
        kept = size + (training.accumulation(processes) - 1) * kept
    trained = lengths.tokens
    if pruning.sample_pruner in ("longest", "longest-original") and (schedule != "reuse-graph" or needs.by_epoch):
        ascending, kept_of_all = np.sort(trained), max(1, round(pruning.sample_ratio * len(trained)))
        trained = ascending[:kept_of_all] if pruning.sample_pruner == "longest" else ascending[-kept_of_all:]
    batches = max(2.0, training.epochs * lengths.rows / size)

    def largest(count: int, tokens: Array) -> float:
        usual = count * tokens.mean() + math.sqrt(2 * math.log(batches) * count) * tokens.std()
        return float(min(usual, count * tokens.max()))

    scored, tokens = (largest(size, lengths.tokens) if needs.all & FORWARDS else 0.0), largest(kept, trained)
    return scored, (tokens, tokens * float((trained**2).sum() / trained.sum()))


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
