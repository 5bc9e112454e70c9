"""Models that cannot be taken apart: the same statistics and losses through a model's own forward and full logits.

A family whose head, or whose attention, does something we do not know of is not refused: it goes through its own
forward, a few samples at a time, padded on the right. That costs more memory and time, and no more than that.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from qtuning.errors import UserError
from qtuning.experiment.schema import Scorer
from qtuning.model.attention import Collector
from qtuning.model.batch import Packed, Sample
from qtuning.model.head import statistics_of_logits
from qtuning.model.packed import PackedModel, causal_lm_of, check_decomposition

LOGITS = 2**26  # numbers in the logits of one piece: 256 MB in float32
SLACK = 1.25  # longest / shortest sample of a piece: padding is work, too


@dataclass(frozen=True)
class Padded:
    """lengths: positions of each sample with its padding. All of them go through the head."""

    lengths: tuple[int, ...]

    @property
    def targets(self) -> int:
        """Positions that go through the head."""
        return sum(self.lengths)


class WholeModel(PackedModel):
    """A causal LM behind the interface of PackedModel, by its own forward; only attention cannot be had from it."""

    taken_apart = False

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.model = model
        self.attention = "sdpa"
        try:
            self.causal_lm.set_attn_implementation(self.attention)
        except ValueError:  # the family has no such
            self.attention = "eager"
            self.causal_lm.set_attn_implementation(self.attention)

    def collector(self, layer: int | None, prompts: Sequence[int], stop: bool) -> Collector:
        """UserError: nothing is known of its layers."""
        raise UserError(
            f"{type(self.causal_lm).__name__}: this pruner needs attention, which cannot be taken from a model that "
            "only runs as a whole; choose another pruner"
        )

    def pieces(self, packed: Packed) -> list[Packed]:
        """Segments of similar length together, as many as LOGITS allows."""
        vocabulary = int(self.causal_lm.config.get_text_config().vocab_size)
        return [packed.segments(group) for group in groups(packed.lengths, vocabulary)]

    def forwarded(self, packed: Packed) -> Padded:
        """Each segment as long as the longest of its piece, and no logits spared."""
        vocabulary = int(self.causal_lm.config.get_text_config().vocab_size)
        pieces = groups(packed.lengths, vocabulary)
        return Padded(tuple(packed.lengths[piece[0]] for piece in pieces for _ in piece))

    def forward(
        self,
        packed: Packed,
        mode: Literal["loss", "scores"] = "loss",
        collector: Collector | None = None,
        impl: Scorer = "chunked",
    ) -> tuple[Tensor, Tensor]:
        """As PackedModel's, through the full logits of one padded batch; give it one of `pieces`.

        No attention mask: in a causal model padding on the right reaches no real position, while rows that are masked
        everywhere turn to NaN in some families. impl has nothing to choose here.
        """
        segments = packed.input_ids.split(packed.lengths)
        # padded with a token of its own: some families warn of padding tokens
        ids = pad_sequence(list(segments), batch_first=True, padding_value=int(segments[0][0]))
        length = ids.shape[1]
        logits = self.model(input_ids=ids, use_cache=False).logits[:, -length:]
        lengths = torch.tensor(packed.lengths, device=ids.device)
        row = torch.repeat_interleave(torch.arange(len(lengths), device=ids.device), lengths)[packed.source]
        chosen = logits[row, packed.position_ids[packed.source]].float()
        if mode == "scores":
            return statistics_of_logits(chosen, packed.labels)
        nll = cross_entropy(chosen, packed.labels, reduction="none")
        return (nll * packed.weights).sum(), nll.detach()

    @torch.no_grad()
    def score(self, packed: Packed, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """As PackedModel's, piece by piece."""
        vocabulary = int(self.causal_lm.config.get_text_config().vocab_size)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        with self.evaluating():
            for group in groups(packed.lengths, vocabulary):
                piece = packed.segments(group)
                parts = (values.split(piece.counts) for values in self(piece, "scores"))
                found |= dict(zip(group, zip(*parts, strict=True), strict=True))
        nll, entropy = zip(*(found[index] for index in range(len(packed.lengths))), strict=True)
        return torch.cat(nll), torch.cat(entropy)


def groups(lengths: Sequence[int], vocabulary: int) -> list[list[int]]:
    """Indices of segments that go through the model together, longest first."""
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[found[-1][0]] if found else 0
        fits = bool(found) and (len(found[-1]) + 1) * longest * vocabulary <= LOGITS
        if fits and longest <= SLACK * lengths[index]:
            found[-1].append(index)
        else:
            found.append([index])
    return found


def wrap(model: nn.Module, samples: Sequence[Sample], device: torch.device) -> tuple[PackedModel, float]:
    """The model behind our interface, on `device`, and how far that is from its own forward on `samples`, in nats.

    Taken apart where that gives what the model itself gives, else whole, with one warning. UserError where even that
    differs: its weights are broken, or padding changes what it computes.
    """
    try:
        packed = PackedModel(model).to(device)
        return packed, check_decomposition(packed, samples, device)
    except (UserError, AttributeError, TypeError, ValueError) as error:
        whole = WholeModel(model).to(device)
        difference = check_decomposition(whole, samples, device)
        warnings.warn(
            f"{type(causal_lm_of(model)).__name__}: runs as a whole, through full logits, which takes more memory and "
            f"time; it cannot be taken apart ({error})",
            stacklevel=2,
        )
        return whole, difference
