"""Controls: pruners that know which samples and tokens were planted wrong (docs/pruners.md, Controls).

They are no methods. Best and worst selections show how far apart an experiment can tell methods at all, and where a
method lies between them. Sample controls keep exactly K = budget.samples, by rank of the samples' kinds, at random
within a rank. Token controls keep exactly `budget.tokens`, or all tokens of the selected samples if these hold fewer.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from qtuning.experiment.truth import KINDS, Kind
from qtuning.pruners.base import Budget, Candidates, SampleSelection, draw, keep_first


def oracle(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """oracle: clean samples and misconceptions first, then ambiguous ones, then redundant ones, noise last."""
    return _by_rank({"ambiguous": 1, "redundant": 2, "noise": 3}, candidates, budget, rng)


def adversary(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """adversary: noise first, then redundant samples, then ambiguous ones, clean ones and misconceptions last."""
    return _by_rank({"noise": -3, "redundant": -2, "ambiguous": -1}, candidates, budget, rng)


def no_noise(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """no-noise: everything but noise by chance; noise only where nothing else is left."""
    return _by_rank({"noise": 1}, candidates, budget, rng)


def no_redundant(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """no-redundant: everything but redundant samples by chance; these only where nothing else is left."""
    return _by_rank({"redundant": 1}, candidates, budget, rng)


def oracle_tokens(candidates: Candidates, selection: SampleSelection, budget: Budget, rng: torch.Generator) -> Tensor:
    """oracle-tokens: wrong tokens of the selected samples go first, by chance; then right ones, by chance."""
    assert candidates.wrong is not None
    return _keep_tokens(candidates.wrong, candidates, selection, budget, rng)


def adversary_tokens(
    candidates: Candidates, selection: SampleSelection, budget: Budget, rng: torch.Generator
) -> Tensor:
    """adversary-tokens: right tokens of the selected samples go first, by chance; then wrong ones, by chance."""
    assert candidates.wrong is not None
    return _keep_tokens(~candidates.wrong, candidates, selection, budget, rng)


def _by_rank(
    ranks: Mapping[Kind, int], candidates: Candidates, budget: Budget, rng: torch.Generator
) -> SampleSelection:
    """The K samples of lowest rank; a kind that is not named has rank 0."""
    assert candidates.kinds is not None
    order = draw(candidates.numbers, rng)
    rank = torch.tensor([ranks.get(kind, 0) for kind in KINDS])[candidates.kinds[order]]
    return keep_first(order[torch.argsort(rank, stable=True)], budget.samples)


def _keep_tokens(
    last: Tensor, candidates: Candidates, selection: SampleSelection, budget: Budget, rng: torch.Generator
) -> Tensor:
    """[N] bool: `budget.tokens` tokens of the selected samples by chance, those marked in `last` only if need be."""
    owner = candidates.owner
    mask = selection.kept[owner]
    available = mask.nonzero().flatten()
    order = available[draw(candidates.numbers[owner[available]], rng)]
    order = order[torch.argsort(last[order].long(), stable=True)]
    mask[order[budget.tokens :]] = False
    return mask
