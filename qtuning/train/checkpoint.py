"""Resume state of a cell in training: when it is written, and how it stays whole.

A checkpoint is written whole or not at all, checked when it is read, and gone when the cell is done:

    state/<cell>/checkpoint-0000123/{tensors.safetensors, state.json}     the last two
                                    shards/                               slices of the processes, under FSDP
    state/<cell>/metrics.jsonl                                            one line an update
    state/<cell>/trace-0000123.parquet                                    decisions up to that checkpoint

It lies outside what Snakemake declares as output, because Snakemake deletes the outputs of a job it starts again.
"""

import shutil
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from qtuning.errors import UserError
from qtuning.files import atomic_path, file_digest, read_json, short_hash, write_json
from qtuning.manifest import tell_unverified
from qtuning.train.exchange import gather_objects, sum_over_processes, wait_for_everyone
from qtuning.train.journal import RunLog
from qtuning.train.lines import Journal, check_journal
from qtuning.train.sharding import rest, slice_like
from qtuning.train.shards import FOLDER, check_shards, names_of_shards, read_shards, write_shards
from qtuning.train.step import TrainingLoop
from qtuning.train.watch import Watch

KEPT = 2  # checkpoints; the older one is there in case the newer one is damaged
# what reading a damaged checkpoint raises
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)
SHARE = 20  # writing may take about a twentieth of the time, so that large models checkpoint less often


class Checkpointer:
    """Checkpoints the loop of one cell every so many seconds. SIGTERM and Ctrl-C end it after the current update.

    identity: the cell and its inputs, which a checkpoint must share to be resumed from. seconds: between checkpoints.
    started, computed: time.perf_counter and time.process_time when this attempt began. watch: if there is one.
    """

    def __init__(
        self,
        loop: TrainingLoop,
        folder: Path,
        identity: Mapping[str, Any],
        seconds: float,
        started: float,
        computed: float,
        watch: Watch | None = None,
    ) -> None:
        self._loop, self._folder, self._identity = loop, folder, identity
        self._seconds, self._started, self._saved = seconds, started, time.perf_counter()
        self._computed, self._watch = computed, watch
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

        log: that of the main process; the others write slices alone. last: no update follows, so that nothing needs
        saving.
        """
        due = time.perf_counter() - self._saved >= self._seconds
        # clocks and signals differ, and all must do the same
        wanted = sum_over_processes(torch.tensor([float(due), float(self._asked)])).tolist()
        if last or not any(wanted):
            return
        begun = time.perf_counter()
        self.take_time()
        costs, update = gather_objects([vars(self._loop.cost)]), self._loop.progress.update
        journal: Journal = {}
        if log is not None:
            journal = {**log.checkpoint(update), **({} if self._watch is None else self._watch.journal())}
        assert self._loop.optimizer is not None
        rest(self._loop.bare)
        numbers, pruner = self._loop.state()
        tensors = training_tensors(self._loop.bare, self._loop.optimizer) | pruner
        state = {**self._identity, **numbers, "cost": costs, "journal": journal}
        save(self._folder, update, tensors, state, writes=log is not None)
        wait_for_everyone()  # for the writer; the GPUs of the others would wait in their next collective
        self._saved = time.perf_counter()
        self._seconds = max(self._seconds, SHARE * (self._saved - begun)) if self._seconds > 0 else 0.0
        if wanted[1]:
            print(f"stopped after update {update} as asked; the same command goes on from here", file=sys.stderr)
            raise SystemExit(128 + (self._asked or signal.SIGTERM))


class Saved(NamedTuple):
    """A checkpoint as it was read. shards: the folder of the sharded tensors that lie there yet, or None."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    shards: Path | None = None


