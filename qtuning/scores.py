"""Scores of a batch under the current model (method.md, Scores)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qtuning.batch import Packed, Sample
from qtuning.errors import UserError

if TYPE_CHECKING:
    from qtuning.packed_model import PackedModel


@dataclass(frozen=True)
class BatchScores:
    """Scores of B samples with N response tokens in all, laid end to end; on the CPU, in float64.

    nll: [N], l_it in nats. entropy: [N], H_it in nats. lengths: [B] int64, |T_i|, sum N.

    float64 because exp(l) overflows float32 at 88 nats and float64 only at 709, and because quantiles of nearly equal
    values decide which samples are kept.
    """

    nll: Tensor
    entropy: Tensor
    lengths: Tensor

    @property
    def token_ppl(self) -> Tensor:
        """[N]: PPL_it = exp(l_it)."""
        return self.nll.exp()

    @property
    def ppl(self) -> Tensor:
        """[B]: the error PPL_i = exp(mean over T_i of l_it)."""
        return segment_mean(self.nll, self.lengths).exp()

    @property
    def ent(self) -> Tensor:
        """[B]: the uncertainty Ent_i = mean over T_i of H_it (reading A4, response positions)."""
        return segment_mean(self.entropy, self.lengths)


def segment_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """[N], [B] -> [B]: the mean of each of B consecutive segments."""
    return torch.stack([part.mean() for part in values.split(lengths.tolist())])


def score(model: "PackedModel", samples: Sequence[Sample], packed: Packed) -> BatchScores:
    """Score every response token of the samples, packed on the model's device, in one forward without gradient.

    Raises UserError naming the samples whose scores are not finite.
    """
    nll, entropy = model.score(packed)
    lengths = torch.tensor([sample.response_length for sample in samples])
    scores = BatchScores(nll.double().cpu(), entropy.double().cpu(), lengths)
    # of the perplexity, not only of the loss: beyond 709 nats it is infinite, and quantiles of infinity are NaN
    finite = torch.isfinite(scores.token_ppl) & torch.isfinite(scores.entropy)
    if not bool(finite.all()):
        bad = [s.number for s, part in zip(samples, finite.split(lengths.tolist()), strict=True) if not part.all()]
        raise NonFinite(f"scores are not finite for samples {bad}: the model has diverged or its weights are broken")
    return scores


class NonFinite(UserError):
    """Training met NaN or infinity and stopped before the update."""
