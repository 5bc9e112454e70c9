"""What every part of `make gpu-check` is given: the device, sizes, and a budget of time and memory."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from qtuning.plan.shapes import PUBLISHED, Shape

SHAPES = {
    "135M": PUBLISHED["HuggingFaceTB/SmolLM2-135M"],
    "1.7B": PUBLISHED["HuggingFaceTB/SmolLM2-1.7B"],
    "7B": PUBLISHED["meta-llama/Llama-2-7b-hf"],
}
TINY = {"135M": Shape(64, 96, 2, 4, 2, 16, 256, True), "7B": Shape(64, 96, 2, 4, 4, 16, 256, False)}
GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """shapes: of the models that are trained. stretch: of the samples' lengths. updates: that are timed, and warmup
    before them. products: tokens of the timed matrix products. copied: bytes of what is streamed. tokens: generated."""

    shapes: dict[str, Shape]
    stretch: float
    updates: int
    warmup: int
    products: int
    copied: int
    tokens: int


WHOLE = Sizes(SHAPES, 1.0, 20, 2, 8192, GIB, 32)
QUICK = Sizes(TINY, 0.05, 2, 1, 64, 2**20, 3)


@dataclass
class Setting:
    """device: where it runs. memory: bytes that models may take. seconds: of all parts together.

    left_out: what was not measured, and why.
    """

    device: torch.device
    sizes: Sizes
    memory: float
    seconds: float
    begun: float = field(default_factory=time.monotonic)
    left_out: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.begun)

    def affords(self, what: str, seconds: float) -> bool:
        """Whether that much time is left; else notes that `what` is left out."""
        if seconds <= self.left:
            return True
        self.left_out.append(f"{what}: would take {seconds:.0f} s, and {max(0.0, self.left):.0f} s are left")
        return False

    def holds(self, what: str, bytes_: float) -> bool:
        """Whether so much memory is there; else notes that `what` is left out."""
        if bytes_ <= self.memory:
            return True
        self.left_out.append(f"{what}: needs {bytes_ / GIB:.1f} GiB, and {self.memory / GIB:.1f} GiB are free")
        return False

    def wait(self) -> None:
        """Until the device has done what it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, action: Callable[[], object], times: int = 5) -> float:
        """Seconds of one `action`: mean of `times` in a row, after one that is not counted; CUDA events on a GPU."""
        action()
        self.wait()
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(times):
                action()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1000 / times
        started = time.perf_counter()
        for _ in range(times):
            action()
        return (time.perf_counter() - started) / times

    def free(self) -> None:
        """Give back what nothing refers to any more; a processor has enough."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def build(shape: Shape, device: torch.device, dtype: torch.dtype, attention: str = "sdpa") -> PreTrainedModel:
    """A LLaMA model of this shape with random weights, made where it stays."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
        use_cache=False,
    )
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)  # type: ignore[no-any-return]


def adapt(model: PreTrainedModel, rank: int = 8) -> Any:
    """The model with LoRA of the paper's rank on all linear layers."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear"
    )
    return get_peft_model(model, config)
