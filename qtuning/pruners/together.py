"""Candidates of several batches as one (reading A9, `global`; the whole train set before an epoch)."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from qtuning.pruners.base import Candidates, SampleSelection
from qtuning.pruners.method import Method, Selection


def concatenate(parts: Sequence[Candidates]) -> Candidates:
    """The samples of all parts, in order."""
    return join(parts)  # type: ignore[no-any-return]


def select_together(method: Method, parts: Sequence[Candidates], rng: torch.Generator) -> list[Selection]:
    """One decision on the samples of all parts, handed back part by part.

    The budget is that of the whole: what was asked stands in the first part, and 0 in the others.
    """
    whole = method.select(concatenate(parts), rng)
    counts = [len(part) for part in parts]
    tokens = [int(part.lengths.sum()) for part in parts]
    samples = _split(whole.samples, counts)
    masks = whole.tokens.split(tokens)
    return [
        Selection(chosen, mask, whole.asked_samples * (index == 0), whole.asked_tokens * (index == 0))
        for index, (chosen, mask) in enumerate(zip(samples, masks, strict=True))
    ]


def join(parts: Sequence[Any]) -> Any:
    """Tensors, or dataclasses of tensors, laid end to end; what is None or no tensor is that of the first."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if not hasattr(first, "__dataclass_fields__"):
        return first
    return replace(first, **{f.name: join([getattr(part, f.name) for part in parts]) for f in fields(first)})


def _split(selection: SampleSelection, counts: Sequence[int]) -> list[SampleSelection]:
    weights = [None] * len(counts) if selection.weights is None else selection.weights.split(list(counts))
    columns = zip(
        *(column.split(list(counts)) for column in (selection.role, selection.quadrant, selection.supplement)),
        strict=True,
    )
    return [
        replace(selection, role=role, quadrant=quadrant, supplement=supplement, weights=factors)
        for (role, quadrant, supplement), factors in zip(columns, weights, strict=True)
    ]
