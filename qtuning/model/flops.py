"""How many FLOPs a decoder takes to score and to train; without torch, so that `qtuning plan` counts as training does.

F is one forward. Full fine-tuning takes 3F: the backward pass makes gradients of the activations and of the weights. A
frozen base (LoRA) needs no gradients of its weights, so 2F. Activation checkpointing recomputes the forward: F more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

# Positions whose logits exist at a time (head.py); the fastest on a CPU with 49,152 words, and a buffer of 250 MB with
# 256,000. Memory depends on it, which `qtuning plan` predicts without torch.
CHUNK = 256
GRADIENT_TOKENS = 4096  # that go through a model together for gradients of single samples (train/influence.py)


@dataclass(frozen=True)
class Positions:
    """What goes through a model, as far as FLOPs depend on it; the numbers may be expectations.

    tokens: positions that go through the layers. pairs: how many times one position attends to another. targets:
    positions that go through the head.
    """

    tokens: float
    pairs: float
    targets: float

    @classmethod
    def of(cls, lengths: Iterable[int], targets: float) -> "Positions":
        """Those of sequences of these lengths: under a causal mask a position attends to itself and those before it."""
        sizes = list(lengths)
        return cls(sum(sizes), sum(length * (length + 1) / 2 for length in sizes), targets)


@dataclass(frozen=True)
class ModelShape:
    """What the FLOPs of a model depend on.

    matmul: weights of the backbone's matrices. attention: layers x heads x head size. head: weights of the output head.
    frozen: the base does not learn (LoRA). checkpointing: activations are recomputed.
    """

    matmul: int
    attention: int
    head: int
    frozen: bool = False
    checkpointing: bool = False

    @property
    def passes(self) -> float:
        """Forward and backward, counted in forwards."""
        return (2.0 if self.frozen else 3.0) + self.checkpointing

    def forward_flops(self, positions: Positions, depth: float = 1.0) -> float:
        """2 FLOPs a weight and token, 4 a pair of positions and attention channel, and the head.

        depth: the share of the layers that ran, where a forward stopped early.
        """
        return self._layers(positions) * depth + self._head(positions)

    def training_flops(self, positions: Positions) -> float:
        """Forward and backward."""
        return self.forward_flops(positions) * self.passes

    def backward_flops(self, positions: Positions) -> float:
        """Backward alone, through samples whose forward is accounted for already (schedule `reuse-graph`).

        That forward went through the head without a gradient, so the head's own comes once more.
        """
        head = self._head(positions) * (2.0 if self.frozen else 3.0)
        return self._layers(positions) * (self.passes - 1.0) + head

    def _layers(self, positions: Positions) -> float:
        return 2.0 * self.matmul * positions.tokens + 4.0 * self.attention * positions.pairs

    def _head(self, positions: Positions) -> float:
        return 2.0 * self.head * positions.targets
