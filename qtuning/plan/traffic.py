"""Bytes that a model moves through the memory of a GPU beside its large matrix products: why it is slower than these.

Norms, rotations, gates, residual sums and casts read and write every channel and compute next to nothing, and so do
the products of LoRA with their narrow side: a GPU does them at the speed of its memory. Attention counts with its
inputs and output.
"""

from dataclasses import dataclass, replace

from qtuning.experiment.cell import Cell
from qtuning.plan.shapes import Shape

Coefficients = tuple[int, int, int, int]

# Bytes for each token in one layer and for each channel of (hidden, queries, keys, intermediate), forward and backward,
# by tuning, dtype of the weights and mixed_precision; counted on LLaMA layers of transformers 5.23 with peft 0.21 (a
# test counts them again).
TRAFFIC: dict[tuple[str, str, str], tuple[Coefficients, Coefficients]] = {
    ("full", "float32", "no"): ((80, 56, 48, 20), (252, 88, 104, 36)),
    ("full", "bfloat16", "no"): ((84, 28, 24, 10), (222, 44, 52, 18)),
    ("full", "float32", "bf16"): ((106, 44, 40, 10), (294, 74, 82, 18)),
    ("full", "bfloat16", "bf16"): ((84, 28, 24, 10), (222, 44, 52, 18)),
    ("lora", "float32", "no"): ((148, 84, 96, 72), (352, 124, 136, 88)),
    ("lora", "bfloat16", "no"): ((190, 66, 80, 76), (362, 92, 108, 94)),
    ("lora", "float32", "bf16"): ((170, 58, 64, 36), (388, 92, 98, 44)),
    ("lora", "bfloat16", "bf16"): ((118, 42, 48, 36), (272, 62, 68, 44)),
}
# For each position that meets the head, and each word of the vocabulary: to score, and for a loss with its gradient.
# Counted: 48 to 57 and 28 to 51.
HEAD_SCORES, HEAD_LOSS = 54, 45


@dataclass(frozen=True)
class Way:
    """How a model computes. tuning: full or lora. dtype: of its weights. mixed: `mixed_precision`, no or bf16."""

    tuning: str
    dtype: str
    mixed: str = "no"

    @classmethod
    def of(cls, cell: Cell) -> "Way":
        """Of a cell that is trained."""
        assert cell.training is not None
        return cls(cell.training.tuning, cell.dtype, cell.training.mixed_precision)

    @property
    def without_adapters(self) -> "Way":
        """Of another model that is used beside the one that learns."""
        return replace(self, tuning="full")

    def scoring(self, shape: Shape, tokens: float, targets: float, depth: float = 1.0) -> float:
        """Bytes of a forward without gradient. depth: the share of the layers that ran."""
        return depth * tokens * self._layers(shape, 0) + targets * shape.vocabulary * HEAD_SCORES

    def training(self, shape: Shape, tokens: float, targets: float, forwards: int) -> float:
        """Bytes of loss, backward and `forwards`: 1, or none through reused graphs; and 1 more to recompute."""
        layers = forwards * self._layers(shape, 0) + self._layers(shape, 1)
        return tokens * layers + targets * shape.vocabulary * HEAD_LOSS

    def _layers(self, shape: Shape, direction: int) -> float:
        channels = (shape.hidden, shape.query_width, shape.kv_width, shape.intermediate)
        coefficients = TRAFFIC[self.tuning, self.dtype, self.mixed][direction]
        return float(shape.layers * sum(a * b for a, b in zip(coefficients, channels, strict=True)))
