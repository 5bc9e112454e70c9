"""What is decided where a cell is trained: whether to recompute activations, and whether to reuse graphs of scoring.

Neither changes a number but for rounding, so neither is part of a cell's name. Of the ways that fit into the memory of
a machine (plan/memory.py) the one is taken that the plan expects to be fastest there (plan/jobs.py, `on`), and if none
fits, the smallest. The decision rests on the cell, its train set, a GPU's whole memory and the number of processes. So
a training that is killed goes on in the same way on the same kind of machine.
"""

from collections.abc import Iterator
from itertools import product
from typing import Literal

from qtuning.experiment.cell import Cell
from qtuning.experiment.needs import ATTENTION, SCORES, needs_of

Recompute = Literal["auto", "always", "never"]


def is_open(cell: Cell, device: str) -> bool:
    """Whether something of a cell is to be decided on that kind of device (`cuda`, `cpu`).

    Nothing of models that the package ships: they fit everywhere.
    """
    assert cell.training is not None
    return cell.model.takes_gpus and (not cell.training.gradient_checkpointing or may_reuse(cell, device))


def may_reuse(cell: Cell, device: str) -> bool:
    """Whether graphs of scoring could be reused, and nobody has said whether they shall be.

    Under LoRA, where a forward is half of a step; and only on GPUs: reused graphs round otherwise than fresh scores do,
    and a CPU shall give the same bits whatever its memory is.
    """
    training, pruning = cell.training, cell.pruning
    assert training is not None and pruning is not None
    needs = needs_of(pruning).batch
    return bool(
        device == "cuda"
        and cell.model.takes_gpus
        and pruning.scoring.schedule == "auto"
        and needs & SCORES
        and not needs & ATTENTION
        and pruning.pruned_tokens == "mask"
        and training.tuning == "lora"
        and training.lora.dropout == 0
    )


def ways(cell: Cell, device: str, sharded: bool, recompute: Recompute = "auto") -> Iterator[Cell]:
    """The cell in every way that is open, the plainest first. recompute: what the user says of it.

    sharded: each process holds a slice of the model; reused graphs would hold the whole.
    """
    assert cell.training is not None
    recomputing = {"auto": (False, True), "always": (True,), "never": (False,)}[recompute]
    if cell.training.gradient_checkpointing or not cell.model.takes_gpus:
        recomputing = recomputing[:1]
    reusing = (False, True) if may_reuse(cell, device) and not sharded else (False,)
    for again, reuse in product(recomputing, reusing):
        yield decided(cell, again, reuse)


def decided(cell: Cell, recompute: bool, reuse: bool) -> Cell:
    """The cell with these decisions. What the cell itself says stays."""
    assert cell.training is not None and cell.pruning is not None
    training, pruning = cell.training, cell.pruning
    if recompute:
        training = training.model_copy(update={"gradient_checkpointing": True})
    if pruning.scoring.schedule == "auto":
        scoring = pruning.scoring.model_copy(update={"schedule": "reuse-graph" if reuse else "fresh"})
        pruning = pruning.model_copy(update={"scoring": scoring})
    return cell.model_copy(update={"training": training, "pruning": pruning})
