"""What a pruned trainer writes, logs and warns of: the same trace and metrics as a training of our own."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qtuning.experiment.cell import Pruning
from qtuning.train.decision import mean_by_key
from qtuning.train.journal import ROW_GROUP, Diagnosis, RunLog

FOLDER = "qtuning"
"""Below the trainer's output_dir: `trace.parquet` at the end of training, `trace-UPDATE.parquet` until then and to
resume from, and `metrics.jsonl`."""

COUNTS = ("samples", "samples_kept", "samples_asked", "response_tokens", "tokens_kept", "tokens_asked")
"""Sums over the micro-batches of an update, of all processes."""

logger = logging.getLogger(__name__)


class PruningJournal(TrainerCallback):
    """Trace and metrics of the updates, and their sums and means since the trainer last logged.

    Only the first process writes and warns. What is later than the checkpoint that training resumes from is dropped,
    and what the trainer had not logged by then counts again, so that a resumed run logs what it would have logged.
    """

    def __init__(self, pruning: Pruning) -> None:
        self._pruning = pruning
        self._diagnosis = Diagnosis(pruning)
        self._window: list[Mapping[str, Any]] = []
        self._log: RunLog | None = None
        self._waiting = 0  # rows that are in memory only

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the files, and take up what is not logged yet."""
        self._diagnosis, self._window, self._waiting = Diagnosis(self._pruning), [], 0
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir)) / FOLDER
        self._log = RunLog(folder, state.global_step)
        self._folder = folder
        (folder / "trace.parquet").unlink(missing_ok=True)
        logged = max((int(entry["step"]) for entry in state.log_history if "loss" in entry), default=0)
        for record in self._log.records():
            self._diagnosis.feed(record)
            if record["update"] >= logged:
                self._window.append(record)

    def add(self, record: Mapping[str, Any], rows: Sequence[tuple[Any, ...]]) -> None:
        """Note an update: its metrics, and its rows of the trace (train/journal.py, TRACE_SCHEMA)."""
        self._window.append(record)
        self._diagnosis.feed(record)
        if self._log is None:
            return
        self._log.log(record)
        self._log.trace(rows)
        self._waiting += len(rows)
        if self._waiting >= ROW_GROUP:
            self.flush(record["update"] + 1)

    def flush(self, update: int) -> None:
        """Write the rows of the trace so far. update: how many updates are made. Call it before a checkpoint."""
        if self._log is not None:
            self._log.checkpoint(update)
            self._waiting = 0

    def logs(self) -> dict[str, float]:
        """What the trainer logs beside the loss: sums and means since it last asked, and kept over seen."""
        sums = {key: sum(record[key] for record in self._window) for key in COUNTS}
        found = {f"qtuning/{key}": float(value) for key, value in sums.items()}
        for kept, seen in (("samples_kept", "samples"), ("tokens_kept", "response_tokens")):
            if sums[seen]:
                found[f"qtuning/{kept}_share"] = sums[kept] / sums[seen]
        selected = [
            {key: value for key, value in record.items() if key.startswith("selection/") and value is not None}
            for record in self._window
        ]
        self._window = []
        return found | {f"qtuning/{key}": value for key, value in mean_by_key(selected).items()}

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn of what the epoch showed: budgets missed, thresholds that do not converge, empty quadrants."""
        for text in self._diagnosis.news() if state.is_world_process_zero else ():
            logger.warning("pruning: %s", text)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the trace into one file."""
        self.on_epoch_end(args, state, control)
        if self._log is not None:
            self._log.publish(self._folder / "metrics.jsonl", self._folder / "trace.parquet")
            self._log = None
