"""What a cell cost: samples, tokens, updates, FLOPs, seconds, memory. Scoring is never free and never forgotten."""

import resource
from dataclasses import asdict, dataclass

import torch
from torch import nn

from qtuning.model.flops import ModelShape
from qtuning.model.packed import causal_lm_of


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
