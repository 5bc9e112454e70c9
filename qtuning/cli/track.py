"""Commands that write what dashboards show: Weights & Biases, Trackio, TensorBoard."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtuning.cli.options import (
    CONFIGS,
    RESULTS,
    Configs,
    DataDir,
    Groups,
    Results,
    TrackingOption,
    check_tracking,
)
from qtuning.errors import UserError

if TYPE_CHECKING:
    from qtuning.dashboard.cells import Tracking
    from qtuning.experiment.cell import Cell
    from qtuning.workflow.inputs import WorkflowInputs


def replay(
    what: Annotated[list[str], typer.Argument(help="experiments, or folders of finished cells (results/cells/CELL)")],
    tracking: TrackingOption = "auto",
    group: Groups = None,
    configs: Configs = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
) -> None:
    """Write the runs of finished cells from their own files: trained with tracking disabled, or under another name.

    Each cell is one run, however often it is sent; what has not changed is left alone. With an experiment, its own run
    is written, too: intervals, comparisons and its store. The last line says where they are, or how to send them.

    `qtuning replay table1-mini` `qtuning replay table1-mini --tracking trackio`
    """
    check_tracking(tracking)
    from qtuning.dashboard.cells import Tracking, mirror_cell
    from qtuning.dashboard.experiments import mirror_experiment
    from qtuning.experiment.cell import Cell
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths
    from qtuning.files import read_json
    from qtuning.store.store import Store
    from qtuning.tracking.mirror import resolve_mode
    from qtuning.workflow.inputs import WorkflowInputs

    mode = resolve_mode(tracking)
    if mode == "disabled":
        raise UserError("tracking = disabled: nothing to write; --tracking offline writes to a folder")

    def as_run(folder: Path) -> Cell:
        """The cell as its jobs knew it, without labels: what they wrote is then what is written here."""
        return Cell.model_validate(read_json(folder / "cell.json"))

    folders = [Path(name) for name in what if Path(name).is_dir()]
    names = [name for name in what if not Path(name).is_dir()]
    jobs: list[tuple[Cell, ResultPaths, Tracking]] = []
    for folder in folders:
        if not (folder / "cell.json").exists():
            raise UserError(f"{folder / 'cell.json'}: no such file; give the folder of a cell (results/cells/...)")
        jobs.append((as_run(folder), ResultPaths(folder.resolve().parents[1]), Tracking(mode, group or ())))
    paths, configured = ResultPaths(results), ConfigFolder(configs, data_dir)
    grids = configured.expand(names)
    missing = 0
    if names:
        every = {grid.experiment.name: grid for grid in configured.expand_valid(configured.names("experiments"))[0]}
        inputs = WorkflowInputs((every | {grid.experiment.name: grid for grid in grids}).values(), paths, data_dir)
        for cell, how in _cells_of(inputs, names, mode):
            if (paths.cell(cell) / "cell.json").exists():
                jobs.append((as_run(paths.cell(cell)), paths, how))
            else:
                missing += 1
    sent, where = 0, ""
    for cell, home, how in jobs:
        done, mirror = mirror_cell(cell, home, how, wait=True)
        if mirror.failure is not None:
            raise UserError(f"{home.cell(cell).name}: not sent: {mirror.failure}")
        sent, where = sent + done, mirror.where or where
    others = ", the others hold just this already" if sent < len(jobs) else ""
    print(f"{sent} of {len(jobs)} cells written{others}" if jobs else "no finished cells")
    if missing:
        print(f"{missing} cells are not finished and are left out")
    for grid in grids:
        name = grid.experiment.name
        try:
            Store(results).require([name])
        except UserError as error:
            print(f"no intervals, comparisons and store of {name}: {error}")
            continue
        _, mirror = mirror_experiment(grid, results, mode, wait=True)
        if mirror.failure is not None:
            raise UserError(f"{name}: not sent: {mirror.failure}")
        where = mirror.where or where
    for home in dict.fromkeys(home for _, home, _ in jobs):
        print(_how_to_see(mode, home.root, where))


def _cells_of(inputs: "WorkflowInputs", names: list[str], mode: str) -> Iterator[tuple["Cell", "Tracking"]]:
    """The cells of experiments, references among them, and how each is tracked."""
    from qtuning.dashboard.cells import Tracking
    from qtuning.dashboard.variants import order_groups, variant_of
    from qtuning.experiment.ids import evaluation_id

    for identity, cell in inputs.cells.items():
        mine = inputs.experiments_of[identity]
        if not set(mine) & set(names):
            continue
        groups = order_groups(mine, names)
        grid = inputs.grids[groups[0]]
        evaluation = None if grid.evaluation is None else evaluation_id(grid.evaluation)
        yield cell, Tracking(mode, groups, variant_of(cell, grid), evaluation)


def _how_to_see(mode: str, results: Path, where: str) -> str:
    """The folder and the command that sends or shows it, or the URL."""
    from qtuning.tracking.mirror import project

    if mode == "online":
        return where.partition("/runs/")[0] or "nothing new; the runs are where they were"
    if mode == "offline":
        folder = shlex.quote(str(results / "wandb"))
        return f"{folder}/wandb; to send what was not sent yet: cd {folder} && wandb sync --yes"
    if mode == "trackio":
        folder = shlex.quote(str((results / "trackio").resolve()))
        return f"see it: TRACKIO_DIR={folder} trackio show --project {shlex.quote(project())}"
    return f"see it: tensorboard --logdir {shlex.quote(str(results / 'tensorboard'))}"


def dashboard(
    experiment: Annotated[str, typer.Argument(help="experiment whose runs are on W&B, or will be")],
    entity: Annotated[str | None, typer.Option(help="user or team on W&B; default: WANDB_ENTITY, or yours")] = None,
    configs: Configs = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
) -> None:
    """Make a workspace and a report on W&B that compare the methods of an experiment.

    Score against budget and against cost, the heat map of budgets, quadrants over training, paired comparisons, and in
    the report a section for each model. Needs `pip install 'qtuning[dashboard]'`. Without a login, their specifications
    are written below results/wandb/dashboards, and nothing else happens.

    `qtuning dashboard table1-mini`
    """
    from qtuning.dashboard.workspace import save_dashboard
    from qtuning.experiment.grid import ConfigFolder

    (grid,) = ConfigFolder(configs, data_dir).expand([experiment])
    for line in save_dashboard(grid, results, entity):
        print(line)
