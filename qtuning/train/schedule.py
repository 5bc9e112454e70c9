"""Which samples an update works on, in which order, and at which learning rate."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qtuning.experiment.schema import Training
from qtuning.train.pooling import Pooling
from qtuning.train.seeding import epoch_order


@dataclass(frozen=True)
class Window:
    """The selection batches of one optimizer update, as positions in the train set.

    update: from 0. index, count: which update of its epoch, and of how many. batches: of all processes. offset, span:
    where several updates are made of the same batches (schedule `pool`), which of them, and of how many.
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
        """The first update that is made of these batches."""
        return self.update - self.offset

    @property
    def last(self) -> bool:
        """No later update is made of these batches."""
        return self.offset + 1 == self.span


def windows_of_epoch(
    epoch: int,
    drawn: Tensor,
    size: int,
    training: Training,
    data_seed: int,
    first_update: int,
    pooling: Pooling | None = None,
) -> Iterator[Window]:
    """The updates of an epoch that holds the positions `drawn` of a train set of `size` samples.

    At one data seed every pruner meets the samples it keeps in the same order.
    """
    pooling = pooling or Pooling()
    order = epoch_order(data_seed, epoch, size)
    order = order[torch.isin(order, drawn)]
    batches = [tuple(part.tolist()) for part in order.split(training.batch_size)]
    window = training.processes * training.accumulation
    spans = pooling.updates(math.ceil(len(batches) / window))
    reach = window * pooling.batches
    index = 0
    for number, span in enumerate(spans):
        pool = tuple(batches[number * reach : (number + 1) * reach])
        for offset in range(span):
            yield Window(first_update + index, epoch, index, sum(spans), pool, offset, span)
            index += 1


def rate_of(window: Window, training: Training) -> float:
    """The learning rate of an update: the schedule follows the epochs.

    Where all epochs have as many updates, that is following the updates; where they differ (InfoBatch anneals with the
    full data), how many a later epoch will have need not be known.
    """
    return learning_rate(window.epoch * window.count + window.index, training.epochs * window.count, training)


def learning_rate(update: int, updates: int, training: Training) -> float:
    """Linear warm-up over the first `warmup` share of the updates, then the schedule, reaching 0 after the last."""
    warm = round(training.warmup * updates)
    if update < warm:
        return training.learning_rate * (update + 1) / warm
    progress = (update - warm) / max(1, updates - warm)
    factor = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[training.schedule]
    return training.learning_rate * factor
