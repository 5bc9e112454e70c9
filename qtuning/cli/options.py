"""What commands share: their options, the configurations that they read, and the threads and GPUs that they hold."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from qtuning.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from qtuning.experiment.cell import Cell, Evaluation
    from qtuning.experiment.influence import Measurement
    from qtuning.experiment.metrics import MetricName

T = TypeVar("T", bound="BaseModel")

CellFile = Annotated[
    Path,
    typer.Argument(
        help="configuration of a cell, results/configurations/CELL.json (`qtuning cells EXPERIMENT --write` writes it)"
    ),
]
EvaluationFile = Annotated[
    Path, typer.Argument(help="configuration of the evaluation (results/configurations/evaluation-*.json)")
]
Experiments = Annotated[list[str], typer.Argument(help="names of files in configs/experiments, without .yaml")]
StoredExperiments = Annotated[list[str], typer.Argument(help="experiments that are in the store")]
Results = Annotated[Path, typer.Option(help="folder of everything generated")]
Configs = Annotated[Path, typer.Option(help="folder with experiments/, models/, train_sets/")]
DataDir = Annotated[Path | None, typer.Option(help="local copies of train sets and benchmarks, instead of the hub")]
MetricOption = Annotated[
    str, typer.Option("--metric", help="headline, nll, nll_answer, bits_per_character, p_gold or choice")
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of this job")]
TrackingOption = Annotated[
    str, typer.Option("--tracking", help="W&B: auto, online, offline; or trackio, tensorboard, disabled")
]
Groups = Annotated[
    list[str] | None, typer.Option("--group", help="experiment the cell belongs to, for tracking; repeatable")
]
RESULTS = Path("results")
CONFIGS = Path(os.environ.get("QTUNING_CONFIGS", "configs"))  # set by a workflow that runs outside a clone


def metric_named(name: str) -> "MetricName":
    """The metric of `--metric`; UserError for one that there is not."""
    from qtuning.experiment.metrics import METRICS
    from qtuning.experiment.yaml_files import nearest

    found = next((known for known in METRICS if known == name), None)
    if found is None:
        raise UserError(f"--metric = {name!r}: unknown{nearest(name, METRICS)}")
    return found


def check_tracking(mode: str) -> None:
    """UserError for a `--tracking` that there is not."""
    from qtuning.experiment.yaml_files import nearest
    from qtuning.tracking.mirror import MODES

    if mode not in MODES:
        raise UserError(f"--tracking = {mode!r}: unknown{nearest(mode, MODES)}")


def set_threads(threads: int, *, tokenise: bool = False) -> None:
    """Set the CPU threads of this process; to be called before torch is imported.

    tokenise: the tokenizer may use them, too.

    PASSIVE: threads of OpenMP that wait spin otherwise, which makes other jobs on the machine 4 to 10 times slower.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if tokenise:
        os.environ |= {"TOKENIZERS_PARALLELISM": str(threads > 1).lower(), "RAYON_NUM_THREADS": str(threads)}
    if "torch" in sys.modules:  # in a process of the warm server, where torch has read the environment already
        sys.modules["torch"].set_num_threads(threads)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of samples: call what it yields with (samples done, samples in all)."""
    from tqdm import tqdm

    with tqdm(unit="sample", desc=what, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def hold_gpus(count: int, key: str = "") -> None:
    """Hold GPUs of this machine for this job alone, and point it at them; nothing to do where there are none.

    To be called before torch counts GPUs. A job that asks for none sees none. key: what asks for `count`. UserError
    where there are fewer, where torch does not see those that we hold, or where strangers keep their memory.
    """
    from qtuning.gpus.find import CUDA, HIP, chose_none, look
    from qtuning.gpus.lease import lease
    from qtuning.gpus.torch_sees import ask_torch, check_seen

    if count == 0 or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        os.environ |= {CUDA: "", HIP: ""}  # also for what does not ask Accelerate
        return
    machine = look()
    if not machine.devices:
        if machine.source == "nvml" and not chose_none():
            said = f" ({'; '.join(machine.notes)})" if machine.notes else ""
            raise UserError(
                f"the driver shows no GPU that can be used{said}; `qtuning doctor` looks closer. To run on the CPU on "
                f"purpose, set {CUDA} to nothing"
            )
        print("no GPU here: this runs on the CPU", file=sys.stderr)
        return
    whole = [device for device in machine.devices if count == 1 or not device.is_instance]
    if len(whole) < count:
        instances = " that are no MIG instances (CUDA shows a process one of these at most)"
        kind = instances if len(whole) < len(machine.devices) else ""
        raise UserError(f"{key} = {count}: this machine has {len(whole)} GPU(s) for us{kind}")
    leased = lease(count, whole)
    os.environ[machine.variable] = ",".join(device.name for device in leased)
    check_seen(leased, machine, ask_torch())


def read_cell(path: Path, *, trained: bool = False) -> "Cell":
    """The configuration of a cell. UserError where there is none, or if it is zero-shot but shall be `trained`."""
    from qtuning.experiment.cell import Cell

    cell = _read(Cell, path)
    if trained and cell.zero_shot:
        raise UserError(f"{path}: a zero-shot cell is the base model itself; there is nothing to train")
    return cell


def read_evaluation(path: Path) -> "Evaluation":
    """The configuration of an evaluation."""
    from qtuning.experiment.cell import Evaluation

    return _read(Evaluation, path)


def read_measurement(path: Path) -> "Measurement":
    """The configuration of a measurement of influence."""
    from qtuning.experiment.influence import Measurement

    return _read(Measurement, path)


def _read(kind: "type[T]", path: Path) -> "T":
    from pydantic import ValidationError

    from qtuning.manifest import reading

    if not path.exists():
        raise UserError(f"{path}: no such file; `qtuning cells EXPERIMENT --write` writes the configurations")
    with reading(path, "delete it, and run Snakemake or `qtuning cells EXPERIMENT --write` again"):
        text = path.read_text(encoding="utf-8")
        json.loads(text)  # whose errors are shorter than pydantic's
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from None
