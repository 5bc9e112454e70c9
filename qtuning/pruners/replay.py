"""Controls that decide as another training of the same cell did, as far as its trace says: which, or how many?

`replay+replay` makes every recorded decision again, and so ends with the recorded training's weights.
`replay+replay-random` keeps the recorded samples and as many tokens of each, but other tokens.
`replay-random+replay-random` keeps as many samples and tokens of every batch, but other ones. If a method owes its
scores to what it chooses, they fall; if to how much it keeps where, they stay (docs/pruners.md, Replay).
"""

import torch
from torch import Tensor

from qtuning.pruners.base import (
    Budget,
    Candidates,
    SampleSelection,
    draw,
    keep_highest_of_each,
    keep_prunable,
    ranking,
    shares,
)


def recorded_samples(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """replay: the samples that were kept, with their weights, whatever the budget."""
    assert candidates.recorded is not None
    return keep_prunable(candidates.recorded.kept, _unless_plain(candidates.recorded.weights))


def random_samples(candidates: Candidates, budget: Budget, rng: torch.Generator) -> SampleSelection:
    """replay-random: as many samples as were kept, by chance; their weights are those of the kept ones."""
    recorded = candidates.recorded
    assert recorded is not None
    by_number = torch.argsort(candidates.numbers)
    donors = by_number[recorded.kept[by_number]]
    chosen = draw(candidates.numbers, rng)[: len(donors)]
    kept, weights = torch.zeros_like(recorded.kept), torch.ones_like(recorded.weights)
    kept[chosen], weights[chosen] = True, recorded.weights[donors]
    return keep_prunable(kept, _unless_plain(weights))


def recorded_tokens(candidates: Candidates, selection: SampleSelection, budget: Budget, rng: torch.Generator) -> Tensor:
    """replay: the tokens that were kept. If other samples are selected than were, as many by chance."""
    assert candidates.recorded is not None
    if torch.equal(selection.kept, candidates.recorded.kept):
        return candidates.recorded.tokens
    return random_tokens(candidates, selection, budget, rng)


def random_tokens(candidates: Candidates, selection: SampleSelection, budget: Budget, rng: torch.Generator) -> Tensor:
    """replay-random: of each selected sample as many tokens as were kept of it, by chance.

    If other samples are selected than were, the longest takes the largest of the recorded counts, and so on; what does
    not fit goes to the samples that have room. So the batch keeps as many tokens as were kept, if it has them.
    """
    assert candidates.recorded is not None
    owner, lengths = candidates.owner, candidates.lengths
    counts = torch.zeros_like(lengths).index_add_(0, owner, candidates.recorded.tokens.long())
    if not torch.equal(selection.kept, candidates.recorded.kept):
        counts = _handed_on(counts, candidates, selection)
    chance = torch.empty_like(owner)
    chance[draw(candidates.numbers[owner], rng)] = torch.arange(len(owner))
    return keep_highest_of_each(chance, lengths, counts.tolist())


def _handed_on(counts: Tensor, candidates: Candidates, selection: SampleSelection) -> Tensor:
    """[B] int64: the recorded counts, given to the selected samples instead of those that had them."""
    lengths = candidates.lengths * selection.kept
    receivers = ranking(lengths, candidates.numbers)[: int(selection.kept.sum())]
    given = counts[ranking(counts, candidates.numbers)][: len(receivers)]
    result = torch.zeros_like(counts)
    result[receivers] = torch.minimum(given, lengths[receivers])
    if missing := min(int(counts.sum()), int(lengths.sum())) - int(result.sum()):
        result += shares(lengths - result, missing, candidates.numbers)
    return result


def _unless_plain(weights: Tensor) -> Tensor | None:
    return None if bool((weights == 1).all()) else weights
