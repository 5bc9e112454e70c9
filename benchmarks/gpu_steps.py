"""Updates of the training loop at the shapes of real models: seconds, memory, FLOPs, beside limit and plan."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.utils import clip_grad_norm_

from benchmarks import paths
from benchmarks.gpu_setting import GIB, Setting, adapt, build
from benchmarks.gpu_speeds import Speeds
from benchmarks.report import Table, Value
from benchmarks.shapes import keep_share
from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import ConfigFolder
from qtuning.model.batch import pack
from qtuning.model.load import adapt_under_autocast
from qtuning.model.packed import PackedModel
from qtuning.plan.jobs import TrainingJob
from qtuning.plan.lengths import Lengths, assumed
from qtuning.plan.machines import Machine
from qtuning.plan.shapes import BYTES, Shape
from qtuning.pruners.method import method_of
from qtuning.train.accelerator import make_accelerator
from qtuning.train.candidates import CellSamples
from qtuning.train.cost import peak_memory
from qtuning.train.journal import TRACE_SCHEMA
from qtuning.train.step import TrainingLoop

EXPERIMENT = "table6"  # the paper's own measurement of time: full data, and Q-Tuning at three budgets
BATCH = 8
TOO_LARGE = (torch.OutOfMemoryError, UserError)  # the training loop says the second, in words
Tuning = Literal["lora", "full"]
ORDER: tuple[tuple[str, Tuning], ...] = (
    ("135M", "lora"),
    ("7B", "lora"),
    ("1.7B", "lora"),
    ("135M", "full"),
    ("1.7B", "full"),
)


@dataclass(frozen=True)
class Variant:
    """One way to make an update. schedule: of scoring; "" for plain training, `naive` for one padded forward."""

    label: str
    ratio: float
    schedule: str


VARIANTS = (
    Variant("plain", 1.0, ""),
    Variant("naive, 25%", 0.25, "naive"),
    *(Variant(f"fresh, {ratio:.1%}", ratio, "fresh") for ratio in (0.125, 0.25, 0.5)),
    *(Variant(f"reuse, {ratio:.1%}", ratio, "reuse-graph") for ratio in (0.125, 0.25, 0.5)),
)


@dataclass(frozen=True)
class Run:
    """Some updates of one variant; seconds and FLOPs of one update.

    seconds: of scoring and training, by CUDA events on a GPU. wall: by the clock, bookkeeping included. decision: of
    scoring beyond its forward. memory: bytes at the peak. share: tokens that were trained, of all. job: for the plan.
    """

    model: str
    tuning: Tuning
    variant: Variant
    seconds: float
    wall: float
    decision: float
    memory: int
    flops: float
    share: float
    forward: float
    checkpointed: bool
    job: TrainingJob | None

    @property
    def limit(self) -> float:
        """Seconds of F(all) + 3F(kept); of F(all) + 2F(kept) under LoRA, whose base gets no gradient."""
        passes = 2 if self.tuning == "lora" else 3
        scored = 0.0 if self.variant.schedule == "" else 1.0
        return self.forward * (scored + passes * self.share)


def steps(setting: Setting, speeds: Speeds, known: Machine | None, configs: Path) -> tuple[list[Run], list[Table]]:
    """Every shape that fits, in the order of what matters most; what does not fit is noted."""
    runs: list[Run] = []
    tables = []
    accelerator = make_accelerator("bf16", False)
    peak = known.peak["bfloat16"] if known is not None else speeds.products["bfloat16"]
    for name, tuning in ORDER:
        if name not in setting.sizes.shapes:
            continue
        shape, what = setting.sizes.shapes[name], f"updates, {name}, {tuning}"
        size = BYTES["bfloat16"] if tuning == "lora" else 18  # weight, gradient, moments in float32; a bfloat16 copy
        if not setting.holds(what, shape.parameters * size + GIB * (shape.parameters > 1e8)):
            continue
        found = _of_shape(setting, speeds, accelerator, name, shape, tuning, configs)
        runs += found
        if found:
            tables.append(_table(name, tuning, found, peak, setting))
    return runs, tables


def planned(runs: Sequence[Run], machine: Machine) -> Table:
    """Seconds of an update that the plan expects of a card, with what was measured of it, beside the measured ones."""
    rows: list[dict[str, Value]] = []
    for run in runs:
        if run.job is None:
            continue
        job = run.job
        seconds = (job.scoring_seconds(machine) + job.training_seconds(machine)) / job.work.updates
        rows.append(
            {
                "update": f"{run.model}, {run.tuning}, {run.variant.label}",
                "planned ms": 1e3 * float(seconds),
                "measured ms": 1e3 * run.wall,
                "planned / measured": float(seconds) / run.wall,
            }
        )
    return Table(
        "The plan with these numbers", rows, ("One batch of 8 an update; by the clock, bookkeeping included.",)
    )


def samples_of(setting: Setting, vocabulary: int) -> list[Sample]:
    """As long as those of WizardLM are assumed to be (planning.yaml), random tokens."""
    count = BATCH * (setting.sizes.updates + setting.sizes.warmup)
    lengths = assumed(count, 145.0, 330.0, 0.8, 0.6, 2048)
    rng, stretch = torch.Generator().manual_seed(0), setting.sizes.stretch
    samples = []
    for number, (prompt, response) in enumerate(zip(lengths.prompts, lengths.responses, strict=True)):
        before, after = max(2, round(prompt * stretch)), max(2, round(response * stretch))
        samples.append(Sample(number, torch.randint(vocabulary, (before + after,), generator=rng), before))
    return samples


def cell_of(variant: Variant, tuning: Tuning, checkpointing: bool, configs: Path) -> Cell:
    """The paper's cell of that budget, one batch an update, one epoch."""
    for cell in _cells(configs):
        if cell.pruning is not None and cell.training is not None and cell.pruning.sample_ratio == variant.ratio:
            break
    assert cell.pruning is not None and cell.training is not None
    changed: dict[str, Any] = {"tuning": tuning, "epochs": 1, "batch_size": BATCH, "update_samples": BATCH}
    changed |= {"mixed_precision": "bf16", "gradient_checkpointing": checkpointing}
    pruning = cell.pruning
    if variant.schedule in ("fresh", "reuse-graph"):
        scoring = pruning.scoring.model_copy(update={"schedule": variant.schedule})
        pruning = pruning.model_copy(update={"scoring": scoring})
    return cell.model_copy(update={"training": cell.training.model_copy(update=changed), "pruning": pruning})


