"""Under which experiment, by which variant and with whose scores a cell is tracked."""

from collections.abc import Sequence
from pathlib import Path

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import ConfigFolder, Grid
from qtuning.experiment.ids import evaluation_id
from qtuning.store.collect import identity
from qtuning.store.lines import line_of


def order_groups(names: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    """The experiments of a cell, those that were asked for first. The first is the group of its run."""
    return tuple(dict.fromkeys([*(name for name in asked if name in names), *names]))


def variant_of(cell: Cell, grid: Grid) -> str:
    """What tells a cell from others of its method and budget in an experiment: `lambda=0.3`, or empty."""
    row = identity(grid, cell)
    return line_of(row, row["train_set"] or "").variant


def in_group(cell: Cell, groups: Sequence[str], configs: Path, data_dir: Path | None) -> tuple[str, str | None]:
    """(variant of a cell, identity of the evaluation) in the first of its experiments.

    Jobs look it up themselves: as options of theirs, variants would keep short jobs from being grouped on a cluster.
    Where the experiment cannot be read, nothing is known: tracking stops no cell.
    """
    try:
        (grid,) = ConfigFolder(configs, data_dir).expand(groups[:1])
    except (UserError, ValueError):
        return "", None
    return variant_of(cell, grid), None if grid.evaluation is None else evaluation_id(grid.evaluation)
