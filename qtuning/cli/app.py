"""The command line: thin. Every stage of the workflow is a command, and the rules call these same commands."""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from qtuning.cli.audit import audit
from qtuning.cli.contamination import contamination
from qtuning.cli.experiments import experiments as list_experiments
from qtuning.cli.export import export
from qtuning.cli.figures import figures
from qtuning.cli.localise import localise
from qtuning.cli.plan import plan
from qtuning.cli.plane import plane
from qtuning.cli.report import report
from qtuning.errors import UserError

app = typer.Typer(
    name="qtuning",
    help="Data pruning in supervised fine-tuning: reproduce, ablate and benchmark Q-Tuning and its rivals.\n\n"
    "`snakemake --cores all EXPERIMENT` runs everything; these commands are its stages, by hand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

CellFile = Annotated[
    Path,
    typer.Argument(
        help="configuration of a cell, results/configurations/CELL.json (`qtuning cells EXPERIMENT --write` writes it)"
    ),
]
Experiments = Annotated[list[str], typer.Argument(help="names of files in configs/experiments, without .yaml")]
Results = Annotated[Path, typer.Option(help="folder of everything generated")]
Configs = Annotated[Path, typer.Option(help="folder with experiments/, models/, train_sets/, accelerate/")]
DataDir = Annotated[Path | None, typer.Option(help="local copies of train sets and benchmarks, instead of the hub")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of this job")]
RESULTS = Path("results")
CONFIGS = Path("configs")


def main() -> None:
    """Entry point: a UserError is one clear message and exit status 2; anything else has its traceback."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        _print_traceback(error)
        sys.exit(1)


def _print_traceback(error: Exception) -> None:
    """The traceback from our command on: how it was come to (a server that forks, typer) tells nobody anything."""
    ours = Path(__file__).parents[1]
    frame = error.__traceback__
    below = None if frame is None else frame.tb_next  # the first frame is `main`
    while below is not None and ours not in Path(below.tb_frame.f_code.co_filename).parents:
        below = below.tb_next
    traceback.print_exception(type(error), error, below or frame)


@app.command()
def cells(
    experiments: Experiments,
    configs: Configs = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
    write: Annotated[bool, typer.Option("--write", help="also write their configurations")] = False,
) -> None:
    """List the cells of experiments; equal cells of different experiments are listed once."""
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.names import ResultPaths
    from qtuning.files import write_text
    from qtuning.workflow import WorkflowInputs

    inputs = WorkflowInputs(ConfigFolder(configs, data_dir).expand(experiments), ResultPaths(results), data_dir)
    for identity in inputs.cells:
        print(identity)
    if write:
        for identity in [*inputs.cells, *inputs.evaluations]:
            write_text(inputs.paths.configuration(identity), inputs.configuration(identity) + "\n")


@app.command("base-model")
def base_model(cell: CellFile, results: Results = RESULTS) -> None:
    """Make a cell's base model ready: fetch it from the hub, convert it, or find it in the package."""
    from qtuning.experiment.names import ResultPaths
    from qtuning.files import exclusive
    from qtuning.model.load import make_ready

    loaded, paths = _read_cell(cell), ResultPaths(results)
    with exclusive(paths.lock(cell.stem), f"base model {loaded.model.name}"):
        make_ready(loaded.model, paths.model(loaded))


@app.command()
def prepare(cell: CellFile, results: Results = RESULTS, data_dir: DataDir = None, threads: Threads = 1) -> None:
    """Validate and tokenise a cell's train set; bad rows are counted by reason and listed with file and line."""
    _use_threads(threads)
    from qtuning.data.prepare import prepare as run
    from qtuning.experiment.names import ResultPaths
    from qtuning.files import exclusive
    from qtuning.model.load import model_path

    loaded, paths = _read_cell(cell), ResultPaths(results)
    _needs_training(loaded, cell)
    folder = paths.samples(loaded)
    with exclusive(paths.lock(cell.stem), f"preparing {folder.name}"):
        run(loaded, model_path(paths.model(loaded)), folder, data_dir=data_dir)


@app.command()
def train(
    cell: CellFile,
    results: Results = RESULTS,
    accelerate: Annotated[Path, typer.Option(help="accelerate configuration")] = CONFIGS / "accelerate/single.yaml",
    tracking: Annotated[str, typer.Option(help="W&B: auto, online, offline or disabled")] = "auto",
    group: Annotated[list[str] | None, typer.Option(help="experiment the cell belongs to; repeatable")] = None,
    checkpoint_seconds: Annotated[float, typer.Option(help="seconds between checkpoints")] = 60.0,
    threads: Threads = 1,
) -> None:
    """Train one cell (`accelerate launch -m qtuning.train`). Kill it and type it again: it goes on where it was."""
    from qtuning.experiment.names import AUXILIARY, ResultPaths
    from qtuning.train.tracking import MODES

    loaded, paths = _read_cell(cell), ResultPaths(results)
    _needs_training(loaded, cell)
    if tracking not in MODES:
        raise UserError(f"--tracking = {tracking!r}: must be one of {', '.join(MODES)}")
    if not accelerate.exists():
        raise UserError(f"--accelerate = {accelerate}: no such file")
    options = ["--cell", str(cell), "--model", str(paths.model(loaded)), "--samples", str(paths.samples(loaded))]
    options += ["--out", str(paths.cell(loaded)), "--state", str(paths.state(loaded)), "--tracking", tracking]
    options += ["--checkpoint-seconds", str(checkpoint_seconds)]
    for role in AUXILIARY:
        if (folder := paths.auxiliary(loaded, role)) is not None:
            options += [f"--{role}", str(folder)]
    for name in group or []:
        options += ["--group", name]
    _use_threads(threads)
    _use_gpus(loaded.training.processes)
    from qtuning.train.__main__ import launch

    launch(accelerate, threads, options)


@app.command()
def evaluate(
    cell: CellFile,
    evaluation: Annotated[
        Path, typer.Argument(help="configuration of the evaluation (results/configurations/evaluation-*.json)")
    ],
    results: Results = RESULTS,
    data_dir: DataDir = None,
    threads: Threads = 1,
) -> None:
    """Evaluate one cell on its benchmarks with lm-eval, in one process."""
    _use_threads(threads)
    _use_gpus(1)
    from qtuning.evaluation.run import evaluate_cell
    from qtuning.experiment.names import ResultPaths
    from qtuning.files import exclusive

    paths = ResultPaths(results)
    with exclusive(paths.lock(f"{cell.stem}-{evaluation.stem}"), f"evaluating {cell.stem}"):
        evaluate_cell(_read_cell(cell), _read(evaluation, "Evaluation"), paths, data_dir=data_dir)


@app.command()
def collect(
    experiments: Experiments,
    configs: Configs = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
) -> None:
    """Collect the cells of experiments into the score store, results/*.parquet, which everything is drawn from."""
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.store.store import write_store

    write_store(ConfigFolder(configs, data_dir).expand(experiments), results)


@app.command()
def tables(
    experiments: Experiments,
    configs: Configs = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
) -> None:
    """Collect scores and write the tables of experiments; cells that are missing are visible holes with a reason."""
    from qtuning.data.contamination import checks_of, notes_of_checks
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.statistics.compare import compare
    from qtuning.store.store import Store, write_store
    from qtuning.tables.planted_errors import write_localisation
    from qtuning.tables.terminal import print_table
    from qtuning.tables.write import write_tables

    grids = ConfigFolder(configs, data_dir).expand(experiments)
    write_store(grids, results)
    written: list[Path] = []
    for grid in grids:
        name = grid.experiment.name
        for path in write_localisation(name, Store(results), results / "tables"):
            print(path)
        if grid.evaluation is None:
            print(f"{name}: no benchmarks, so no table of scores; its figures: qtuning figures {name}")
            continue
        comparisons = compare(Store(results), name)
        notes = notes_of_checks(results, checks_of([grid]).values())
        written += write_tables(name, results, comparisons=comparisons, notes=notes)
        print_table(name, results, comparisons=comparisons)
    for path in written:
        if path.suffix == ".md":  # the other formats have the same name
            print(path)


@app.command("check-pruner")
def check_pruner(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="built-in pruners, entry points, or module:attribute of your own; none: every built-in"),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="sample or token, where a name means both")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, an option of the pruner; repeatable")] = None,
) -> None:
    """Try pruners on random and degenerate batches: budget, determinism, order, padding, processes, resume.

    Exit status 1 if any of them breaks a rule. docs/pruners.md explains the rules, and how to write a pruner.

    `qtuning check-pruner my_pruners:keep_hard --option share=0.3`
    """
    from qtuning.pruners.check import run_checks

    if not run_checks(names or [], kind, option or []):
        sys.exit(1)


