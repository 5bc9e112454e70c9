"""Exactness: gradients of every path against the masked loss on the whole padded batch, for the same kept sets."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import paths
from benchmarks.lora import adapted
from benchmarks.report import Checked, Table, Value
from benchmarks.shapes import Kept, Setting, build, keep_share, ragged
from benchmarks.steps import RATIOS
from qtuning.model.packed import PackedModel

LARGEST, NORM = 5e-6, 2e-6
Gradients = dict[str, Tensor]
Step = Callable[[], object]


def run(setting: Setting) -> list[Table]:
    """One row a path; on half the layers of the step table, which is as telling and twice as fast."""
    device = setting.device
    shape = replace(setting.sizes.model, layers=setting.sizes.model.layers // 2)
    samples = ragged(8, shape.vocabulary, setting.sizes.stretch)
    batch = paths.padded(samples, device)
    everything = Kept(tuple(torch.ones(s.response_length, dtype=torch.bool) for s in samples), 1.0)
    kept = {ratio: keep_share(samples, ratio, paths.TOKEN_RATIO) for ratio in RATIOS}
    rows: list[dict[str, Value]] = []

    def compare(reference: nn.Module, of: Kept, share: str, steps: Mapping[str, tuple[nn.Module, Step]]) -> None:
        paths.naive(reference, batch, samples, of, None)
        expected = _gradients(reference)
        for label, (model, step) in steps.items():
            step()
            rows.append(_row(f"{label}, {share}", _gradients(model), expected))

    language_model = build(shape, device)
    packed, checkpointed = (PackedModel(copy.deepcopy(language_model)) for _ in range(2))
    checkpointed.causal_lm.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    mixin = copy.deepcopy(language_model)
    compare(
        language_model, everything, "100%", {"plain": (packed.model, partial(paths.plain, packed, samples, device))}
    )
    for ratio, of in kept.items():
        step = partial(paths.ours, packed, samples, of, paths.q_tuning(ratio), device)
        reused = partial(paths.reused, packed, samples, of, paths.q_tuning(ratio), device)
        steps: dict[str, tuple[nn.Module, Step]] = {
            "two passes, packed": (packed.model, step),
            "reused graphs": (packed.model, reused),
        }
        if ratio == 0.25:
            again = partial(paths.ours, checkpointed, samples, of, paths.q_tuning(ratio), device)
            steps["bfloat16 scores"] = packed.model, partial(step, torch.bfloat16)
            steps["activation checkpointing"] = checkpointed.model, again
            steps["pool, two forwards"] = packed.model, partial(paths.rebatched, packed, samples, of, device)
            steps["trainer mixin, padded"] = mixin, partial(paths.trained_by_mixin, mixin, batch, of)
        compare(language_model, of, f"{ratio:.1%}", steps)

    lora = adapted(shape, device)
    packed = PackedModel(copy.deepcopy(lora))
    compare(lora, everything, "100%", {"LoRA, plain": (packed.model, partial(paths.plain, packed, samples, device))})
    step = partial(paths.ours, packed, samples, kept[0.25], paths.q_tuning(0.25), device)
    reused = partial(paths.reused, packed, samples, kept[0.25], paths.q_tuning(0.25), device)
    steps = {"LoRA, two passes, packed": (packed.model, step), "LoRA, reused graphs": (packed.model, reused)}
    compare(lora, kept[0.25], "25.0%", steps)
    note = f"{shape}, float32. Reference: one forward of the whole padded batch by transformers, masked mean NLL."
    return [Table("Gradients against the masked loss", rows, (note,))]


def _gradients(model: nn.Module) -> Gradients:
    """Gradients by the parameters' names."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _row(path: str, found: Gradients, expected: Gradients) -> dict[str, Value]:
    assert found.keys() == expected.keys()
    difference = torch.stack([(found[name] - expected[name]).abs().max() for name in expected]).max()
    largest = torch.stack([expected[name].abs().max() for name in expected]).max()
    square = sum((found[name] - expected[name]).double().square().sum() for name in expected)
    norm = sum(expected[name].double().square().sum() for name in expected)
    return {
        "path": path,
        "max |g|": float(largest),
        "max difference / max |g|": Checked(float(difference / largest), LARGEST),
        "norm of difference / norm": Checked(float(torch.as_tensor(square / norm).sqrt()), NORM),
    }
