"""What a cell cost: samples, tokens, updates, FLOPs, seconds, memory. Scoring is never free and never forgotten."""

import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from qtuning.model.batch import Packed
from qtuning.model.packed import causal_lm_of


@dataclass(frozen=True)
class ModelShape:
    """What FLOPs depend on. matmul: weights of the backbone's matrices; attention: layers x heads x head size."""

    matmul: int
    attention: int
    head: int
    frozen: bool
    checkpointing: bool = False

    def forward_flops(self, packed: Packed, depth: float = 1.0) -> float:
        """2 FLOPs a weight and token, 4 a pair of tokens and attention channel (half of them causal), and the head.

        packed: what goes through the model. depth: the share of the layers that ran, where a
        forward stopped early.
        """
        return self._layers(packed.lengths) * depth + 2.0 * self.head * packed.targets

    def training_flops(self, packed: Packed) -> float:
        """Forward and backward: 3F, or 2F with a frozen base (no weight gradients); one F more to recompute."""
        return self.forward_flops(packed) * (self._passes + self.checkpointing)

    def backward_flops(self, lengths: Sequence[int], targets: int) -> float:
        """Of samples whose forward is accounted for already, as that which scored them (graphs.py): 2F, or F with a
        frozen base, through all positions of each; of the head, the forward for its gradient comes once more.

        lengths: positions of each sample. targets: kept tokens.
        """
        layers = self._layers(lengths) * (self._passes - 1.0 + self.checkpointing)
        return layers + 2.0 * self.head * targets * self._passes

    @property
    def _passes(self) -> float:
        return 2.0 if self.frozen else 3.0

    def _layers(self, lengths: Sequence[int]) -> float:
        pairs = sum(length * (length + 1) / 2 for length in lengths)
        return 2.0 * self.matmul * sum(lengths) + 4.0 * self.attention * pairs


def shape_of(model: nn.Module, frozen: bool, checkpointing: bool) -> ModelShape:
    """Read the shape off a causal LM (LoRA factors are not counted: under 1% of a base)."""
    causal_lm = causal_lm_of(model)
    config = causal_lm.config.get_text_config()
    head = causal_lm.get_output_embeddings().weight
    matmul = sum(
        parameter.numel()
        for name, parameter in causal_lm.named_parameters()
        if parameter.ndim == 2 and "lora_" not in name and "embed" not in name and parameter is not head
    )
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = config.num_hidden_layers * config.num_attention_heads * head_size
    return ModelShape(matmul, attention, head.numel(), frozen, checkpointing)


@dataclass
class Cost:
    """Running account of a cell; one object per process, summed at the end."""

    updates: int = 0
    updates_skipped: int = 0
    samples_scored: int = 0
    tokens_scored: int = 0
    samples_kept: int = 0
    response_tokens: int = 0
    tokens_kept: int = 0
    tokens_forwarded: int = 0
    flops_scoring: float = 0.0
    flops_training: float = 0.0
    seconds_scoring: float = 0.0
    seconds_training: float = 0.0
    seconds_total: float = 0.0
    peak_memory_bytes: int = 0

    def add(self, other: "Cost") -> None:
        """Take in what was spent elsewhere."""
        for key, value in asdict(other).items():
            setattr(self, key, getattr(self, key) + value)

    def summary(self) -> dict[str, float]:
        """All entries, and the total of the FLOPs."""
        return asdict(self) | {"flops_total": self.flops_scoring + self.flops_training}


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else the largest resident size of this process so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
