"""Which run of a dashboard mirrors what, and by which keys runs are filtered and grouped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import cell_id

CELL, EXPERIMENT = "cell", "experiment"
"""Kinds of runs (W&B: `job_type`)."""


@dataclass(frozen=True)
class RunIdentity:
    """A run: of a cell, or of the whole of an experiment.

    name: its id, too, so that whoever writes it again continues or replaces the same run. groups: experiments that it
    belongs to; the first is the one that was run, and the run's group; all are its tags. config: see `flat_config`.
    """

    name: str
    groups: tuple[str, ...]
    config: Mapping[str, Any]
    kind: str = CELL


def run_of_cell(cell: Cell, groups: Sequence[str] = (), variant: str = "") -> RunIdentity:
    """The run of a cell. variant: see `flat_config`."""
    return RunIdentity(cell_id(cell), tuple(groups), flat_config(cell, groups, variant))


def flat_config(cell: Cell, groups: Sequence[str], variant: str) -> dict[str, Any]:
    """What a dashboard filters and groups by, one plain value a key; below `configuration` all that makes the cell.

    variant: what tells the cell from others of its method at its budget, as tables write it (`lambda=0.3`). A cell that
    is not trained has the method `zero-shot` and neither pruners nor budget.
    """
    pruning, seeds = cell.pruning, cell.seeds
    flat: dict[str, Any] = {
        "cell": cell_id(cell),
        "model": cell.model.name,
        "train_set": None if cell.train_set is None else cell.train_set.name,
        "method": "zero-shot",
        "variant": variant,
        "experiments": list(groups),
    }
    flat |= dict.fromkeys(("sample_pruner", "token_pruner", "budget", "sample_ratio", "token_ratio", "budget_product"))
    flat["seed"] = None
    if pruning is not None:
        names = ("method", "sample_pruner", "token_pruner", "budget", "sample_ratio", "token_ratio")
        flat |= {name: getattr(pruning, name) for name in names}
        flat["budget_product"] = pruning.sample_ratio * pruning.token_ratio
    if seeds is not None:
        same = seeds.data == seeds.pruner == seeds.init
        flat["seed"] = seeds.data if same else f"data{seeds.data}-pruner{seeds.pruner}-init{seeds.init}"
    return flat | {"configuration": cell.model_dump(mode="json", by_alias=True)}
