"""Which finished trainings a page shows, and what they are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import ResultPaths, pair_id
from qtuning.experiment.presets import PRESETS
from qtuning.experiment.yaml_files import nearest
from qtuning.files import canonical_json
from qtuning.store.collect import options_of
from qtuning.store.lines import FULL, RANDOM, line_of
from qtuning.tables.labels import budget_label, method_label

LINES = 8
"""How many trainings a page shows at most; each adds its decisions to the page."""


@dataclass(frozen=True)
class Found:
    """The trainings of a page, with a label each. left_out: how many others the experiment has of the same seed."""

    cells: list[tuple[Cell, str]]
    left_out: int = 0


def find_cells(
    grid: Grid,
    paths: ResultPaths,
    *,
    seed: int | None = None,
    methods: Sequence[str] = (),
    budgets: Sequence[str] = (),
    most: int = LINES,
) -> Found:
    """The finished trainings of an experiment that share model, train set and seed with the first one that is done.

    Q-Tuning comes first, then random pruning, then the full data, then the others in the order of the experiment, and
    of several budgets the first. UserError where nothing that was asked for is there.
    """
    trained = [cell for cell in grid.cells if not cell.zero_shot]
    for key, wanted, known in (
        ("--method", methods, [cell.pruning.method for cell in trained if cell.pruning]),
        ("--budget", budgets, [cell.pruning.budget for cell in trained if cell.pruning]),
        ("--seed", [] if seed is None else [str(seed)], [str(cell.seeds.data) for cell in trained if cell.seeds]),
    ):
        for name in wanted:
            if name not in known:
                raise UserError(f"{key} = {name!r}: not in {grid.experiment.name}{nearest(name, dict.fromkeys(known))}")
    done = []
    for cell in trained:
        assert cell.pruning is not None and cell.seeds is not None
        asked = (not methods or cell.pruning.method in methods) and (not budgets or cell.pruning.budget in budgets)
        if asked and seed in (None, cell.seeds.data) and is_explorable(paths.cell(cell)):
            done.append(cell)
    if not done:
        raise UserError(
            f"{grid.experiment.name}: no training of it that was asked for is finished below {paths.root / 'cells'}; "
            f"run it first: snakemake --cores all {grid.experiment.name}; "
            "without any training: qtuning explore DATA --model MODEL (docs/explore.md)"
        )
    lowest = min(cell.seeds.data for cell in done if cell.seeds)
    done = [cell for cell in done if cell.seeds and cell.seeds.data == lowest]
    alike = [cell for cell in done if (pair_id(cell), cell.model) == (pair_id(done[0]), done[0].model)]
    alike.sort(key=_rank)
    labels = [label_of(cell, ", ".join(f"{k}={v}" for k, v in grid.variant(cell).items())) for cell in alike]
    return Found(list(zip(alike, labels, strict=True))[:most], max(0, len(alike) - most))


def is_explorable(folder: Path) -> bool:
    """Whether a cell is trained and left its trace."""
    return (folder / "train.json").exists() and (folder / "trace.parquet").exists()


def find_cell(name: str, paths: ResultPaths) -> Found:
    """One finished training, by the name of its folder in results/cells."""
    folder = paths.root / "cells" / name
    if not is_explorable(folder):
        raise UserError(f"{folder}: no finished training (train.json and trace.parquet); train it first")
    cell = Cell.model_validate_json((folder / "cell.json").read_text(encoding="utf-8"))
    return Found([(cell, label_of(cell))])


def label_of(cell: Cell, training: str = "") -> str:
    """`Q-Tuning, 25% x 50%`. training: what an experiment varies in training, in words."""
    assert cell.pruning is not None and cell.train_set is not None
    pruning = cell.pruning
    line = line_of(
        {
            "method": pruning.method,
            "sample_pruner": pruning.sample_pruner,
            "token_pruner": pruning.token_pruner,
            "sample_ratio": pruning.sample_ratio,
            "token_ratio": pruning.token_ratio,
            "options": canonical_json(options_of(pruning)),
            "training": training,
            "method_label": cell.label,
        },
        cell.train_set.name,
    )
    return ", ".join([method_label(line), *([] if line.reference else [budget_label(line)])])


def _rank(cell: Cell) -> int:
    assert cell.pruning is not None
    order = ("q-tuning", RANDOM, FULL)
    method = cell.pruning.method
    return order.index(method) if method in order else len(order) if method in PRESETS else len(order) + 1
