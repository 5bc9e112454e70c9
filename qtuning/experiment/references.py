"""Cells that need other cells: reference models that the workflow trains (Rho-1, TokenCleaning), traces to replay.

A cell says how its reference is trained (`Pruning.reference`, a `TrainedReference`). From that and from its own model,
train set and training, `references_of` derives the cells of the reference. So the reference is part of the cell's
identity, and cells that say the same share it. A reference is trained by the rule `train` like any other cell, with
resume, W&B and a cost account. Its `weights` are inputs of the cells that use it (workflow/). It is no row of a table
and answers no benchmark.

Who adds a method that needs another training (a warm-up, say) writes how it is trained into `Pruning`, and derives its
cell here: `references_of` returns it, and workflow, training and plan then know of it.
"""

from collections.abc import Iterable, Iterator

from qtuning.experiment.auxiliary import Part, TrainedReference
from qtuning.experiment.cell import Cell, Pruning, Seeds
from qtuning.experiment.lookup import find_pruner
from qtuning.experiment.needs import needs_of
from qtuning.experiment.registry import REFERENCE


def references_of(cell: Cell) -> tuple[Cell, ...]:
    """The cells whose weights or trace the training of `cell` needs, in the order in which they are trained.

    The training that is replayed, whose trace it needs (Pruning.replay). Or one reference, or for self-evolving
    cleaning (TrainedReference.parts) the states of one reference: number 0 is trained on the first part, and number t
    goes on from t - 1 over part t, on the tokens that t - 1 keeps of it. A cell that is such a state needs the one
    before. Empty for a cell without any of these, and for a reference of configs/models.
    """
    if cell.pruning is not None and cell.pruning.replay is not None:
        return (cell.model_copy(update={"pruning": cell.pruning.replay}),)
    if cell.pruning is None or not isinstance(recipe := cell.pruning.reference, TrainedReference):
        return ()
    if not needs_of(cell.pruning).all & REFERENCE:
        return ()
    if cell.part is not None:
        return (_reference(cell, recipe, cell.part.number - 1),)
    return tuple(_reference(cell, recipe, number) for number in range(recipe.parts))


def with_references(cells: Iterable[Cell]) -> Iterator[Cell]:
    """The cells, each after the references that it needs, directly or not. Equal references may come repeatedly."""
    for cell in cells:
        yield from with_references(references_of(cell))
        yield cell


def _reference(cell: Cell, recipe: TrainedReference, number: int) -> Cell:
    """State `number` of the reference of `cell`, as a cell."""
    assert cell.training is not None and cell.pruning is not None
    pruning = Pruning(sample_pruner="full", token_pruner="none", sample_ratio=1, token_ratio=1)
    if number > 0:
        cleaning = find_pruner("token-cleaning", "token")
        update = {
            "token_pruner": cleaning.name,
            "token_ratio": cell.pruning.token_ratio,
            "token_options": cleaning.options().model_dump(mode="json", by_alias=True),
            "token_version": cleaning.version,
            "reference": recipe,
        }
        pruning = pruning.model_copy(update=update)
    return cell.model_copy(
        update={
            "pruning": pruning,
            "training": cell.training.model_copy(update={"epochs": recipe.epochs}),
            "seeds": Seeds(data=recipe.seed, pruner=recipe.seed, init=recipe.seed),
            "part": Part(samples=recipe.samples, parts=recipe.parts, seed=recipe.seed, number=number),
        }
    )