@app.command()
def replay(
    cells: Annotated[list[Path], typer.Argument(help="folders of finished cells, results/cells/CELL")],
    tracking: Annotated[str, typer.Option(help="W&B: auto, online or offline")] = "auto",
    group: Annotated[list[str] | None, typer.Option(help="experiment the cells belong to; repeatable")] = None,
) -> None:
    """Send finished cells to W&B, from their own files: for cells trained offline or with tracking disabled."""
    from qtuning.train.tracking import replay as send

    for folder in cells:
        print(f"{folder.name}: {'sent' if send(folder, tracking, group or []) else 'unchanged since it was sent'}")


app.command("experiments")(list_experiments)
for _command in (plan, localise, figures, report, export, audit, contamination, plane):
    app.command()(_command)


def _use_threads(threads: int) -> None:
    """Set before torch is imported. Without PASSIVE, OpenMP's spinning makes neighbours 4 to 10 times slower."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "torch" in sys.modules:  # in a process of the warm server, where torch has read the environment already
        sys.modules["torch"].set_num_threads(threads)


def _use_gpus(count: int) -> None:
    """Hold GPUs of this machine for this job alone; nothing to do where there are none."""
    from qtuning.gpus import lease, visible

    devices = visible()
    if devices and len(devices) < count:
        raise UserError(f"training.processes = {count}: this machine has {len(devices)} GPU(s) for us")
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease(count))


def _read_cell(path: Path) -> Any:
    return _read(path, "Cell")


def _read(path: Path, schema: str) -> Any:
    """A configuration that an earlier stage wrote."""
    import qtuning.experiment.schema
    from qtuning.files import read_json

    if not path.exists():
        raise UserError(f"{path}: no such file; `qtuning cells EXPERIMENT --write` writes the configurations")
    return getattr(qtuning.experiment.schema, schema).model_validate(read_json(path))


def _needs_training(cell: Any, path: Path) -> None:
    if cell.zero_shot:
        raise UserError(f"{path}: a zero-shot cell is the base model itself; there is nothing to train")
