"""A causal language model as the project uses it: packed tokens in; statistics or one summed loss out."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qtuning.attention import PACKED
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
        self._causal_lm = causal_lm_of(model)
        self._causal_lm.set_attn_implementation(PACKED)

    def hidden(self, packed: Packed) -> Tensor:
        """[M, H]: the hidden states that predict `packed.labels`."""
        causal_lm = self._causal_lm
        backbone = getattr(causal_lm, causal_lm.base_model_prefix)
        # attention_mask None and use_cache False: with a cache or a mask transformers may let samples see each other
        output = backbone(
            input_ids=packed.input_ids[None],
            position_ids=packed.position_ids[None],
            attention_mask=None,
            use_cache=False,
            segments=packed.lengths,
        )
        return output.last_hidden_state[0].index_select(0, packed.source)  # type: ignore[no-any-return]

    def forward(self, packed: Packed) -> Tensor:
        """sum_m w_m l_m over the targets, float32 scalar."""
        return summed_loss(self.hidden(packed), head_of(self._causal_lm), packed.labels, packed.weights)

    @torch.no_grad()
    def score(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """Token NLL and entropy of the targets, each [M] float32, without graph and without dropout."""
        was_training = self.training
        self.eval()
        try:
            return statistics(self.hidden(packed), head_of(self._causal_lm), packed.labels)
        finally:
            self.train(was_training)


@torch.no_grad()
def check_decomposition(wrapped: PackedModel, samples: list[Sample], device: torch.device) -> float:
    """Largest difference between our NLL and the model's own logits on two samples packed together; UserError if large.

    Run once before training: a model family whose head or attention does something we do not know of is refused here
    instead of being trained wrongly.
    """
    packed = pack(samples)
    assert packed is not None
    ours, _ = wrapped.score(packed.to(device))
    causal_lm = wrapped._causal_lm
    was_training = wrapped.training
    wrapped.eval()
    causal_lm.set_attn_implementation("eager")
    theirs = []
    for sample in samples:
        logits = causal_lm(input_ids=sample.tokens[None].to(device), use_cache=False).logits[0].float()
        predicted = logits[sample.prompt - 1 : -1].log_softmax(dim=-1)
        theirs.append(-predicted.gather(1, sample.tokens[sample.prompt :, None].to(device)).squeeze(1))
    causal_lm.set_attn_implementation(PACKED)
    wrapped.train(was_training)
    difference = float((ours - torch.cat(theirs)).abs().max())
    low_precision = next(causal_lm.parameters()).dtype != torch.float32
    allowed = 0.5 if low_precision else 1e-3
    if not difference <= allowed:
        raise UserError(
            f"{type(causal_lm).__name__}: the packed forward differs from the model's own by {difference:.2g} nats "
            f"(allowed {allowed:g}); this model family is not supported"
        )
    return difference
