"""Resume state of a cell in training: when it is written, and how it stays whole.

A checkpoint is written whole or not at all, checked when it is read, and gone when the cell is done:

    state/<cell>/checkpoint-0000123/{tensors.safetensors, state.json}     the last two
    state/<cell>/metrics.jsonl                                            one line an update
    state/<cell>/trace-0000123.parquet                                    decisions up to that checkpoint

It lies outside what Snakemake declares as output, because Snakemake deletes the outputs of a job it starts again.
"""

import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qtuning.errors import UserError
from qtuning.files import atomic_path, file_digest, read_json, short_hash, write_json
from qtuning.train.journal import RunLog
from qtuning.train.step import TrainingLoop

KEPT = 2  # checkpoints; the older one is there in case the newer one is damaged
# what reading a damaged checkpoint raises
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)
SHARE = 20  # writing may take about a twentieth of the time, so that large models checkpoint less often


class Checkpointer:
    """Checkpoints the loop of one cell every so many seconds. SIGTERM and Ctrl-C end it after the current update.

    identity: the cell and its inputs, which a checkpoint must share to be resumed from. seconds: between checkpoints.
    started, computed: time.perf_counter and time.process_time when this attempt began.
    """

    def __init__(
        self,
        loop: TrainingLoop,
        folder: Path,
        identity: Mapping[str, Any],
        seconds: float,
        started: float,
        computed: float,
    ) -> None:
        self._loop, self._folder, self._identity = loop, folder, identity
        self._seconds, self._started, self._saved = seconds, started, time.perf_counter()
        self._computed = computed
        self._before = loop.cost.seconds_total + loop.cost.seconds_watching
        self._asked = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        signal.signal(number, signal.SIG_DFL)  # asked twice: end at once, and resume from the last checkpoint

    def take_time(self) -> None:
        """Bring the account up to now: what the cell took over all attempts, without watching (watch.py)."""
        cost, now = self._loop.cost, time.process_time()
        cost.seconds_total = self._before + time.perf_counter() - self._started - cost.seconds_watching
        cost.cpu_seconds += now - self._computed
        self._computed = now

    def after_update(self, log: RunLog | None, last: bool) -> None:
        """Save the state if it is time; if asked to stop, save it and exit. Every process calls this after each update.

        log: that of the main process, which alone writes. last: no update follows, so that nothing needs saving.
        """
        accelerator, due = self._loop.accelerator, time.perf_counter() - self._saved >= self._seconds
        wanted = torch.tensor([float(due), float(self._asked)], device=accelerator.device)
        if accelerator.num_processes > 1:  # clocks and signals differ, and all must do the same
            wanted = accelerator.reduce(wanted, reduction="sum")  # type: ignore[assignment]
        if last or not bool(wanted.any()):
            return
        begun = time.perf_counter()
        self.take_time()
        costs, update = gather_object([vars(self._loop.cost)]), self._loop.progress.update
        if log is not None:
            log.checkpoint(update)
            assert self._loop.optimizer is not None
            numbers, pruner = self._loop.state()
            tensors = training_tensors(self._loop.bare, self._loop.optimizer) | pruner
            save(self._folder, update, tensors, {**self._identity, **numbers, "cost": costs})
        self._saved = time.perf_counter()
        self._seconds = max(self._seconds, SHARE * (self._saved - begun)) if self._seconds > 0 else 0.0
        if bool(wanted[1]):
            print(f"stopped after update {update} as asked; the same command goes on from here", file=sys.stderr)
            raise SystemExit(128 + (self._asked or signal.SIGTERM))


def save(folder: Path, update: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write checkpoint `update` and drop all but the last two.

    A checkpoint later than `update` must be damaged, because training went on from an earlier one. It is dropped, too.
    """
    written = folder / f"checkpoint-{update:07d}"
    with atomic_path(written) as temporary:
        temporary.mkdir()
        file = temporary / "tensors.safetensors"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
        whole = {**state, "update": update, "tensors_sha256": file_digest(file)}
        write_json(temporary / "state.json", whole | {"checksum": short_hash(whole)})
    checkpoints = checkpoints_of(folder)
    intact = [path for path in checkpoints if path <= written]
    for path in set(checkpoints) - set(intact[-KEPT:]):
        shutil.rmtree(path)


def latest(folder: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest intact checkpoint as (tensors, state), or None. Damaged ones are reported and passed over.

    identity: the cell and the inputs that the checkpoint must be of. If data or base model have changed since, the
    state is removed with a notice, and training starts afresh. Raises UserError for a checkpoint of another cell.
    """
    for path in reversed(checkpoints_of(folder)):
        try:
            state = verified(path)
            tensors = load_file(path / "tensors.safetensors")
        except DAMAGE as error:
            print(f"{path}: damaged checkpoint passed over ({error})", file=sys.stderr)
            continue
        if state["cell"] != identity["cell"]:
            raise UserError(f"{path}: belongs to another configuration; delete {folder} to start afresh")
        if state["inputs"] != identity["inputs"]:
            print(f"{path}: made from other data or another base model; training starts afresh", file=sys.stderr)
            clear(folder)
            return None
        return tensors, state
    return None


def checkpoints_of(folder: Path) -> list[Path]:
    """Folders of the checkpoints of a resume state, oldest first; damaged ones, too."""
    return sorted(folder.glob("checkpoint-*"))


def verified(path: Path) -> dict[str, Any]:
    """The state.json of a checkpoint whose checksums hold, without its checksum. Raises one of DAMAGE otherwise."""
    state: dict[str, Any] = read_json(path / "state.json")
    if state.pop("checksum") != short_hash(state):
        raise ValueError("checksum of state.json differs")
    if file_digest(path / "tensors.safetensors") != state["tensors_sha256"]:
        raise ValueError("checksum of tensors.safetensors differs")
    return state


def clear(folder: Path) -> None:
    """Remove the state of a finished cell."""
    shutil.rmtree(folder, ignore_errors=True)


def training_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Trainable parameters and the optimizer's moments, by name."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trainable(model):
        tensors[f"model.{name}"] = parameter
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    return tensors


def restore(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put what `training_tensors` gave back, bit for bit. Other tensors among them are left alone."""
    keys = sorted({full.split(".")[1] for full in tensors if full.startswith("optimizer.")})
    with torch.no_grad():
        for name, parameter in _trainable(model):
            parameter.copy_(tensors[f"model.{name}"])
            saved = {key: tensors.get(f"optimizer.{key}.{name}") for key in keys}
            # a parameter that never had a gradient has no state, neither before nor after
            if moments := {key: value.to(parameter.device) for key, value in saved.items() if value is not None}:
                optimizer.state[parameter] = moments


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
