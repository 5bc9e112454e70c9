"""Under which experiment and by which variant a cell is tracked. Loads no torch: the workflow asks for every job."""

from collections.abc import Mapping, Sequence

from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import evaluation_id
from qtuning.store.collect import identity
from qtuning.store.lines import line_of


def order_groups(
    grids: Mapping[str, Grid], names: Sequence[str], asked: Sequence[str], evaluation: str | None = None
) -> tuple[str, ...]:
    """The experiments of a cell; the first is the group of its run.

    Those with this evaluation come first (None: all are alike), and of these the ones that were asked for.
    """

    def key(name: str) -> tuple[bool, int]:
        found = grids[name].evaluation
        other = evaluation is not None and (found is None or evaluation_id(found) != evaluation)
        return other, asked.index(name) if name in asked else len(asked)

    return tuple(sorted(names, key=key))


def variant_of(cell: Cell, grid: Grid) -> str:
    """What tells a cell from others of its method and budget in an experiment: `lambda=0.3`, or empty."""
    row = identity(grid, cell)
    return line_of(row, row["train_set"] or "").variant
