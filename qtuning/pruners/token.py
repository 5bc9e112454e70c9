"""Token pruners (method.md, Baselines): masks over the N response tokens of a batch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from qtuning.pruners.base import Candidates, SampleSelection


def keep_all(
    candidates: Candidates,
    selection: SampleSelection,
    tokens: int,
    rng: torch.Generator,
    options: Mapping[str, object],
) -> Tensor:
    """none: every response token of the kept samples."""
    return selection.kept[candidates.owner]


def random_tokens(
    candidates: Candidates,
    selection: SampleSelection,
    tokens: int,
    rng: torch.Generator,
    options: Mapping[str, object],
) -> Tensor:
    """random: `tokens` of the response tokens of the kept samples, drawn without replacement."""
    mask = selection.kept[candidates.owner]
    available = mask.nonzero().flatten()
    surplus = max(0, len(available) - tokens)
    mask[available[torch.randperm(len(available), generator=rng)[:surplus]]] = False
    return mask
