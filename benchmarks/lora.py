"""LoRA: without weight gradients of the base a plain step costs 2F, so scoring first can save less: (1 + 2r) / 2."""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks import paths
from benchmarks.clock import alternate
from benchmarks.report import Checked, Table, Value
from benchmarks.shapes import Setting, Shape, build, keep_share, ragged
from benchmarks.steps import RATIOS
from qtuning.model.packed import PackedModel

TARGETS = {0.125: 0.60, 0.25: 0.73, 0.5: 0.95}
RANK = 16


def adapted(shape: Shape, device: torch.device) -> torch.nn.Module:
    """The model of `build` with LoRA on all linear layers; both factors random, so that both get gradients."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules="all-linear")
    model = get_peft_model(build(shape, device), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.train()  # type: ignore[no-any-return]


def run(setting: Setting) -> list[Table]:
    """Pruned LoRA steps / plain LoRA steps with the same packed kernels."""
    device, sizes = setting.device, setting.sizes
    model = PackedModel(adapted(sizes.model, device))
    samples = ragged(8, sizes.model.vocabulary, sizes.stretch)
    kept = {ratio: keep_share(samples, ratio, paths.TOKEN_RATIO) for ratio in RATIOS}
    variants: dict[str, Callable[[], object]] = {"plain": partial(paths.plain, model, samples, device)}
    for ratio in RATIOS:
        variants[f"{ratio}"] = partial(paths.ours, model, samples, kept[ratio], paths.q_tuning(ratio), device)
    times = alternate(variants, sizes.fewer, device)
    rows: list[dict[str, Value]] = [{"step": "plain LoRA, packed", "ms": times.milliseconds("plain"), "/ plain": 1.0}]
    rows += [
        {
            "step": f"Q-Tuning, {ratio:.1%}",
            "ms": times.milliseconds(f"{ratio}"),
            "/ plain": Checked(times.ratio(f"{ratio}", "plain"), TARGETS[ratio]),
            "its range": times.spread(f"{ratio}", "plain"),
            "bound (1 + 2r) / 2": (1 + 2 * kept[ratio].share) / 2,
        }
        for ratio in RATIOS
    ]
    note = f"Model and batch of the step table; median of {sizes.fewer}, ratios paired."
    return [Table(f"Step, LoRA of rank {RANK} on all linear layers, float32", rows, (note,), times.seconds)]
