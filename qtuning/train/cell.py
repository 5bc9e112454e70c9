"""Train one cell.

Kill it at any moment; the same command goes on from the last checkpoint to the same final weights (float32 on the
same CPU and thread count: bit for bit). Outputs, below --out, appear whole, the marker train.json last.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from qtuning.data.samples import Sample, load_samples
from qtuning.data.tokenise import load_tokenizer
from qtuning.errors import UserError
from qtuning.experiment.names import cell_id, cell_json
from qtuning.experiment.schema import Cell, Training
from qtuning.files import atomic_path, file_digest, read_json, write_json, write_text
from qtuning.model.load import load_model, model_path
from qtuning.model.packed import PackedModel, causal_lm_of, check_packed_forward
from qtuning.provenance import provenance
from qtuning.pruners.base import Instructions
from qtuning.pruners.method import method_of
from qtuning.scoring.scores import SCORES, NonFinite
from qtuning.train import checkpoint
from qtuning.train.console import print_derived, progress, warn
from qtuning.train.cost import Cost, peak_memory, shape_of
from qtuning.train.diagnosis import Diagnosis
from qtuning.train.helpers import scores_under
from qtuning.train.journal import Journal
from qtuning.train.keeper import Keeper
from qtuning.train.loop import Loop
from qtuning.train.seeding import derived_seed
from qtuning.train.survey import TrainSet
from qtuning.train.tracking import Mirror

MARKER = "train.json"
OUTPUTS = ("weights", "weights.sha256", "metrics.jsonl", "trace.parquet", MARKER)


def train(
    cell: Cell,
    accelerator: Accelerator,
    model_folder: Path,
    samples_folder: Path,
    out: Path,
    state: Path,
    *,
    helper_folders: Mapping[str, Path] | None = None,
    tracking: str = "auto",
    groups: Sequence[str] = (),
    checkpoint_seconds: float = 60.0,
) -> None:
    """Train `cell` on the prepared model and samples (and reference or proxy model); write OUTPUTS below `out`.

    A diverged cell (non-finite scores, loss or gradient) is a result: it is recorded as such in train.json, without
    weights. UserError for what the user can mend.
    """
    assert cell.training is not None and cell.seeds is not None and cell.pruning is not None
    helper_folders = helper_folders or {}
    started = time.perf_counter()
    _check_processes(accelerator, cell.training)
    base = model_path(model_folder)
    dataset, instructions = _load_samples(samples_folder)
    method = method_of(cell.pruning)

    torch.manual_seed(derived_seed(cell.seeds.init, "adapter"))
    language_model = _build(base, cell)
    wrapped = PackedModel(language_model).to(accelerator.device)
    difference = check_packed_forward(wrapped, dataset[:64], accelerator.device)
    if "attention" in method.batch_needs | method.epoch_needs:
        wrapped.collector(method.layer, (), stop=True)  # a layer that the model does not have is refused here
    trainable = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=cell.training.learning_rate, weight_decay=cell.training.weight_decay, fused=True
    )
    identity = {"cell": cell_json(cell), "inputs": _inputs(model_folder, samples_folder, helper_folders)}
    resumed = checkpoint.latest(state, identity)
    if resumed is not None:
        checkpoint.restore(resumed[0], wrapped, optimizer)

    shape = shape_of(language_model, cell.training.tuning == "lora", cell.training.gradient_checkpointing)
    model, optimizer = accelerator.prepare(wrapped, optimizer)
    needs = method.batch_needs | method.epoch_needs
    reference, table, spent = None, None, Cost()
    if "reference" in needs:
        scores, cost = scores_under(
            "reference", helper_folders.get("reference"), samples_folder, dataset, {"scores"}, accelerator, cell
        )
        reference = scores.nll.split(scores.lengths.tolist())
        spent.add(cost)
    if cell.pruning.scoring.schedule == "proxy" and SCORES & needs:  # at 100% nothing is asked for
        table, cost = scores_under(
            "proxy", helper_folders.get("proxy"), samples_folder, dataset, needs, accelerator, cell
        )
        spent.add(cost)
    train_set = TrainSet(dataset, instructions, reference)
    loop = Loop(cell, method, train_set, accelerator, model, optimizer, shape)
    loop.cost.add(spent)
    loop.surveyor.table = table
    if resumed is not None:
        loop.restore(*resumed)
    start = loop.place.update

    main = accelerator.is_main_process
    if main:
        print_derived(cell, accelerator, dataset, loop.expected_updates, trainable, start, difference)
    journal = Journal(state, start) if main else None
    keeper = Keeper(accelerator, identity, state, wrapped, optimizer, loop, checkpoint_seconds, started)
    mirror = Mirror.open(
        tracking if main else "disabled",
        cell=cell,
        cell_id=cell_id(cell),
        groups=groups,
        folder=state.parent.parent / "wandb",
    )
    diagnosis = Diagnosis(cell.pruning, len(dataset), sum(sample.response_length for sample in dataset))
    for earlier in journal.records() if journal is not None else []:
        diagnosis.feed(earlier)
    record: dict[str, Any] = {"loss": None}
    reason = None
    try:
        for window in progress(loop, main):
            record, trace = loop.step(window)
            loop.cost.peak_memory_bytes = max(loop.cost.peak_memory_bytes, peak_memory(accelerator.device))
            if journal is not None:
                journal.log(record)
                journal.trace(trace)
                mirror.log(record)
                diagnosis.feed(record)
                if window.index + 1 == window.count:
                    warn(diagnosis.news())
            keeper.after(window.update + 1, journal, last=loop.place.epoch == cell.training.epochs)
    except NonFinite as error:
        reason = str(error)

    costs = gather_object([loop.cost.summary()])
    if journal is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "cell.json", cell_json(cell) + "\n")
    journal.publish(out / "metrics.jsonl", out / "trace.parquet")
    _write_weights(out, base, None if reason else language_model)
    marker = {
        "cell": cell_id(cell),
        "status": "done" if reason is None else "diverged",
        "reason": reason,
        "updates": loop.cost.updates,
        "loss": record["loss"],
        "selection": diagnosis.summary(),
        "warnings": list(diagnosis.warnings().values()),
        "cost": _sum_costs(costs) | {"seconds_total": keeper.elapsed()},
        "inputs": identity["inputs"],
        "provenance": provenance() | {"device": str(accelerator.device), "processes": accelerator.num_processes},
    }
    write_json(out / MARKER, marker)
    mirror.summary({key: marker[key] for key in ("status", "updates", "loss", "cost")})
    mirror.finish()
    checkpoint.clear(state)
    print(f"{cell_id(cell)}: {marker['status']} after {marker['updates']} updates" + (f": {reason}" if reason else ""))


def _build(base: Path, cell: Cell) -> nn.Module:
    """The base model, wrapped in LoRA if the cell asks for it."""
    assert cell.training is not None and cell.dtype is not None
    model = load_model(base, cell.dtype)
    if cell.training.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if cell.training.tuning == "full":
        return model
    from peft import LoraConfig, get_peft_model

    lora, targets = cell.training.lora, cell.model.lora_targets
    if cell.training.gradient_checkpointing:
        model.enable_input_require_grads()
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if targets == "all-linear" else list(targets),
    )
    adapted = get_peft_model(model, config)
    if hasattr(causal_lm_of(adapted).get_output_embeddings(), "base_layer"):
        # the chunked head uses the weight itself, so an adapter around it would never get a gradient
        raise UserError(f"lora_targets = {targets!r}: the output head cannot carry an adapter; leave it out")
    return adapted  # type: ignore[return-value]


def _check_processes(accelerator: Accelerator, training: Training) -> None:
    """Two processes that each believe they are alone would both train and both write."""
    if accelerator.num_processes != training.processes:
        raise UserError(
            f"training.processes = {training.processes}, but accelerate started {accelerator.num_processes}; "
            "make the accelerate config and the experiment agree (the number of processes is part of the cell)"
        )
    if str(accelerator.distributed_type).endswith(("FSDP", "DEEPSPEED")):
        raise UserError(f"{accelerator.distributed_type} is not supported: use one process, or DDP (MULTI_GPU)")


def _load_samples(folder: Path) -> tuple[list[Sample], Instructions]:
    stored = load_samples(folder)
    texts = Instructions(torch.as_tensor(stored.instruction_characters), torch.as_tensor(stored.instruction_entropy))
    return stored.samples, texts


def _inputs(model_folder: Path, samples_folder: Path, helper_folders: Mapping[str, Path]) -> dict[str, Any]:
    """What a configuration cannot say of its inputs: content of the data, tokenizer, commits or digests of models."""
    report = read_json(samples_folder / "report.json")
    inputs = {key: report.get(key) for key in ("data_fingerprint", "tokenizer_fingerprint")}
    for name, folder in {"model": model_folder, **helper_folders}.items():
        marker = read_json(folder / "model.json")
        inputs |= {f"{name}_{key}": marker.get(key) for key in ("revision", "sha256")}
    return inputs


def _write_weights(out: Path, base: Path, model: nn.Module | None) -> None:
    """weights/ (empty for None, a diverged cell) and weights.sha256, whose content stays when training is repeated."""
    with atomic_path(out / "weights") as temporary:
        temporary.mkdir()
        if model is not None:
            causal_lm_of(model).config.use_cache = True  # off for training only; generation wants it
            model.save_pretrained(temporary)  # type: ignore[operator]
            load_tokenizer(base).save_pretrained(temporary)
    digests = [f"{file_digest(path)}  {path.name}\n" for path in sorted((out / "weights").glob("*.safetensors"))]
    write_text(out / "weights.sha256", "".join(digests))


def _sum_costs(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over processes; updates and wall-clock seconds are common to them, so not summed."""
    common = ("updates", "updates_skipped", "seconds_scoring", "seconds_training", "seconds_total")
    return {
        key: max(cost[key] for cost in costs) if key in common else sum(cost[key] for cost in costs) for key in costs[0]
    }


def is_finished(
    cell: Cell, model_folder: Path, samples_folder: Path, out: Path, helper_folders: Mapping[str, Path]
) -> bool:
    """Whether `out` holds the whole result of this very cell, trained on these very inputs."""
    if not all((out / name).exists() for name in OUTPUTS):
        return False
    marker = read_json(out / MARKER)
    inputs = _inputs(model_folder, samples_folder, helper_folders)
    return bool(marker["cell"] == cell_id(cell) and marker["inputs"] == inputs)
