"""How many FLOPs a decoder takes to score and to train; without torch, so that `qtuning plan` counts as training does.

F is one forward. Full fine-tuning takes 3F: the backward pass makes gradients of the activations and of the weights. A
frozen base (LoRA) needs no gradients of its weights, so 2F. Activation checkpointing recomputes the forward: F more.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

# Positions whose logits exist at a time (head.py); the fastest on a CPU with 49,152 words, and a buffer of 250 MB with
# 256,000. Memory depends on it, which `qtuning plan` predicts without torch.
CHUNK = 256


class Forwarded(Protocol):
    """What goes through a model, as far as FLOPs depend on it.

    tokens: positions that go through the layers. pairs: how many times one position attends to another, the sum of
    L (L + 1) / 2 over the sequences. targets: positions that go through the head.
    """

    @property
    def tokens(self) -> float: ...
    @property
    def pairs(self) -> float: ...
    @property
    def targets(self) -> float: ...


@dataclass(frozen=True)
class Positions:
    """A `Forwarded` by its numbers, which may be expectations."""

    tokens: float
    pairs: float
    targets: float

    @classmethod
    def of(cls, lengths: Iterable[int], targets: float) -> "Positions":
        """Those of sequences of these lengths."""
        sizes = list(lengths)
        return cls(sum(sizes), causal_pairs(sizes), targets)


def causal_pairs(lengths: Iterable[int]) -> float:
    """The sum of L (L + 1) / 2: under a causal mask a position attends to itself and to those before it."""
    return sum(length * (length + 1) / 2 for length in lengths)


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

    def forward_flops(self, forwarded: Forwarded, depth: float = 1.0) -> float:
        """2 FLOPs a weight and token, 4 a pair of positions and attention channel, and the head.

        depth: the share of the layers that ran, where a forward stopped early.
        """
        return self._layers(forwarded) * depth + self._head(forwarded)

    def training_flops(self, forwarded: Forwarded) -> float:
        """Forward and backward."""
        return self.forward_flops(forwarded) * self.passes

    def backward_flops(self, forwarded: Forwarded) -> float:
        """Backward alone, through samples whose forward is accounted for already (schedule `reuse-graph`).

        That forward went through the head without a gradient, so the head's own comes once more.
        """
        head = self._head(forwarded) * (2.0 if self.frozen else 3.0)
        return self._layers(forwarded) * (self.passes - 1.0) + head

    def _layers(self, forwarded: Forwarded) -> float:
        return 2.0 * self.matmul * forwarded.tokens + 4.0 * self.attention * forwarded.pairs

    def _head(self, forwarded: Forwarded) -> float:
        return 2.0 * self.head * forwarded.targets