@cache
def _cells(configs: Path) -> tuple[Cell, ...]:
    (grid,) = ConfigFolder(configs).expand([EXPERIMENT])
    return tuple(grid.cells)


def _of_shape(
    setting: Setting, speeds: Speeds, accelerator: Accelerator, name: str, shape: Shape, tuning: Tuning, configs: Path
) -> list[Run]:
    """All variants on one model; with recomputation if plain training does not fit without it."""
    samples = samples_of(setting, shape.vocabulary)
    tokens = sum(len(sample.tokens) for sample in samples)
    guess = 20 + 3 * shape.forward_flops(tokens, 0.0, tokens) / (0.25 * speeds.products["bfloat16"])
    why = ""
    model: PackedModel | None
    for checkpointing in (False, True):
        runs: list[Run] = []
        if not setting.affords(f"updates, {name}, {tuning}", guess):
            return runs
        try:
            model = _model(setting, shape, cell_of(VARIANTS[0], tuning, checkpointing, configs), checkpointing)
            prepared = accelerator.prepare_model(model, device_placement=False)
            forward = _forward(setting, accelerator, accelerator.unwrap_model(prepared), samples)
            for variant in VARIANTS:
                cell = cell_of(variant, tuning, checkpointing, configs)
                what = f"updates, {name}, {tuning}, {variant.label}"
                if runs and not setting.affords(what, 2 * len(samples) / BATCH * runs[0].wall):
                    continue
                try:
                    runs.append(_run(setting, accelerator, prepared, cell, samples, name, shape, variant, forward))
                except TOO_LARGE as error:
                    if variant is VARIANTS[0]:
                        raise
                    setting.left_out.append(f"{what}: {str(error).splitlines()[0]}")
                setting.free()
        except TOO_LARGE as error:
            why = str(error).splitlines()[0]
        model = prepared = None  # what holds the weights
        setting.free()
        if runs:
            return runs
    setting.left_out.append(f"updates, {name}, {tuning}: with recomputation as well: {why}")
    return []


