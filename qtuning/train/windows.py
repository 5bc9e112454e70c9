"""Which batches each optimizer update works on, and at which learning rate. Without torch: `plan/` asks it, too.

An epoch is cut into selection batches, and the batches into windows of `Training.batches`, which the processes share.
One update works on one window. Under the schedule `pool` several windows form a pool: their batches are scored
together, and what is kept of them is trained in fewer updates of full batches.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qtuning.experiment.cell import Pruning, Training


@dataclass(frozen=True)
class UpdateWindow:
    """The selection batches that one optimizer update works on, as positions in the train set.

    update: its number, from 0. index, count: its place in the epoch, and how many updates the epoch has. batches: those
    of all processes; process r owns batches r, r + processes, and so on. offset, span: in a pool, `span` updates share
    the batches, and this is number `offset` of them.
    """

    update: int
    epoch: int
    index: int
    count: int
    batches: tuple[tuple[int, ...], ...]
    offset: int = 0
    span: int = 1

    @property
    def first(self) -> int:
        """The first update made of these batches; random draws on the batches are keyed by it."""
        return self.update - self.offset

    @property
    def last(self) -> bool:
        """Whether no later update is made of these batches."""
        return self.offset + 1 == self.span


@dataclass(frozen=True)
class Pooling:
    """How pools are formed: `windows` windows a pool, of whose samples the share `ratio` is kept.

    The kept samples of P windows are trained in ceil(P * ratio) updates.
    """

    windows: int = 1
    ratio: float = 1.0

    @classmethod
    def of(cls, pruning: Pruning, by_epoch: bool) -> "Pooling":
        """The pools of a method under the schedule `pool`.

        by_epoch: the method draws its samples before each epoch, so that its batches hold only samples it keeps.
        """
        ratio = 1.0 if by_epoch else pruning.sample_ratio
        if pruning.passes == "twice":
            ratio *= pruning.sample_ratio
        return cls(pruning.scoring.batches, ratio)

    def updates(self, plain: int) -> list[int]:
        """How many updates each pool makes, in an epoch that has `plain` windows."""
        sizes = [min(self.windows, plain - start) for start in range(0, plain, self.windows)]
        # rounded first, because 0.1 * 30 is a little above 3 in floating point
        return [max(1, math.ceil(round(size * self.ratio, 9))) for size in sizes]


def cut_epoch(
    order: Sequence[int], epoch: int, training: Training, first_update: int, pooling: Pooling
) -> Iterator[UpdateWindow]:
    """The updates of an epoch that meets the positions `order` of the train set in this order."""
    size = training.batch_size
    batches = [tuple(order[start : start + size]) for start in range(0, len(order), size)]
    window = training.batches
    spans = pooling.updates(math.ceil(len(batches) / window))
    reach = window * pooling.windows
    index = 0
    for number, span in enumerate(spans):
        pool = tuple(batches[number * reach : (number + 1) * reach])
        for offset in range(span):
            yield UpdateWindow(first_update + index, epoch, index, sum(spans), pool, offset, span)
            index += 1


def share_out_rows(sizes: Sequence[int], window: UpdateWindow, forwards: int) -> list[list[int]]:
    """Which samples of a pool this update trains, as `forwards` groups of rows, some of which may be empty.

    sizes: tokens that each sample of the pool puts through the model; 0 for samples that are not trained. All updates
    of the pool, and all forwards of an update, get about the same number of tokens.
    """
    trained = [row for row, size in enumerate(sizes) if size > 0]
    return balance(balance(trained, sizes, window.span)[window.offset], sizes, forwards)


def balance(rows: Sequence[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """The rows in `count` groups of about equal total size: the largest row first, each to the lightest group.

    Rows ascend within a group, and groups are sorted by their first rows, empty ones last. That keeps the order of the
    epoch as far as possible.
    """
    heap = [(0, index) for index in range(count)]
    groups: list[list[int]] = [[] for _ in range(count)]
    for row in sorted(rows, key=lambda row: (-sizes[row], row)):
        total, index = heapq.heappop(heap)
        groups[index].append(row)
        heapq.heappush(heap, (total + sizes[row], index))
    return sorted((sorted(group) for group in groups), key=lambda group: group[0] if group else len(sizes))


def learning_rate(update: int, updates: int, training: Training) -> float:
    """Linear warm-up over the first `warmup` share of the updates, then the schedule, reaching 0 after the last."""
    warm = round(training.warmup * updates)
    if update < warm:
        return training.learning_rate * (update + 1) / warm
    progress = (update - warm) / max(1, updates - warm)
    factors = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
    return training.learning_rate * factors[training.schedule]