def save(
    folder: Path, update: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], writes: bool = True
) -> None:
    """Write checkpoint `update` and drop all but the last two.

    A checkpoint later than `update` must be damaged, because training went on from an earlier one. It is dropped, too.
    If tensors are sharded, every process calls this. writes: whether this is the process that writes all but slices.
    """
    written = folder / _name(update)
    sliced = {name: tensor.detach() for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
    with atomic_path(written) if writes else nullcontext() as temporary:
        if temporary is not None:
            temporary.mkdir()
        digests = {}
        if sliced:  # gathered, because the name is random; only the first process has one
            (place,) = gather_objects([] if temporary is None else [temporary])
            digests = {"shards_sha256": write_shards(place / FOLDER, sliced)}
        if temporary is None:
            return
        file = temporary / "tensors.safetensors"
        whole_here = {name: tensor for name, tensor in tensors.items() if name not in sliced}
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in whole_here.items()}, file)
        whole = {**state, **digests, "update": update, "tensors_sha256": file_digest(file)}
        write_json(temporary / "state.json", whole | {"checksum": short_hash(whole)})
    checkpoints = checkpoints_of(folder)
    intact = [path for path in checkpoints if path <= written]
    for path in set(checkpoints) - set(intact[-KEPT:]):
        shutil.rmtree(path)


def agreed(folder: Path, identity: Mapping[str, Any], first: bool) -> Saved | None:
    """`latest`, as the first process found it. Every process calls this; the others read what the first one chose."""
    found = latest(folder, identity) if first else None
    (state,) = gather_objects([found.state if found is not None else None] if first else [])
    if first or state is None:
        return found
    path = folder / _name(state["update"])
    return Saved(load_file(path / "tensors.safetensors"), state, _shards(path, state))


def latest(folder: Path, identity: Mapping[str, Any]) -> Saved | None:
    """The newest intact checkpoint, or None. Damaged ones are reported and passed over.

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
        return Saved(tensors, state, _shards(path, state))
    return None


def checkpoints_of(folder: Path) -> list[Path]:
    """Folders of the checkpoints of a resume state, oldest first; damaged ones, too."""
    return sorted(folder.glob("checkpoint-*"))


def verified(path: Path) -> dict[str, Any]:
    """The state.json of a checkpoint whose checksums hold, without its own. Raises one of DAMAGE otherwise.

    Metrics and trace before it are a part of it.
    """
    state: dict[str, Any] = read_json(path / "state.json")
    if state.pop("checksum") != short_hash(state):
        raise ValueError("checksum of state.json differs")
    if file_digest(path / "tensors.safetensors") != state["tensors_sha256"]:
        raise ValueError("checksum of tensors.safetensors differs")
    check_shards(path / FOLDER, state.get("shards_sha256", {}))
    if "journal" in state:
        check_journal(path.parent, state["journal"])
    else:
        tell_unverified(f"{path.parent}: metrics and trace")
    return state


def clear(folder: Path) -> None:
    """Remove the state of a finished cell."""
    shutil.rmtree(folder, ignore_errors=True)


def training_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Trainable parameters and the optimizer's moments, by name; under FSDP as slices (DTensor)."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trainable(model):
        tensors[f"model.{name}"] = parameter
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    return tensors


def restore(
    tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, shards: Path | None = None
) -> None:
    """Put what `training_tensors` gave back, bit for bit. Other tensors among them are left alone.

    What was saved sharded may be restored whole, and the other way round. shards: of `Saved`.
    """
    known = dict(tensors)
    if shards is not None:
        names = names_of_shards(shards)
        kinds = {"model"} | {".".join(full.split(".")[:2]) for full in names if full.startswith("optimizer.")}
        sliced = {
            full: torch.empty_like(parameter.detach())
            for name, parameter in _trainable(model)
            for kind in kinds
            if (full := f"{kind}.{name}") in names
        }
        read_shards(shards, sliced)
        known |= sliced
    keys = sorted({full.split(".")[1] for full in known if full.startswith("optimizer.")})
    with torch.no_grad():
        for name, parameter in _trainable(model):
            parameter.copy_(slice_like(parameter, known[f"model.{name}"]))
            saved = {key: known.get(f"optimizer.{key}.{name}") for key in keys}
            # a parameter that never had a gradient has no state, neither before nor after
            moments: dict[str, Any] = {
                # bitsandbytes counts steps by an integer, torch by a tensor
                key: value.item() if value.dtype == torch.int64 and value.ndim == 0 else slice_like(parameter, value)
                for key, value in saved.items()
                if value is not None
            }
            if moments:
                optimizer.state[parameter] = moments


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _name(update: int) -> str:
    return f"checkpoint-{update:07d}"


def _shards(path: Path, state: Mapping[str, Any]) -> Path | None:
    return path / FOLDER if "shards_sha256" in state else None
