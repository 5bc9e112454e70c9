"""Watches a fixed draw of training samples while a cell trains (figure 8 of the paper, experiments with `observe`).

A look scores the same samples under the current weights. It changes nothing: neither weights, nor random numbers, nor
the cost account, which has its seconds apart (`seconds_watching`).
"""

import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from qtuning.data.samples import Sample
from qtuning.scoring.scores import NonFinite
from qtuning.train.candidates import score_all
from qtuning.train.lines import Journal, LineFile
from qtuning.train.step import TrainingLoop
from qtuning.train.windows import UpdateWindow

WATCHED, LOOKS, SEED = 100, 20, 0
"""How many samples are watched, how often after the first look, and the seed of their draw."""

FILE = "watch.jsonl"


class Watch:
    """Looks at the samples before the first update, then LOOKS times in equal shares of the training.

    A line of the file is a look: `update` (how many were made before it), `done` (share of the training), `epoch`,
    `sample` (numbers), `ppl` and `entropy` (one a sample). Lines later than the checkpoint that training resumes from
    are dropped, so that none stands twice. Every process takes part; write: whether this one has the file.
    """

    def __init__(
        self, loop: TrainingLoop, folder: Path, resume_from: int, write: bool, journal: Journal | None = None
    ) -> None:
        """journal: see `RunLog`."""
        self._loop = loop
        self._samples = draw_watched(loop.samples)
        self._file: LineFile | None = None
        if write:
            path = folder / FILE
            known = path.read_bytes() if path.exists() else b""
            if journal is not None and FILE in journal:
                known = known[: journal[FILE][0]]
            else:  # a training that starts afresh looks at the base model anew
                lines = known.splitlines(keepends=True)
                known = b"".join(line for line in lines if resume_from and _update_of(line) <= resume_from)
            self._file = LineFile(path, known)

    def before_training(self) -> None:
        """Look at the base model, unless training resumes."""
        if self._loop.progress.update == 0:
            self._look(0.0, 0)

    def after_update(self, window: UpdateWindow) -> None:
        """Look if the training has come to the next of LOOKS equal shares."""
        epochs = self._loop.training.epochs
        # by the place in the epoch, as the learning rate: epochs may have different numbers of updates
        made, total = window.epoch * window.count + window.index + 1, epochs * window.count
        if made * LOOKS // total > (made - 1) * LOOKS // total:
            self._look(made / total, window.epoch)

    def publish(self, target: Path) -> None:
        """Write the looks to their final place."""
        assert self._file is not None
        self._file.publish(target)

    def journal(self) -> Journal:
        """What a checkpoint notes of the file."""
        return {} if self._file is None else {FILE: self._file.sync()}

    def _look(self, done: float, epoch: int) -> None:
        loop, began, computed = self._loop, time.perf_counter(), time.process_time()
        try:
            scores, _ = score_all(loop.bare, self._samples, loop.accelerator, loop.training.batch_size)
            ppl, entropy = scores.ppl.tolist(), scores.ent.tolist()
        except NonFinite:  # whether training has diverged is for training to say
            ppl = entropy = [None] * len(self._samples)
        if loop.accelerator.device.type == "cuda":  # the peak that training reached is in its account already
            torch.cuda.reset_peak_memory_stats(loop.accelerator.device)
        if self._file is not None:
            line: dict[str, Any] = {
                "update": loop.progress.update,
                "done": done,
                "epoch": epoch,
                "sample": [sample.number for sample in self._samples],
                "ppl": [value if value is not None and math.isfinite(value) else None for value in ppl],
                "entropy": entropy,
            }
            self._file.add(json.dumps(line))
        loop.cost.seconds_watching += time.perf_counter() - began
        loop.cost.cpu_seconds -= time.process_time() - computed  # as it is no part of seconds_total


def draw_watched(samples: Sequence[Sample]) -> list[Sample]:
    """WATCHED samples in the order of the train set; all if there are fewer. The draw depends on their number alone."""
    chosen = random.Random(SEED).sample(range(len(samples)), min(WATCHED, len(samples)))
    return [samples[position] for position in sorted(chosen)]


def _update_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):  # torn by a kill
        return float("inf")
