"""How a cell is trained: the keys of `training`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from qtuning.errors import UserError
from qtuning.experiment.base import Config

Dtype = Literal["float32", "bfloat16"]


class Lora(Config):
    """LoRA (peft). The paper names the rank; alpha and dropout are LLaMA-Factory's defaults."""

    r: int = Field(8, gt=0, description="rank (v2, table 7)")
    alpha: int = Field(16, gt=0, description="LLaMA-Factory: twice the rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="LLaMA-Factory: 0")


class Training(Config):
    """How a cell is trained, by AdamW (betas 0.9 and 0.999, epsilon 1e-8).

    Defaults: the paper's (v2, table 7), and LLaMA-Factory's where the paper names none. Two keys differ, so that any
    model trains on any machine: experiments of the paper say `update_samples: 256` and `mixed_precision: bf16`.
    """

    tuning: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    epochs: int = Field(3, gt=0)
    batch_size: int = Field(8, gt=0, description="samples per device and forward: the selection batch (A9)")
    update_samples: int | None = Field(
        None,
        gt=0,
        description="samples of one optimizer update, over all processes and accumulation steps; how many batches each "
        "process accumulates follows. Null: one batch. The paper: 256 = batch 8 x accumulation 4 x 8 GPUs",
    )
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(
        0.0, ge=0, lt=1, description="share of the updates with rising learning rate; LLaMA-Factory: none"
    )
    weight_decay: float = Field(0.0, ge=0, description="LLaMA-Factory: 0")
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradient clipping; null: off; LLaMA-Factory: 1")
    cutoff: int = Field(2048, gt=1, description="tokens per sample; a longer response is cut")
    dtype: Dtype | None = Field(
        None,
        description="dtype of the weights; null: the model's under LoRA, float32 in full fine-tuning, where bfloat16 "
        "weights would round small updates away",
    )
    mixed_precision: Literal["no", "bf16"] = Field(
        "no", description="autocast; weights keep their dtype. LLaMA-Factory's bf16: bfloat16 weights under autocast"
    )
    gradient_checkpointing: Annotated[bool, BeforeValidator(lambda value: False if value == "auto" else value)] = Field(
        False,
        description="less memory, one forward more. false or auto: only where the machine that trains has too little "
        "memory without it (docs/gpus.md); it changes no number but for rounding. true: always",
    )
    # left out of a cell's configuration at their defaults, so that older cells keep their names
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        "adamw",
        exclude_if=lambda value: value == "adamw",
        description="adamw-8bit: moments in 8 bits (bitsandbytes), 2 bytes a weight where there are 8; other numbers",
    )
    quantization: Literal["none", "nf4"] = Field(
        "none",
        exclude_if=lambda value: value == "none",
        description="nf4: QLoRA, the base model in 4 bits while adapters are trained (bitsandbytes); other numbers",
    )
    compile: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="torch.compile of each layer but for attention: faster after a minute, and rounded otherwise",
    )
    each_epoch: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="keep the adapter and Adam's moments after each epoch, as LESS needs them (weights/epoch-N)",
    )

    @model_validator(mode="after")
    def _adapters(self) -> "Training":
        if self.each_epoch and self.tuning != "lora":
            raise ValueError("each_epoch: needs tuning: lora")
        if self.each_epoch and self.optimizer != "adamw":
            raise ValueError(f"each_epoch: LESS reads Adam's moments, which {self.optimizer} rounds; use adamw")
        if self.quantization != "none" and self.tuning != "lora":
            raise ValueError(f"quantization: {self.quantization} needs tuning: lora, since 4 bits cannot be trained")
        return self

    @property
    def batches(self) -> int:
        """Selection batches of one optimizer update, over all processes. UserError if batch_size leaves a rest."""
        return self.accumulation(1)

    def accumulation(self, processes: int) -> int:
        """Batches of one optimizer update that each of so many processes works on. UserError if a rest is left."""
        samples = self.update_samples or self.batch_size
        steps, rest = divmod(samples, self.batch_size * processes)
        if rest:
            several = f" x {processes} processes" if processes > 1 else ""
            batches = samples // self.batch_size if samples % self.batch_size == 0 else 0
            fitting = ", ".join(str(count) for count in range(1, batches + 1) if batches % count == 0)
            raise UserError(
                f"training.update_samples = {samples}: batch_size {self.batch_size}{several} must divide it, with an "
                "update of one batch or more for each process"
                + (f"; this many processes can share it: {fitting}" if several and fitting else "")
            )
        return steps
