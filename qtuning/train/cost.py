"""What a cell costs: samples, tokens, updates, FLOPs, seconds, memory, of scoring as well as of training."""

import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qtuning.model.flops import ModelShape
from qtuning.model.packed import causal_lm_of


def shape_of(model: nn.Module, frozen: bool, checkpointing: bool) -> ModelShape:
    """The shape of a causal LM, read off its weights. LoRA factors are not counted: they are under 1% of a base."""
    causal_lm = causal_lm_of(model)
    config = causal_lm.config.get_text_config()
    head = causal_lm.get_output_embeddings().weight
    matmul = sum(
        numbers(parameter)
        for name, parameter in causal_lm.named_parameters()
        if parameter.ndim == 2 and "lora_" not in name and "embed" not in name and parameter is not head
    )
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = config.num_hidden_layers * config.num_attention_heads * head_size
    return ModelShape(matmul, attention, head.numel(), frozen, checkpointing)


def numbers(parameter: Tensor) -> int:
    """How many it holds, also where bitsandbytes keeps them in 4 bits."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


@dataclass
class Cost:
    """Running account of a cell, one per process; `sum_costs` adds them up at the end. The keys stand in train.json.

    seconds_scoring: all that comes before training on a batch: forwards without gradient, selection of samples and of
    tokens, packing. seconds_token_selection: of them, those of the token pruner, which ranks and masks by the scores
    that are there already. seconds_watching: of looks at fixed samples (watch.py); seconds_total leaves them out.
    *_references: of training the reference models of the cell (references.py), each in full, though other cells may
    share them; scoring by them is in *_scoring. Also of measuring influence, with its warm-up (influence.py).
    cpu_seconds: processor time of all threads of the process, over what seconds_total counts. Other work on the machine
    lengthens seconds_total and hardly cpu_seconds. On a GPU it says little: the processor only waits there.
    """

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
    flops_references: float = 0.0
    seconds_scoring: float = 0.0
    seconds_token_selection: float = 0.0
    seconds_watching: float = 0.0
    seconds_training: float = 0.0
    seconds_references: float = 0.0
    seconds_total: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def add(self, other: "Cost") -> None:
        """Add what was spent elsewhere."""
        for key, value in asdict(other).items():
            setattr(self, key, getattr(self, key) + value)

    def timed(self, prune_tokens: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same token pruner, whose seconds are counted. It works on the CPU, so there is nothing to wait for."""

        def prune_and_count(*arguments: Any) -> Tensor:
            began = time.perf_counter()
            mask = prune_tokens(*arguments)
            self.seconds_token_selection += time.perf_counter() - began
            return mask

        return prune_and_count

    def summary(self) -> dict[str, float]:
        """All entries, and the total of the FLOPs."""
        return asdict(self) | {"flops_total": self.flops_scoring + self.flops_training + self.flops_references}


class Stopwatch:
    """Seconds of the work between two marks: by the clock, and on a GPU by events in its stream.

    The program runs ahead of a GPU: its clock would say how long it took to ask for the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> "float | torch.cuda.Event":
        """This place in the work."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    @staticmethod
    def seconds(start: "float | torch.cuda.Event", end: "float | torch.cuda.Event") -> float:
        """From one mark to the other. On a GPU it waits for the work before `end`: ask when nothing else is to do."""
        if isinstance(start, float) or isinstance(end, float):
            return float(end) - float(start)  # type: ignore[arg-type]
        end.synchronize()
        return start.elapsed_time(end) / 1000


def describe_device(device: torch.device) -> dict[str, Any]:
    """Name and memory (bytes) of the GPU; without a GPU those of the machine."""
    if device.type == "cuda":
        name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
    else:
        name, memory = "CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"device": str(device), "device_name": name, "device_memory_bytes": memory}


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated on the GPU at most so far; without a GPU, the largest resident size of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def sum_costs(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summaries of all processes as one: sums, but for updates and wall-clock seconds, which all processes share.

    (Processor seconds, `cpu_seconds`, are a sum: each process has its own.)
    """
    common = [key for key in costs[0] if key.startswith(("updates", "seconds"))]
    return {
        key: max(cost[key] for cost in costs) if key in common else sum(cost[key] for cost in costs) for key in costs[0]
    }
