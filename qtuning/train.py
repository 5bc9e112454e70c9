"""Train one cell: `accelerate launch -m qtuning.train --cell CELL.json ...`.

Kill it at any moment; the same command goes on from the last checkpoint to the same final weights (float32 on the
same CPU and thread count: bit for bit). Outputs, below --out, appear whole, the marker train.json last.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from tqdm import tqdm

from qtuning import checkpoint
from qtuning.batch import Sample
from qtuning.config import Cell, Training
from qtuning.cost import peak_memory, shape_of
from qtuning.data.samples import load
from qtuning.errors import UserError
from qtuning.files import atomic_path, exclusive, file_digest, read_json, remove_leftovers, write_json, write_text
from qtuning.identity import cell_id, cell_json
from qtuning.journal import Journal
from qtuning.keeper import Keeper
from qtuning.loop import Loop, Window, plan_windows
from qtuning.models import load_model, load_tokenizer, resolve
from qtuning.packed_model import PackedModel, causal_lm_of, check_decomposition
from qtuning.provenance import provenance
from qtuning.pruners.base import Candidates
from qtuning.pruners.select import method_of
from qtuning.scores import NonFinite
from qtuning.seeding import derived_seed
from qtuning.tracking import Mirror

MARKER = "train.json"
OUTPUTS = ("weights", "weights.sha256", "metrics.jsonl", "trace.parquet", MARKER)
WAIT = timedelta(days=7)  # other processes may wait that long for the first one to get the cell's lock


def train(
    cell: Cell,
    accelerator: Accelerator,
    model_folder: Path,
    samples_folder: Path,
    out: Path,
    state: Path,
    *,
    tracking: str = "auto",
    groups: Sequence[str] = (),
    checkpoint_seconds: float = 60.0,
) -> None:
    """Train `cell` on the prepared model and samples; write OUTPUTS below `out`.

    A diverged cell (non-finite scores, loss or gradient) is a result: it is recorded as such in train.json, without
    weights. UserError for what the user can mend.
    """
    assert cell.training is not None and cell.seeds is not None and cell.pruning is not None
    started = time.perf_counter()
    _check_processes(accelerator, cell.training)
    base, dataset = resolve(model_folder), _load_samples(samples_folder)

    torch.manual_seed(derived_seed(cell.seeds.init, "adapter"))
    language_model = _build(base, cell)
    wrapped = PackedModel(language_model).to(accelerator.device)
    difference = check_decomposition(wrapped, dataset[:64], accelerator.device)
    trainable = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=cell.training.learning_rate, weight_decay=cell.training.weight_decay, fused=True
    )
    identity = {"cell": cell_json(cell), "inputs": _inputs(model_folder, samples_folder)}
    resumed = checkpoint.latest(state, identity)
    if resumed is not None:
        checkpoint.restore(resumed[0], wrapped, optimizer)
    start = 0 if resumed is None else int(resumed[1]["update"])

    method = method_of(cell.pruning, cell.training.optimizer_updates == "matched")
    windows = plan_windows(cell, method, _candidates(dataset))
    shape = shape_of(language_model, cell.training.tuning == "lora", cell.training.gradient_checkpointing)
    model, optimizer = accelerator.prepare(wrapped, optimizer)
    loop = Loop(cell, method, dataset, accelerator, model, optimizer, shape, len(windows))
    if resumed is not None:
        for key, value in resumed[1]["cost"][accelerator.process_index].items():
            setattr(loop.cost, key, value)

    main = accelerator.is_main_process
    if main:
        _print_derived(cell, accelerator, dataset, windows, trainable, start, difference)
    journal = Journal(state, start) if main else None
    keeper = Keeper(accelerator, identity, state, wrapped, optimizer, loop, checkpoint_seconds, started)
    mirror = Mirror.open(
        tracking if main else "disabled",
        cell=cell,
        cell_id=cell_id(cell),
        groups=groups,
        folder=state.parent.parent / "wandb",
    )
    record: dict[str, Any] = {"loss": None}
    reason = None
    try:
        for window in _progress(windows[start:], start, len(windows), main):
            record, trace = loop.step(window)
            loop.cost.peak_memory_bytes = max(loop.cost.peak_memory_bytes, peak_memory(accelerator.device))
            if journal is not None:
                journal.log(record)
                journal.trace(trace)
                mirror.log(record)
            keeper.after(window.update + 1, journal, last=window.update + 1 == len(windows))
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


def _load_samples(folder: Path) -> list[Sample]:
    return [
        Sample(row.sample, torch.as_tensor(row.input_ids, dtype=torch.int64), row.prompt_length) for row in load(folder)
    ]


def _candidates(dataset: Sequence[Sample]) -> Candidates:
    """The whole train set, for pruners that draw by epoch."""
    return Candidates(
        torch.tensor([sample.number for sample in dataset]),
        torch.tensor([sample.response_length for sample in dataset]),
    )


def _inputs(model_folder: Path, samples_folder: Path) -> dict[str, Any]:
    """What a configuration cannot say of its inputs: content of the data, tokenizer, commit or digest of the model."""
    report, model = read_json(samples_folder / "report.json"), read_json(model_folder / "model.json")
    return {key: report.get(key) for key in ("data_fingerprint", "tokenizer_fingerprint")} | {
        f"model_{key}": model.get(key) for key in ("revision", "sha256")
    }


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


def _print_derived(
    cell: Cell,
    accelerator: Accelerator,
    dataset: Sequence[Sample],
    windows: Sequence[Window],
    trainable: Sequence[nn.Parameter],
    start: int,
    difference: float,
) -> None:
    """Every derived quantity once, at the start."""
    assert cell.training is not None and cell.pruning is not None
    t = cell.training
    print(
        f"cell                {cell_id(cell)}\n"
        f"method              {cell.pruning.method} at {cell.pruning.budget} (samples x tokens, per cent)"
        f"{f', {options}' if (options := cell.pruning.sample_options | cell.pruning.token_options) else ''}\n"
        f"samples             {len(dataset)}, {sum(s.response_length for s in dataset)} response tokens an epoch\n"
        f"updates             {len(windows)} = {t.epochs} epochs; selection batch {t.batch_size}, window "
        f"{t.processes} process(es) x {t.accumulation} x {t.batch_size} samples\n"
        f"learning rate       {t.learning_rate:g}, {t.schedule}, warm-up {round(t.warmup * len(windows))} updates\n"
        f"trainable           {sum(p.numel() for p in trainable):,} parameters ({t.tuning}), weights {cell.dtype}, "
        f"autocast {t.mixed_precision}, on {accelerator.device}, {torch.get_num_threads()} thread(s)\n"
        f"packed = own model  within {difference:.1e} nats\n"
        + (f"resumed             at update {start}\n" if start else ""),
        flush=True,
    )


def _progress(windows: Sequence[Window], done: int, total: int, shown: bool) -> Any:
    """A bar on a terminal; in a log file a line every few seconds."""
    to_file = not sys.stderr.isatty()
    return tqdm(
        windows,
        initial=done,
        total=total,
        unit="update",
        disable=not shown,
        mininterval=5.0 if to_file else 0.2,
        ascii=True if to_file else None,
    )


def _sum_costs(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over processes; updates and wall-clock seconds are common to them, so not summed."""
    common = ("updates", "seconds_scoring", "seconds_training", "seconds_total")
    return {
        key: max(cost[key] for cost in costs) if key in common else sum(cost[key] for cost in costs) for key in costs[0]
    }


