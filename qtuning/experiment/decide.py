"""What `auto` may become: whether activations are recomputed, and whether graphs of scoring are reused.

Neither changes a number but for rounding, so neither is part of a cell's name. Of the ways that fit into the memory of
a machine (plan/memory.py) the one is taken that the plan expects to be fastest there (plan/jobs.py, `on`), and if none
fits, the smallest. The decision rests on the cell, its train set, a GPU's whole memory and the number of processes. So
a training that is killed goes on in the same way on the same kind of machine.
"""

from collections.abc import Iterator
from itertools import product

from qtuning.experiment.cell import Cell
from qtuning.experiment.needs import ATTENTION, SCORES, needs_of


def is_open(cell: Cell, device: str) -> bool:
    """Whether something of a cell is to be decided on that kind of device (`cuda`, `cpu`)."""
    assert cell.training is not None
    return cell.training.gradient_checkpointing == "auto" or may_reuse(cell, device)


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
        and pruning.scoring.schedule == "auto"
        and needs & SCORES
        and not needs & ATTENTION
        and pruning.pruned_tokens == "mask"
        and training.tuning == "lora"
        and training.lora.dropout == 0
    )


def ways(cell: Cell, device: str, sharded: bool) -> Iterator[Cell]:
    """The cell without any `auto`, in every way that is open, the plainest first.

    sharded: each process holds a slice of the model; reused graphs would hold the whole.
    """
    assert cell.training is not None
    recomputing = (False, True) if cell.training.gradient_checkpointing == "auto" else (False,)
    reusing = (False, True) if may_reuse(cell, device) and not sharded else (False,)
    for recompute, reuse in product(recomputing, reusing):
        yield decided(cell, recompute, reuse)


def decided(cell: Cell, recompute: bool, reuse: bool) -> Cell:
    """The cell with these decisions in place of `auto`. What the cell itself says stays."""
    assert cell.training is not None and cell.pruning is not None
    training, pruning = cell.training, cell.pruning
    if training.gradient_checkpointing == "auto":
        training = training.model_copy(update={"gradient_checkpointing": recompute})
    if pruning.scoring.schedule == "auto":
        scoring = pruning.scoring.model_copy(update={"schedule": "reuse-graph" if reuse else "fresh"})
        pruning = pruning.model_copy(update={"scoring": scoring})
    return cell.model_copy(update={"training": training, "pruning": pruning})
