"""The decorator for pruners of one's own (docs/pruners.md): when such a pruner runs, and what it needs to know."""

from collections.abc import Callable, Collection
from typing import Any, Literal, TypeVar, get_args

from qtuning.errors import UserError
from qtuning.experiment.lookup import DECLARED, DEFAULT_NEEDS
from qtuning.experiment.registry import Need
from qtuning.experiment.yaml_files import nearest

Declared = TypeVar("Declared", bound=Callable[..., Any])


def pruner(
    *, scope: Literal["batch", "epoch", "once"] = "batch", needs: Collection[Need] = DEFAULT_NEEDS
) -> Callable[[Declared], Declared]:
    """Say when a pruner of one's own runs and what it needs to know; returns the function or class unchanged.

    scope: `batch` (keeps a part of every batch) or, for sample pruners, `epoch` (draws a smaller data set before each
    epoch) or `once` (draws it before training). needs: any of scores, sequence-entropy, attention, reference, losses,
    previous-scores, instructions, ratings, embeddings, influence, truth, trace (base.Candidates). Without this
    decorator: `batch`, and scores. Raises UserError.
    """
    if scope not in ("batch", "epoch", "once"):
        raise UserError(f"@pruner: scope = {scope!r}: must be batch, epoch or once")
    asked = {needs} if isinstance(needs, str) else set(needs)
    if unknown := sorted(asked - set(get_args(Need))):
        raise UserError(f"@pruner: needs: {unknown[0]!r}: unknown{nearest(unknown[0], get_args(Need))}")

    def mark(chosen: Declared) -> Declared:
        setattr(chosen, DECLARED, (scope, frozenset(asked)))
        return chosen

    return mark
