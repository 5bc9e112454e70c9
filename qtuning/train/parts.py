"""Scoring a batch that does not fit into memory: in parts that do. The scores are the same, but for rounding."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from qtuning.data.samples import Sample
from qtuning.errors import one_line
from qtuning.model.out_of_memory import OutOfMemory, is_out_of_memory

Found = TypeVar("Found")


@dataclass
class Parts:
    """tokens: that fit into a forward, as far as is known. All, until some did not."""

    tokens: float = math.inf

    def each(self, samples: Sequence[Sample], forward: Callable[[Sequence[Sample]], Found]) -> list[Found]:
        """What `forward` finds of consecutive parts of the samples. OutOfMemory if a single sample is too large."""
        left, found = self._cut(samples), list[Found]()
        while left:
            try:
                found.append(forward(left[0]))
                left.pop(0)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = one_line(error)
            # not before here: the exception holds whatever the forward had made
            if len(left[0]) == 1:
                raise OutOfMemory(f"out of memory in scoring: {size_of(left[0])} ({said})", "lower training.cutoff")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.tokens = sum(len(sample.tokens) for sample in left[0]) / 2
            left[:1] = self._cut(left[0])
        return found

    def _cut(self, samples: Sequence[Sample]) -> list[Sequence[Sample]]:
        """Consecutive parts of at most so many tokens, or of one sample."""
        parts: list[list[Sample]] = []
        tokens = math.inf
        for sample in samples:
            tokens += len(sample.tokens)
            if tokens > self.tokens or not parts:
                parts.append([])
                tokens = len(sample.tokens)
            parts[-1].append(sample)
        return [*parts]


def size_of(samples: Sequence[Sample]) -> str:
    """`8 samples, 3,411 tokens`, for messages."""
    plural = "s" if len(samples) > 1 else ""
    return f"{len(samples)} sample{plural}, {sum(len(sample.tokens) for sample in samples):,} tokens"
