"""A causal language model as the project uses it: packed tokens in; statistics or one summed loss out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qtuning.attention import PACKED, Collected, Collector
from qtuning.batch import Packed, Sample, pack
from qtuning.errors import UserError
from qtuning.head import head_of, statistics, summed_loss


def causal_lm_of(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, without peft's wrapping (its layers stay adapted)."""
    # told by its method and not by its class: importing peft takes seconds that full fine-tuning need not spend
    return cast(PreTrainedModel, model.get_base_model() if hasattr(model, "get_base_model") else model)  # type: ignore[operator]


class PackedModel(nn.Module):
    """Wraps a transformers (or peft-wrapped) causal LM; itself what DDP wraps, so that gradients are synchronised.

    The backbone and the head are called apart: hidden states of the predicting positions only go through the head.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.causal_lm.set_attn_implementation(PACKED)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The transformers model inside."""
        return causal_lm_of(self.model)

    @property
    def layers(self) -> int:
        """How many layers the backbone has."""
        return int(self.causal_lm.config.get_text_config().num_hidden_layers)

    def collector(self, layer: int | None, prompts: Sequence[int], stop: bool) -> Collector:
        """A collector for the attention of a layer, numbered from 1 or from -1 backwards; UserError if there is none.

        prompts, stop: see Collector.
        """
        choice = f"choose 1 to {self.layers}, or -{self.layers} to -1"
        if layer is None:
            raise UserError(f"options.layer: this pruner needs attention, but does not say of which layer; {choice}")
        if not 1 <= abs(layer) <= self.layers:
            raise UserError(f"options.layer: the model has no layer {layer}; {choice}")
        return Collector(layer - 1 if layer > 0 else self.layers + layer, tuple(prompts), stop)

    def hidden(self, packed: Packed, collector: Collector | None = None) -> Tensor:
        """[M, H]: the hidden states that predict `packed.labels`. Raises Collected if the collector stops."""
        causal_lm = self.causal_lm
        backbone = getattr(causal_lm, causal_lm.base_model_prefix)
        # attention_mask None and use_cache False: with a cache or a mask transformers may let samples see each other
        output = backbone(
            input_ids=packed.input_ids[None],
            position_ids=packed.position_ids[None],
            attention_mask=None,
            use_cache=False,
            segments=packed.lengths,
            **({} if collector is None else {"collector": collector}),
        )
        return output.last_hidden_state[0].index_select(0, packed.source)  # type: ignore[no-any-return]

    def forward(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """sum_m w_m l_m over the targets, float32 scalar; and the l_m, [M] float32, without a gradient."""
        return summed_loss(self.hidden(packed), head_of(self.causal_lm), packed.labels, packed.weights)

    @torch.no_grad()
    def score(self, packed: Packed, collector: Collector | None = None) -> tuple[Tensor, Tensor]:
        """Token NLL and entropy of the targets, each [M] float32, without graph and without dropout.

        A collector (that does not stop) is filled on the way.
        """
        with self._evaluating():
            return statistics(self.hidden(packed, collector), head_of(self.causal_lm), packed.labels)

    @torch.no_grad()
    def attend(self, packed: Packed, collector: Collector) -> None:
        """Fill a collector, without graph, dropout and head; no layer after its own runs if it stops."""
        with self._evaluating(), suppress(Collected):
            self.hidden(packed, collector)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)


PROBED = 16  # predictions compared of each probed sample


@torch.no_grad()
def check_decomposition(wrapped: PackedModel, samples: Sequence[Sample], device: torch.device) -> float:
    """Largest difference between our NLL and the model's own logits, on packed samples; UserError if large.

    Packs the shortest and the longest of `samples` (the longest meets sliding windows) and compares the last
    predictions of each. Run once before training: a model family whose head or attention does something we do not know
    of is refused here instead of being trained wrongly.
    """
    by_length = sorted(samples, key=lambda sample: len(sample.tokens))
    probes = [by_length[0], by_length[-1]]
    counts = [min(PROBED, sample.response_length) for sample in probes]
    keep = [
        torch.arange(sample.response_length) >= sample.response_length - count
        for sample, count in zip(probes, counts, strict=True)
    ]
    packed = pack(probes, keep)
    assert packed is not None
    ours, _ = wrapped.score(packed.to(device))
    causal_lm, was_training = wrapped.causal_lm, wrapped.training
    wrapped.eval()
    causal_lm.set_attn_implementation("eager")
    theirs = []
    for sample, count in zip(probes, counts, strict=True):
        ids = sample.tokens[None].to(device)
        logits = causal_lm(input_ids=ids, use_cache=False, logits_to_keep=count + 1).logits[0, :-1].float()
        theirs.append(-logits.log_softmax(dim=-1).gather(1, ids[0, -count:, None]).squeeze(1))
    causal_lm.set_attn_implementation(PACKED)
    wrapped.train(was_training)
    differences = (ours - torch.cat(theirs)).abs()
    largest, mean = float(differences.max()), float(differences.mean())
    exact = next(causal_lm.parameters()).dtype == torch.float32
    most, most_mean = (1e-3, 1e-4) if exact else (0.5, 0.05)  # bfloat16 rounds each layer to 3 digits
    if not (largest <= most and mean <= most_mean):
        raise UserError(
            f"{type(causal_lm).__name__}: the packed forward differs from the model's own by up to {largest:.2g} nats "
            f"(mean {mean:.2g}; allowed {most:g} and {most_mean:g}); this model family is not supported"
        )
    return largest
