"""When a training checkpoints: every so many seconds, and at once when it is asked to stop."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from qtuning.train import checkpoint
from qtuning.train.journal import Journal
from qtuning.train.loop import Loop

SHARE = 20  # a checkpoint may take at most about a twentieth of the time: large models checkpoint less often


class Keeper:
    """Checkpoints the loop of one cell. SIGTERM and Ctrl-C end it after the update, with a checkpoint."""

    def __init__(
        self,
        accelerator: Accelerator,
        identity: dict[str, Any],
        state: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loop: Loop,
        seconds: float,
        started: float,
    ) -> None:
        self._accelerator, self._identity, self._state = accelerator, identity, state
        self._model, self._optimizer, self._loop = model, optimizer, loop
        self._seconds, self._started, self._saved = seconds, started, time.perf_counter()
        self._before = loop.cost.seconds_total
        self._asked = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        signal.signal(number, signal.SIG_DFL)  # asked twice: at once, from the last checkpoint

    def elapsed(self) -> float:
        """Seconds spent on the cell, over all attempts."""
        return self._before + time.perf_counter() - self._started

    def after(self, update: int, journal: Journal | None, last: bool) -> None:
        """Called after each update, on every process: all must agree on what happens."""
        due = time.perf_counter() - self._saved >= self._seconds
        wanted = torch.tensor([float(due), float(self._asked)], device=self._accelerator.device)
        if self._accelerator.num_processes > 1:
            wanted = self._accelerator.reduce(wanted, reduction="sum")  # type: ignore[assignment]
        if last or not bool(wanted.any()):
            return
        begun = time.perf_counter()
        self._loop.cost.seconds_total = self.elapsed()
        costs = gather_object([vars(self._loop.cost)])
        if journal is not None:
            journal.checkpoint(update)
            numbers, pruner = self._loop.state()
            tensors = checkpoint.training_tensors(self._model, self._optimizer) | pruner
            checkpoint.save(self._state, update, tensors, {**self._identity, **numbers, "cost": costs})
        self._saved = time.perf_counter()
        self._seconds = max(self._seconds, SHARE * (self._saved - begun)) if self._seconds > 0 else 0.0
        if bool(wanted[1]):
            print(f"stopped after update {update} as asked; the same command goes on from here", file=sys.stderr)
            raise SystemExit(128 + (self._asked or signal.SIGTERM))
