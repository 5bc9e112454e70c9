"""LESS (Xia et al., ICML 2024, arXiv 2402.04333): the influence of training on each sample on few-shot target examples.

For the checkpoints i after the epochs of a LoRA warm-up, whose mean learning rate is eta_i,

    influence(z, target) = sum_i eta_i mean over z' in target of cos(R^T grad l(z'; theta_i), R^T Gamma(z; theta_i))

where l is the mean token NLL of a response, Gamma the direction of Adam with the checkpoint's moments (gradients.py),
and R a random projection. Weight decay and gradient clipping are left out of Gamma, as in the paper. The pruner `less`
takes the largest over the targets.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from qtuning.data.samples import Sample, load_samples
from qtuning.data.sources import local_folder
from qtuning.data.targets import target_examples
from qtuning.data.tokenise import load_tokenizer
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.finished import marker_of
from qtuning.experiment.ids import ResultPaths
from qtuning.experiment.influence import Measurement
from qtuning.files import atomic_path, file_digest, read_json
from qtuning.manifest import check_files, read_sealed, write_sealed
from qtuning.model.flops import GRADIENT_TOKENS
from qtuning.model.load import adapt_under_autocast, load_model, verified_model
from qtuning.model.packed import PackedModel
from qtuning.progress import Reporter, beside
from qtuning.provenance import provenance
from qtuning.train.accelerator import make_accelerator
from qtuning.train.cost import Cost, shape_of
from qtuning.train.epochs import EPOCH, MOMENTS
from qtuning.train.gradients import SampleGradients, adam_direction, project
from qtuning.train.inputs import read_measured_inputs
from qtuning.train.references import weights_of

VALUES, MARKER = "influence.parquet", "influence.json"
HELD = 2**31  # bytes of gradients that are projected together; the signs are made anew each time


@dataclass
class _Spent:
    """FLOPs, and tokens that went through the model forward and backward."""

    tokens: int = 0
    flops: float = 0.0


def measure_influence(measurement: Measurement, paths: ResultPaths, data_dir: Path | None) -> Path:
    """Write influence.parquet and, last, influence.json into the measurement's folder; returns the folder.

    influence.parquet: a row a sample, `sample` and a float64 column for each target. influence.json: what it was made
    from, and its cost. Nothing to do if they are of these very inputs. Killed, it starts anew and gives the same bits.
    UserError if the warm-up is not there or has diverged, or if a target has no train split.
    """
    import polars

    started, warmup, asked = time.perf_counter(), measurement.warmup, measurement.influence
    assert warmup.training is not None and asked.source is not None
    out, weights = paths.influence(measurement.identity), weights_of(paths.cell(warmup), "warm-up")
    inputs = read_measured_inputs(measurement, paths, data_dir)
    if _is_measured(out, inputs):
        return out
    base, accelerator = verified_model(paths.model(warmup)), make_accelerator(warmup.training.mixed_precision)
    samples, tokenizer = load_samples(paths.samples(warmup)).samples, load_tokenizer(base)
    folder = local_folder(asked.source, data_dir)
    targets = {
        name: target_examples(
            name,
            folder,
            asked.examples,
            asked.seed,
            tokenizer,
            warmup.model.template,
            warmup.training.cutoff,
            paths.hub,
        )
        for name in asked.targets
    }
    examples = [
        Sample(place, torch.tensor(example.tokens), example.prompt)
        for target in targets.values()
        for place, example in target.items()
    ]
    trained = marker_of(paths.cell(warmup))
    recompute = warmup.training.gradient_checkpointing or trained.get("decided", {}).get(
        "gradient_checkpointing", False
    )
    total, spent = torch.zeros(len(samples), len(targets), dtype=torch.float64), _Spent()
    steps = asked.epochs * (len(samples) + len(examples))
    with Reporter(beside(paths.lock(measurement.identity))) as reporter, reporter.doing("gradient", steps):
        for epoch in range(1, asked.epochs + 1):
            checkpoint = weights / f"epoch-{epoch}"
            model = _adapted(base, warmup, checkpoint, recompute).to(accelerator.device)
            gradients = SampleGradients(model)
            moments = _moments(checkpoint, gradients, accelerator.device)
            rate = read_json(checkpoint / EPOCH)["learning_rate"]
            found = [*_features(gradients, examples, None, measurement, accelerator, spent, reporter)]
            wanted = normalize(torch.cat([part for _, part in found]), dim=1)
            for chosen, part in _features(gradients, samples, moments, measurement, accelerator, spent, reporter):
                cosines = (normalize(part, dim=1) @ wanted.T).double().cpu()
                means = cosines.reshape(len(part), len(targets), asked.examples).mean(dim=2)
                total[torch.tensor(chosen)] += rate * means
    columns = {"sample": [sample.number for sample in samples]}
    columns |= {name: total[:, column].tolist() for column, name in enumerate(targets)}
    with atomic_path(out / VALUES) as temporary:
        polars.DataFrame(columns).write_parquet(temporary)
    marker: dict[str, Any] = {
        "measurement": measurement.model_dump(mode="json", by_alias=True),
        "targets": {name: list(target) for name, target in targets.items()},
        "sha256": file_digest(out / VALUES),
        "inputs": inputs,
        "cost": {
            "tokens": spent.tokens,
            "flops": spent.flops,
            "seconds": time.perf_counter() - started,
            "warmup_flops": trained["cost"]["flops_total"],
            "warmup_seconds": trained["cost"]["seconds_total"],
        },
        "provenance": provenance() | {"device": str(accelerator.device)},
    }
    write_sealed(out / MARKER, marker)
    return out


def _is_measured(out: Path, inputs: dict[str, Any]) -> bool:
    """Whether `out` holds a whole measurement of these very inputs."""
    if not (out / VALUES).is_file() or not (out / MARKER).is_file():
        return False
    try:
        found = read_sealed(out / MARKER, "measuring again")
        check_files(out, {VALUES: found["sha256"]}, "measuring again")
    except UserError as error:
        print(error, file=sys.stderr)
        return False
    return bool(found.get("inputs") == inputs)


def load_influence(folder: Path, samples: Sequence[Sample]) -> Tensor:
    """[n, G] float64: what `measure_influence` found for the samples. UserError if it measured others."""
    import polars

    if not (folder / MARKER).is_file():
        raise UserError(f"{folder}: influence is not measured; run `qtuning influence` first (the workflow does)")
    again = f"delete {folder} and measure again"
    check_files(folder, {VALUES: read_sealed(folder / MARKER, again)["sha256"]}, again)
    table = polars.read_parquet(folder / VALUES)
    if table["sample"].to_list() != [sample.number for sample in samples]:
        raise UserError(f"{folder}: measured on other samples than the train set's; delete it and measure again")
    return torch.from_numpy(table.drop("sample").to_numpy(writable=True))


def influence_cost(folder: Path | None) -> Cost:
    """What a measurement took, in full, though all cells of a train set share it; nothing without one.

    Gradients and warm-up are accounted for as references: like these, they are no part of the cell's own seconds.
    """
    if folder is None:
        return Cost()
    cost = read_sealed(folder / MARKER, f"delete {folder} and measure again")["cost"]
    return Cost(
        flops_references=cost["flops"] + cost["warmup_flops"],
        seconds_references=cost["seconds"] + cost["warmup_seconds"],
    )


def _features(
    gradients: SampleGradients,
    samples: Sequence[Sample],
    moments: tuple[Tensor, Tensor, int] | None,
    measurement: Measurement,
    accelerator: Accelerator,
    spent: _Spent,
    reporter: Reporter,
) -> Iterator[tuple[list[int], Tensor]]:
    """(positions, [b, D] projected gradients) of some samples at a time; Adam's directions if moments are given.

    UserError if a gradient is not finite.
    """
    asked, shape = measurement.influence, shape_of(gradients.model.model, frozen=True, checkpointing=False)
    held: list[Tensor] = []
    chosen: list[int] = []
    batches = _batches(samples)
    for batch in batches:
        with accelerator.autocast():
            found, positions = gradients.of([samples[position] for position in batch], accelerator.device)
        if not bool(torch.isfinite(found).all()):
            raise UserError(f"influence: gradients of the samples {batch} are not finite: the warm-up has diverged")
        held.append(found if moments is None else adam_direction(found, *moments))
        chosen += batch
        spent.tokens += positions.tokens  # type: ignore[assignment]
        spent.flops += shape.training_flops(positions)
        if batch is batches[-1] or 4 * gradients.size * len(chosen) >= HELD:
            spent.flops += 2.0 * len(chosen) * gradients.size * asked.dimension
            yield chosen, project(torch.cat(held), asked.dimension, asked.seed)
            reporter.advance(len(chosen))
            held, chosen = [], []


def _batches(samples: Sequence[Sample]) -> list[list[int]]:
    """Positions of all samples in order, as many together as fit into GRADIENT_TOKENS, at least one."""
    batches: list[list[int]] = []
    tokens = GRADIENT_TOKENS
    for position, sample in enumerate(samples):
        tokens += len(sample.tokens)
        if tokens > GRADIENT_TOKENS:
            batches.append([])
            tokens = len(sample.tokens)
        batches[-1].append(position)
    return batches


def _adapted(base: Path, warmup: Cell, checkpoint: Path, recompute: bool) -> PackedModel:
    """The base model with the adapter of an epoch, trainable, and in the arithmetic of the warm-up."""
    from peft import PeftModel

    assert warmup.training is not None
    model: Any = load_model(base, warmup.dtype, quantization=warmup.training.quantization)
    if recompute:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    adapted = PackedModel(PeftModel.from_pretrained(model, str(checkpoint), is_trainable=True))
    if warmup.training.mixed_precision == "bf16":
        adapt_under_autocast(adapted)
    return adapted


def _moments(checkpoint: Path, gradients: SampleGradients, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """(m, v, updates) of Adam after an epoch, flat and in the order of the gradients."""
    saved = load_file(checkpoint / MOMENTS)
    flat = [
        torch.cat([saved[f"optimizer.{key}.{name}"].flatten() for name in gradients.names]).float().to(device)
        for key in ("exp_avg", "exp_avg_sq")
    ]
    return flat[0], flat[1], int(saved[f"optimizer.step.{gradients.names[0]}"])
