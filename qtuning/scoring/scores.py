"""What one forward without gradient tells a pruner: scores (method.md, Scores) and attention.

`observe` makes the forward; `BatchScores` and `TokenAttention` hold what it found.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.cell import Scorer
from qtuning.model.batch import Packed, pack, pack_whole
from qtuning.model.transfer import to_host

if TYPE_CHECKING:
    from qtuning.model.attention import Collector
    from qtuning.model.packed import PackedModel


OVERFLOW = 700.0  # nats; its exp is finite in float64, and so are sums of a few such values


@dataclass(frozen=True)
class BatchScores:
    """Scores of B samples with N response tokens in all, laid end to end; on the CPU, in float64.

    nll: [N], l_it in nats. entropy: [N], H_it in nats. lengths: [B] int64, |T_i|, sum N. sequence_ent: [B], the mean of
    H over all positions of the sequence, prompt included (reading A4, `sequence`), or None if it is not needed.

    The model computes them in float32. They are float64 from here on, because exp(l) overflows float32 at 88 nats and
    float64 only at 709, and because quantiles of nearly equal values decide which samples are kept. Beyond OVERFLOW
    nats a perplexity stays at exp(OVERFLOW).
    """

    nll: Tensor
    entropy: Tensor
    lengths: Tensor
    sequence_ent: Tensor | None = None

    @cached_property
    def token_ppl(self) -> Tensor:
        """[N]: PPL_it = exp(l_it)."""
        return self.nll.clamp(max=OVERFLOW).exp()

    @cached_property
    def ppl(self) -> Tensor:
        """[B]: the error PPL_i = exp(mean over T_i of l_it)."""
        return segment_mean(self.nll, self.lengths).clamp(max=OVERFLOW).exp()

    @cached_property
    def ent(self) -> Tensor:
        """[B]: the uncertainty Ent_i = mean over T_i of H_it (reading A4, response positions)."""
        return segment_mean(self.entropy, self.lengths)

    def of(self, positions: Sequence[int]) -> "BatchScores":
        """The scores of some of the samples."""
        places = torch.arange(len(self.nll)).split(self.lengths.tolist())
        tokens, chosen = torch.cat([places[position] for position in positions]), torch.tensor(positions)
        sequence_ent = None if self.sequence_ent is None else self.sequence_ent[chosen]
        return BatchScores(self.nll[tokens], self.entropy[tokens], self.lengths[chosen], sequence_ent)


def segment_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """[N], [B] -> [B]: the mean of each of B consecutive segments."""
    return torch.segment_reduce(values, "mean", lengths=lengths)


@dataclass(frozen=True)
class TokenAttention:
    """What the attention of one layer says about the response tokens. Attention is the mean over the heads.

    received: [N], the attention that a token receives from the positions of its own sample, their mean. rated: [N], the
    same from the raters only: the response tokens whose hidden states are most similar to the prompt's
    (attention.py). rank: [B] int64, rank of each sample's matrix (raters x response tokens); None if it is not needed.
    """

    received: Tensor
    rated: Tensor
    rank: Tensor | None = None


@dataclass(frozen=True)
class Observation:
    """What one forward without gradient told about a batch.

    packed: the batch, on the CPU; its targets went through the head. depth: the share of the layers that ran, in
    (0, 1].
    """

    packed: Packed
    depth: float
    scores: BatchScores | None
    attention: TokenAttention | None


def observe(
    model: "PackedModel",
    samples: Sequence[Sample],
    needs: Collection[str],
    layer: int | None,
    device: torch.device,
    weights: Mapping[str, Tensor] | None = None,
    impl: Scorer = "chunked",
) -> Observation:
    """Everything that `needs` asks for, in one forward: at least one need of scores or of attention.

    layer: whose attention, from 1 or from -1 backwards. If only attention is asked for, the forward ends in that layer,
    and nothing goes through the head. Fields that were not asked for are None. weights, impl: see `PackedModel.score`.
    Raises UserError if there is no such layer, and NonFinite.
    """
    everywhere = "sequence-entropy" in needs
    scored = everywhere or "scores" in needs
    collector, ranked = None, "attention-rank" in needs
    if "attention" in needs or ranked:
        collector = model.collector(layer, [sample.prompt for sample in samples], stop=not scored, rank=ranked)
    assert scored or collector is not None, "nothing was asked for"
    if collector is None and not everywhere:
        packed = pack_responses(samples)
    else:
        packed = pack_whole(samples, "everywhere" if everywhere else "response" if scored else "nowhere")
    on_device = packed.to(device)
    depth = 1.0
    found: list[Tensor] = []
    if scored:
        found += model.score(on_device, collector, weights, impl)
    elif collector is not None:
        model.attend(on_device, collector)
        depth = (collector.layer + 1) / model.layers if collector.stop else 1.0
    if collector is not None:
        found += _attention_found(collector)
    on_host = to_host(found)  # scores and attention in one copy
    scores = batch_scores(samples, on_host[0], on_host[1], everywhere) if scored else None
    attention = None if collector is None else _token_attention(samples, on_host[-2], on_host[-1], collector)
    return Observation(packed, depth, scores, attention)


def embed(model: "PackedModel", samples: Sequence[Sample], device: torch.device) -> tuple[Tensor, Packed]:
    """([B, H] float32: mean of the last hidden states over all tokens of each sample, the batch as it was packed).

    Deita takes the last token's state, and DS2 an encoder's. We average over prompt and response, because the state at
    the end of a text says what comes next, which of a base model is the same after every text. Raises NonFinite.
    """
    packed = pack_whole(samples, "everywhere")
    hidden = model.embed(packed.to(device)).float()
    (embeddings,) = to_host([torch.stack([part.mean(dim=0) for part in hidden.split(packed.lengths)])])
    _require_finite("embeddings are", samples, embeddings.split(1))
    return embeddings, packed


def pack_responses(samples: Sequence[Sample]) -> Packed:
    """All samples, predicting every response token. (Each has one: preparation refuses samples without a response.)"""
    packed = pack(samples)
    assert packed is not None and len(packed.rows) == len(samples)
    return packed


class NonFinite(UserError):
    """Scores, a loss or a gradient are NaN or infinite; training stops before the update."""


def batch_scores(samples: Sequence[Sample], nll: Tensor, entropy: Tensor, everywhere: bool) -> BatchScores:
    """Scores from token NLL and entropy, [M] each, on the CPU. Raises NonFinite.

    everywhere: they belong to all positions of the samples, and not only to the response tokens.
    """
    nll, entropy = nll.double(), entropy.double()
    lengths = torch.tensor([sample.response_length for sample in samples])
    sequence_ent = None
    if everywhere:
        sizes = [len(sample.tokens) for sample in samples]
        sequence_ent = segment_mean(entropy, torch.tensor(sizes))
        _require_finite("scores are", samples, sequence_ent.split(1))
        # the prompt's last position predicts the first response token; the sequence's last predicts none
        nll, entropy = (
            torch.cat([part[s.prompt - 1 : -1] for s, part in zip(samples, values.split(sizes), strict=True)])
            for values in (nll, entropy)
        )
    _require_finite("scores are", samples, (nll + entropy).split(lengths.tolist()))
    return BatchScores(nll, entropy, lengths, sequence_ent)


def _attention_found(collector: "Collector") -> list[Tensor]:
    """[N] each, on the model's device: what the response tokens receive from all, and from raters."""
    if not collector.found:
        raise UserError(f"options.layer: layer {collector.layer + 1} of the model has no attention; choose another")
    return [torch.cat([getattr(part, name) for part in collector.found]) for name in ("received", "rated")]


def _token_attention(
    samples: Sequence[Sample], received: Tensor, rated: Tensor, collector: "Collector"
) -> TokenAttention:
    """What the collector found, on the CPU. Raises NonFinite."""
    _require_finite("the attention is", samples, received.split([sample.response_length for sample in samples]))
    return TokenAttention(
        received,
        rated,
        torch.tensor([part.rank for part in collector.found]) if collector.rank else None,
    )


def _require_finite(what: str, samples: Sequence[Sample], parts: Sequence[Tensor]) -> None:
    bad = [sample.number for sample, part in zip(samples, parts, strict=True) if not bool(torch.isfinite(part).all())]
    if bad:
        raise NonFinite(f"{what} not finite for samples {bad}: the model has diverged or its weights are broken")