def is_finished(cell: Cell, model_folder: Path, samples_folder: Path, out: Path) -> bool:
    """Whether `out` holds the whole result of this very cell, trained on these very inputs."""
    if not all((out / name).exists() for name in OUTPUTS):
        return False
    marker = read_json(out / MARKER)
    return bool(marker["cell"] == cell_id(cell) and marker["inputs"] == _inputs(model_folder, samples_folder))


@contextmanager
def _sole_writer(accelerator: Accelerator, state: Path) -> Iterator[None]:
    """One training a cell at a time: a killed launcher may leave its child behind, still writing.

    The first process takes the lock; the others wait until it has it.
    """
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        yield
        return
    with exclusive(state.with_name(f"{state.name}.lock"), f"training {state.name}"):
        accelerator.wait_for_everyone()
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the training process; users type `qtuning train`, which launches this."""
    parser = argparse.ArgumentParser(prog="qtuning.train", description=__doc__)
    parser.add_argument("--cell", type=Path, required=True, help="configuration of the cell")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.json")
    parser.add_argument("--samples", type=Path, required=True, help="folder with samples.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cell")
    parser.add_argument("--state", type=Path, required=True, help="folder of the resume state")
    parser.add_argument("--tracking", default="auto", help="W&B: auto, online, offline or disabled")
    parser.add_argument("--group", action="append", default=[], help="experiment(s) the cell belongs to")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, help="seconds between checkpoints")
    args = parser.parse_args(arguments)
    cell = Cell.model_validate(read_json(args.cell))
    assert cell.training is not None
    accelerator = Accelerator(
        mixed_precision=cell.training.mixed_precision, kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)]
    )
    failure = args.out / "failed.json"
    try:
        with _sole_writer(accelerator, args.state):
            finished = [accelerator.is_main_process and is_finished(cell, args.model, args.samples, args.out)]
            if broadcast_object_list(finished)[0]:
                if accelerator.is_main_process:
                    checkpoint.clear(args.state)  # killed between its marker and the end
                    print(f"{args.out.name}: already done")
                return
            if accelerator.is_main_process:
                failure.unlink(missing_ok=True)
                for folder in (args.out, args.state):
                    remove_leftovers(folder)
            train(
                cell,
                accelerator,
                args.model,
                args.samples,
                args.out,
                args.state,
                tracking=args.tracking,
                groups=args.group,
                checkpoint_seconds=args.checkpoint_seconds,
            )
    except Exception as error:
        if accelerator.is_main_process:
            write_json(failure, {"status": "failed", "reason": f"{type(error).__name__}: {error}"})
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        raise


if __name__ == "__main__":
    main()