def _model(setting: Setting, shape: Shape, cell: Cell, checkpointing: bool) -> PackedModel:
    """As `qtuning.train.cell` builds it."""
    language_model: Any = build(shape, setting.device, getattr(torch, cell.dtype)).train()
    if checkpointing:
        language_model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert cell.training is not None
    if cell.training.tuning == "lora":
        if checkpointing:
            language_model.enable_input_require_grads()
        language_model = adapt(language_model, cell.training.lora.r)
    model = PackedModel(language_model).to(setting.device)
    adapt_under_autocast(model)
    return model


def _forward(setting: Setting, accelerator: Accelerator, model: PackedModel, samples: Sequence[Sample]) -> float:
    """F: seconds of scoring one batch, mean over the batches that are timed; without a decision."""
    batches = [pack(samples[start : start + BATCH]) for start in range(0, len(samples), BATCH)]
    on_device = [batch.to(setting.device) for batch in batches if batch is not None]
    with accelerator.autocast():
        return setting.timed(lambda: [model.score(batch) for batch in on_device], 1) / len(on_device)


def _run(
    setting: Setting,
    accelerator: Accelerator,
    prepared: Any,
    cell: Cell,
    samples: list[Sample],
    name: str,
    shape: Shape,
    variant: Variant,
    forward: float,
) -> Run:
    assert cell.training is not None and cell.pruning is not None
    trainable = [weight for weight in prepared.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-5, fused=True)
    if variant.schedule == "naive":
        return _naive(setting, accelerator, prepared, cell, samples, name, variant, forward, optimizer)
    loop = TrainingLoop(cell, method_of(cell.pruning), CellSamples(samples), accelerator, prepared, optimizer)
    windows, warmup = loop.windows_of_epoch(), setting.sizes.warmup
    for window in windows[:warmup]:
        loop.step(window)
    before = asdict(loop.cost)
    traces: list[tuple[Any, ...]] = []

    def all_updates() -> None:
        for window in windows[warmup:]:
            traces.extend(loop.step(window)[1])

    wall, memory = _watched(setting, all_updates)
    spent = {key: value - before[key] for key, value in asdict(loop.cost).items()}
    timed = [position for window in windows[warmup:] for batch in window.batches for position in batch]
    updates, everything = len(windows) - warmup, sum(len(samples[position].tokens) - 1 for position in timed)
    trained = spent["tokens_forwarded"]
    if variant.schedule == "reuse-graph":  # trained through the forward that scored: all tokens of what was kept
        number, kept = (list(TRACE_SCHEMA).index(name) for name in ("sample", "kept"))
        trained = sum(len(samples[row[number]].tokens) - 1 for row in traces if row[kept])
    prompts = np.array([samples[position].prompt for position in timed], dtype=np.float64)
    responses = np.array([samples[position].response_length for position in timed], dtype=np.float64)
    job = TrainingJob(cell, name, EXPERIMENT, False, shape, Lengths(prompts, responses, 1.0, "tokens"), {})
    return Run(
        name,
        cell.training.tuning,
        variant,
        (spent["seconds_scoring"] + spent["seconds_training"]) / updates,
        wall / updates,
        max(0.0, spent["seconds_scoring"] / updates - forward) if variant.schedule == "fresh" else 0.0,
        memory,
        (spent["flops_scoring"] + spent["flops_training"]) / updates,
        trained / everything,
        forward,
        bool(cell.training.gradient_checkpointing),
        job,
    )


