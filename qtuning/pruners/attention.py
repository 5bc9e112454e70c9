"""Token pruners that look at attention (method.md, Baselines): FastV and SparseVLM, carried over to text.

Both were made to drop image tokens in inference. Here they drop response tokens from the loss. `candidates.attention`
comes from the layer that the option `layer` names.
"""

from collections import Counter

import torch
from torch import Tensor

from qtuning.pruners.base import Budget, Candidates, SampleSelection, Within, keep_highest, keep_highest_of_each


def fastv(
    candidates: Candidates,
    selection: SampleSelection,
    budget: Budget,
    rng: torch.Generator,
    *,
    layer: int,
    within: Within,
) -> Tensor:
    """fastv (Chen et al., ECCV 2024, arXiv 2403.06764): keep the tokens that receive most attention.

    As published, tokens are ranked by the attention that they receive from the positions of their sample, on average,
    after layer 2. Under a causal mask more positions see the early tokens, so these receive more; that is not
    corrected. `within` is `sample` by default, because attention is a share of a sample's own sequence: in a batch the
    tokens of short samples would win for being few.
    """
    assert candidates.attention is not None
    return keep_highest(candidates.attention.received, candidates, selection, budget.tokens, within)


def sparsevlm(
    candidates: Candidates, selection: SampleSelection, budget: Budget, rng: torch.Generator, *, layer: int
) -> Tensor:
    """sparsevlm (Zhang et al. 2024, arXiv 2410.04417): keep the tokens that the raters look at.

    The paper's raters are the text tokens most relevant to the image; here they are the response tokens that look most
    at the prompt. In the paper the rank of the attention matrix says how many tokens go. Here it divides the budget of
    the batch among the selected samples, so that the budget is met. Of equal tokens the earlier one stays.
    """
    attention = candidates.attention
    assert attention is not None
    counts = _seats(budget.tokens, attention.rank, candidates.lengths * selection.kept, candidates.numbers)
    return keep_highest_of_each(attention.rated, candidates.lengths, counts)


def _seats(total: int, weights: Tensor, sizes: Tensor, numbers: Tensor) -> list[int]:
    """`total` divided in proportion to `weights`, no part above its size; weights below 1 count as 1.

    Handed out one at a time, to the highest weight / (2 * held + 1) (the rounding of Sainte-Lague). A sample that holds
    all its tokens leaves the rest to the others. If `total` suffices, each gets one first. Ties go to the lower number.
    """
    shares = weights.clamp(min=1).tolist()
    # every token claims a place: first one of each sample, then by the quotient; those of a sample come in their order
    claims = sorted(
        (held > 0, -shares[index] / (2 * held + 1), number, index)
        for index, (size, number) in enumerate(zip(sizes.tolist(), numbers.tolist(), strict=True))
        for held in range(size)
    )
    served = Counter(index for *_, index in claims[:total])
    return [served[index] for index in range(len(sizes))]
