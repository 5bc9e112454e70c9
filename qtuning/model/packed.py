"""A causal language model as the project uses it: packed tokens go in, scores or one summed loss come out."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.cell import Scorer
from qtuning.model.attention import PACKED, Collected, Collector
from qtuning.model.batch import Packed, pack
from qtuning.model.head import head_of, summed_loss, token_statistics


def causal_lm_of(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, without peft's wrapping (its layers stay adapted)."""
    # told by its method and not by its class: importing peft takes seconds that full fine-tuning need not spend
    return cast(PreTrainedModel, model.get_base_model() if hasattr(model, "get_base_model") else model)  # type: ignore[operator]


class PackedModel(nn.Module):
    """A causal LM of transformers (peft may have wrapped it) whose backbone and head are called apart.

    So only the hidden states of the positions that predict go through the head. Training and scoring both go through
    `forward`, because DDP and FSDP wrap this module: there they synchronise gradients and gather sharded weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.causal_lm.set_attn_implementation(PACKED)
        self.hand_on: Callable[[tuple[int, ...]], Any] = tuple  # lengths of segments to attention (compiled.py)
        self.stops = True  # whether a forward may end in a layer; not where processes share it (train/sharding.py)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The transformers model inside."""
        return causal_lm_of(self.model)

    @cached_property
    def every_module(self) -> list[nn.Module]:
        """All modules inside, listed once: to walk the 2,666 of a 7B model under LoRA takes milliseconds an update."""
        return list(self.modules())

    @cached_property
    def linear_layers(self) -> dict[str, nn.Linear]:
        """All linear layers inside, and the head, by name; listed once as well."""
        return {name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)}

    @property
    def layers(self) -> int:
        """How many layers the backbone has."""
        return int(self.causal_lm.config.get_text_config().num_hidden_layers)

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The layers of the backbone. UserError if the model keeps them in an unknown way."""
        for module in getattr(self.causal_lm, self.causal_lm.base_model_prefix).modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.layers:
                return module
        raise UserError(f"{type(self.causal_lm).__name__}: has no list of layers that is known")

    def collector(self, layer: int | None, prompts: Sequence[int], stop: bool, rank: bool = False) -> Collector:
        """A collector for the attention of a layer; UserError if the model has no such layer.

        layer: from 1, or from -1 backwards. prompts, stop, rank: see Collector.
        """
        choice = f"choose 1 to {self.layers}, or -{self.layers} to -1"
        if layer is None:
            raise UserError(f"options.layer: this pruner needs attention, but does not say of which layer; {choice}")
        if not 1 <= abs(layer) <= self.layers:
            raise UserError(f"options.layer: the model has no layer {layer}; {choice}")
        return Collector(layer - 1 if layer > 0 else self.layers + layer, tuple(prompts), stop and self.stops, rank)

    def hidden(self, packed: Packed, collector: Collector | None = None) -> Tensor:
        """[M, H]: the hidden states that predict `packed.labels`. Raises Collected if the collector stops it."""
        causal_lm = self.causal_lm
        backbone = getattr(causal_lm, causal_lm.base_model_prefix)
        if collector is not None:
            embedded = causal_lm.get_input_embeddings()(packed.input_ids)
            collector.states.extend(embedded.split(packed.lengths))
        # neither a mask nor a cache: with either, transformers may let samples see each other
        output = backbone(
            input_ids=packed.input_ids[None],
            position_ids=packed.position_ids[None],
            attention_mask=None,
            use_cache=False,
            segments=self.hand_on(packed.lengths),
            starts=packed.starts,
            **({} if collector is None else {"collector": collector}),
        )
        return output.last_hidden_state[0].index_select(0, packed.source)  # type: ignore[no-any-return]

    def forward(
        self,
        packed: Packed,
        mode: Literal["loss", "scores"] = "loss",
        collector: Collector | None = None,
        impl: Scorer = "chunked",
    ) -> tuple[Tensor, Tensor]:
        """`loss`: sum_m w_m l_m over the targets, a float32 scalar, and the l_m, [M] float32, without a gradient.

        `scores`: token NLL and entropy; call `score`, which switches gradient and dropout off.
        """
        hidden, head = self.hidden(packed, collector), head_of(self.causal_lm)
        if mode == "scores":
            return token_statistics(hidden, head, packed.labels, impl=impl)
        return summed_loss(hidden, head, packed.labels, packed.weights)

    @torch.no_grad()
    def score(
        self,
        packed: Packed,
        collector: Collector | None = None,
        weights: Mapping[str, Tensor] | None = None,
        impl: Scorer = "chunked",
    ) -> tuple[Tensor, Tensor]:
        """Token NLL and entropy of the targets, each [M] float32, without gradient and without dropout.

        collector: is filled on the way; it must not stop. weights: stand in for those of the linear layers of these
        names (`half_weights`). impl: see `token_statistics`.
        """
        with evaluating(self), self._with_weights(weights or {}):
            return self(packed, "scores", collector, impl)  # type: ignore[no-any-return]

    @contextmanager
    def _with_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """What torch.func.functional_call does, which walks the model by the names and takes milliseconds for it."""
        own: dict[str, dict[str, Any]] = {name: self.linear_layers[name]._parameters for name in weights}
        kept = {name: parameters["weight"] for name, parameters in own.items()}
        try:
            for name, weight in weights.items():
                own[name]["weight"] = weight
            yield
        finally:
            for name, weight in kept.items():
                own[name]["weight"] = weight

    @torch.no_grad()
    def embed(self, packed: Packed) -> Tensor:
        """[M, H]: the hidden states that predict `packed.labels`, without gradient and dropout."""
        with evaluating(self):
            return self.hidden(packed)

    def hidden_by_segment(self, packed: Packed) -> list[Tensor]:
        """For each sample [1, L, H]: the hidden states of all its positions, each sample with a graph of its own."""
        # They share the embedding only. It is looked up once, so that backward makes one gradient of the size of the
        # vocabulary and not one a segment
        embedded = self.causal_lm.get_input_embeddings()(packed.input_ids[None]).split(packed.lengths, dim=1)
        positions = packed.position_ids[None].split(packed.lengths, dim=1)
        backbone = getattr(self.causal_lm, self.causal_lm.base_model_prefix)
        return [
            backbone(
                inputs_embeds=inputs,
                position_ids=places,
                attention_mask=None,
                use_cache=False,
                segments=self.hand_on((length,)),
                starts=packed.starts_of(segment),
            ).last_hidden_state
            for segment, (inputs, places, length) in enumerate(zip(embedded, positions, packed.lengths, strict=True))
        ]

    @torch.no_grad()
    def own_nll(self, samples: Sequence[Sample], counts: Sequence[int], device: torch.device) -> Tensor:
        """[sum of counts]: token NLL of the last `counts` tokens of each sample, by the model's own forward."""
        causal_lm, found = self.causal_lm, []
        partial = "logits_to_keep" in inspect.signature(type(causal_lm).forward).parameters
        with evaluating(self), ExitStack() as undo:
            causal_lm.set_attn_implementation("eager")
            undo.callback(causal_lm.set_attn_implementation, PACKED)
            for sample, count in zip(samples, counts, strict=True):
                ids = sample.tokens[None].to(device)
                fewer = {"logits_to_keep": count + 1} if partial else {}
                logits = causal_lm(input_ids=ids, use_cache=False, **fewer).logits[0, -count - 1 : -1]
                log_p = logits.float().log_softmax(dim=-1)
                found.append(-log_p.gather(1, ids[0, -count:, None]).squeeze(1))
        return torch.cat(found)

    @torch.no_grad()
    def attend(self, packed: Packed, collector: Collector) -> None:
        """Fill a collector, without gradient, dropout and head. If it stops, no layer after its own runs."""
        with evaluating(self), suppress(Collected):
            self.hidden(packed, collector)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout); afterwards every module is in the mode that it was in."""
    modules = model.every_module if isinstance(model, PackedModel) else model.modules()
    # past nn.Module's own setter, which takes ten times as long; and `model.eval()` would walk the model twice more
    learning = [attributes for attributes in map(vars, modules) if attributes.get("training")]
    for attributes in learning:
        attributes["training"] = False
    try:
        yield
    finally:
        for attributes in learning:
            attributes["training"] = True


def half_weights(model: PackedModel) -> dict[str, Tensor]:
    """bfloat16 copies of the weights of all linear layers and the head, by name; none of a bfloat16 model.

    Autocast to bfloat16 would make such copies in every forward. Scores with these copies in place of the weights are
    the same, bit for bit. A tied embedding stays as it is.
    """
    if head_of(model.causal_lm).weight.dtype == torch.bfloat16:
        return {}  # adapters are float32, but too small to be worth it
    return {
        name: layer.weight.detach().to(torch.bfloat16)
        for name, layer in model.linear_layers.items()
        if layer.weight.is_floating_point()  # not in 4 bits
    }


PROBED = 16  # predictions that are compared, for each of two samples
# (largest, mean) difference in nats that rounding explains, in float32 and otherwise: bfloat16 rounds to 3 digits
TOLERANCES = {True: (1e-3, 1e-4), False: (0.5, 0.05)}


@torch.no_grad()
def check_packed_forward(model: PackedModel, samples: Sequence[Sample], device: torch.device) -> float:
    """Largest difference between our NLL and that of the model's own logits, in nats. UserError if it is large.

    Run it before training, and again under the training's autocast: a model family whose head or attention does
    something unknown is refused instead of trained wrongly. The shortest and the longest of `samples` are packed (the
    longest meets sliding windows), and the last predictions of each are compared.
    """
    by_length = sorted(samples, key=lambda sample: len(sample.tokens))
    probes = [by_length[0], by_length[-1]]
    keep = [torch.arange(sample.response_length).flip(0) < PROBED for sample in probes]
    packed = pack(probes, keep)
    assert packed is not None
    causal_lm = model.causal_lm
    try:
        ours, _ = model.score(packed.to(device))
    except (AttributeError, TypeError, ValueError) as error:
        raise _refusal(causal_lm, f"the packed forward fails ({error})") from None
    own = model.own_nll(probes, packed.counts, device)
    if not own.isfinite().all():
        raise UserError(
            f"{type(causal_lm).__name__}: gives losses that are no numbers; its weights hold NaN or infinity, or "
            f"numbers that are too large for {str(causal_lm.dtype).removeprefix('torch.')}"
        )
    differences = (ours - own).abs()
    # on a CPU, bitsandbytes multiplies by 4 bits in bfloat16 where no gradient is wanted
    bits = getattr(causal_lm, "is_loaded_in_4bit", False)
    exact = causal_lm.dtype == torch.float32 and not bits and not torch.is_autocast_enabled(device.type)
    if not same_but_for_rounding(differences, exact):
        largest, mean = float(differences.max()), float(differences.mean())
        most, most_mean = TOLERANCES[exact]
        raise _refusal(
            causal_lm,
            f"the packed forward differs from the model's own by up to {largest:.2g} nats (mean {mean:.2g}; allowed "
            f"{most:g} and {most_mean:g})",
        )
    return float(differences.max())


def same_but_for_rounding(differences: Tensor, exact: bool) -> bool:
    """Whether two ways to compute one thing agree. exact: both in float32. A NaN is no agreement."""
    most, most_mean = TOLERANCES[exact]
    return float(differences.max()) <= most and float(differences.mean()) <= most_mean


def _refusal(causal_lm: PreTrainedModel, why: str) -> UserError:
    return UserError(f"{type(causal_lm).__name__}: {why}; its head or its attention is of a kind that is not known")