def _naive(
    setting: Setting,
    accelerator: Accelerator,
    prepared: Any,
    cell: Cell,
    samples: list[Sample],
    name: str,
    variant: Variant,
    forward: float,
    optimizer: torch.optim.Optimizer,
) -> Run:
    """Q-Tuning as one would write it first: padded, one forward with full logits, masked loss."""
    assert cell.training is not None
    bare: PackedModel = accelerator.unwrap_model(prepared)
    own, method = bare.causal_lm.config._attn_implementation, paths.q_tuning(variant.ratio)
    batches = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
    kept = [keep_share(batch, variant.ratio, paths.TOKEN_RATIO) for batch in batches]
    bare.causal_lm.set_attn_implementation("sdpa")

    def update(index: int) -> float:
        padded = paths.padded(batches[index], setting.device)
        with accelerator.autocast():
            paths.naive(bare.model, padded, batches[index], kept[index], method)
        clip_grad_norm_([weight for weight in bare.parameters() if weight.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return kept[index].share

    try:
        for index in range(setting.sizes.warmup):
            update(index)
        timed = range(setting.sizes.warmup, len(batches))
        wall, memory = _watched(setting, lambda: list(map(update, timed)))
    finally:
        bare.causal_lm.set_attn_implementation(own)
    seconds, share = wall / len(timed), float(np.mean([kept[index].share for index in timed]))
    checkpointed = bool(cell.training.gradient_checkpointing)
    return Run(
        name, cell.training.tuning, variant, seconds, seconds, 0.0, memory, 0.0, share, forward, checkpointed, None
    )


def _watched(setting: Setting, action: Callable[[], object]) -> tuple[float, int]:
    """(seconds by the clock, bytes at the peak)."""
    setting.free()
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setting.device)
    setting.wait()
    started = time.perf_counter()
    action()
    setting.wait()
    return time.perf_counter() - started, peak_memory(setting.device)


def optimizer_seconds(setting: Setting) -> float:
    """Seconds to clip the gradient of the smallest model's adapters and to step AdamW."""
    model = adapt(build(next(iter(setting.sizes.shapes.values())), setting.device, torch.bfloat16))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)
    return setting.timed(lambda: (clip_grad_norm_(weights, 1.0), optimizer.step()))


def _table(name: str, tuning: Tuning, runs: Sequence[Run], peak: float, setting: Setting) -> Table:
    plain = runs[0].seconds
    rows: list[dict[str, Value]] = [
        {
            "update": run.variant.label,
            "ms": 1e3 * run.seconds,
            "by the clock": 1e3 * run.wall,
            "/ plain": run.seconds / plain,
            "/ limit": run.seconds / run.limit,
            "tokens trained": f"{run.share:.1%}",
            "share of peak": run.flops / run.seconds / peak if run.flops else None,
            "peak GiB": run.memory / GIB,
        }
        for run in runs
    ]
    way = "LoRA of rank 8, bfloat16 weights" if tuning == "lora" else "full fine-tuning, float32 weights"
    passes = 2 if tuning == "lora" else 3
    recomputed = ", activations recomputed" if runs[0].checkpointed else ""
    notes = (
        f"{way}, bfloat16 autocast{recomputed}; {setting.sizes.updates} updates of a batch of {BATCH} samples, as long "
        "as WizardLM's are assumed to be. ms: scoring, selection, training, optimizer; by CUDA events on a GPU.",
        f"limit: F (1 + {passes} x tokens trained), F = {1e3 * runs[0].forward:.3g} ms to score a batch; plain: "
        "without the 1; reused graphs may take less.",
        "naive: padded, one forward with full logits, by the clock. Token ratio 50%, naive 70%.",
    )
    return Table(f"Updates, {name}, {'LoRA' if tuning == 'lora' else 'full fine-tuning'}", rows, notes)
