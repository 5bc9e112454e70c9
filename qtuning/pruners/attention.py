"""Token pruners that look at attention (method.md, Baselines): FastV and SparseVLM, carried over to text.

Both were made to drop image tokens in inference. Here they drop response tokens from the loss. `candidates.attention`
comes from the layer that the option `layer` names. Attention is a share of a sample's own sequence: in a batch the
tokens of short samples would win for being few. So by default each selected sample keeps its share of the budget.
"""

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
    """fastv, fastv-original (Chen et al., ECCV 2024, arXiv 2403.06764): the tokens that receive most attention.

    Tokens are ranked by the attention that they receive from the positions of their sample, on average. The Q-Tuning
    paper takes the last layer, Chen et al. layer 2. Under a causal mask more positions see the early tokens, so these
    receive more; neither corrects that, and neither do we.
    """
    assert candidates.attention is not None
    return keep_highest(candidates.attention.received, candidates, selection, budget.tokens, within)


def sparsevlm(
    candidates: Candidates,
    selection: SampleSelection,
    budget: Budget,
    rng: torch.Generator,
    *,
    layer: int,
    within: Within,
) -> Tensor:
    """sparsevlm: the tokens that the raters look at, as many as the budget says.

    Raters are chosen by hidden states, as SparseVLM chooses the text tokens that rate an image: here they are the
    response tokens most similar to the prompt (model/attention.py).
    """
    assert candidates.attention is not None
    return keep_highest(candidates.attention.rated, candidates, selection, budget.tokens, within)


def sparsevlm_by_rank(
    candidates: Candidates,
    selection: SampleSelection,
    budget: Budget,
    rng: torch.Generator,
    *,
    layer: int,
    scale: float,
) -> Tensor:
    """sparsevlm-original (Zhang et al. 2024, arXiv 2410.04417): of each sample what its raters look at most.

    The rank of a sample's attention matrix (raters x response tokens) says how many tokens are redundant: scale *
    (|T_i| - rank_i) of its tokens go, but never all. So the budget has no effect. Of equal tokens the earlier one
    stays. (The paper also recycles deleted tokens into merged ones, which a loss has no use for.)
    """
    attention, lengths = candidates.attention, candidates.lengths
    assert attention is not None and attention.rank is not None
    redundant = (scale * (lengths - attention.rank).clamp(min=0)).round().long()
    counts = (lengths - redundant).clamp(min=1) * selection.kept
    return keep_highest_of_each(attention.rated, lengths, counts.tolist())
