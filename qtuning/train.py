"""Train one cell: `accelerate launch -m qtuning.train --cell CELL.json ...`.

Kill it at any moment; the same command goes on from the last checkpoint to the same final weights (float32 on the
same CPU and thread count: bit for bit). Outputs, below --out, appear whole, the marker train.json last.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from qtuning import checkpoint
from qtuning.batch import Sample
from qtuning.config import Cell, Training
from qtuning.cost import peak_memory, shape_of
from qtuning.data.samples import load
from qtuning.errors import UserError
from qtuning.files import atomic_path, exclusive, read_json, write_json
from qtuning.grid import cell_id, cell_json
from qtuning.journal import Journal
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


def train(
    cell: Cell,
    model_folder: Path,
    samples_folder: Path,
    out: Path,
    state: Path,
    *,
    tracking: str = "auto",
    groups: Sequence[str] = (),
    checkpoint_seconds: float = 60.0,
) -> None:
    """Train `cell` on the prepared model and samples; write weights/, metrics.jsonl, trace.parquet and train.json.

    A finished cell is left alone. A diverged cell (non-finite scores, loss or gradient) is a result: it is recorded as
    such in train.json, without weights.
    """
    assert cell.training is not None and cell.seeds is not None and cell.pruning is not None
    started = time.perf_counter()
    accelerator = Accelerator(mixed_precision=cell.training.mixed_precision)
    _check_processes(accelerator, cell.training)
    base = resolve(model_folder)
    dataset = _load_samples(samples_folder)
    tokenizer = load_tokenizer(base)

    torch.manual_seed(derived_seed(cell.seeds.init, "adapter"))
    language_model = _build(base, cell)
    wrapped = PackedModel(language_model).to(accelerator.device)
    probe = sorted(dataset[:64], key=lambda sample: len(sample.tokens))[:2]
    difference = check_decomposition(wrapped, probe, accelerator.device)

    trainable = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=cell.training.learning_rate, weight_decay=cell.training.weight_decay, fused=True
    )
    resumed = checkpoint.latest(state, cell_json(cell))
    if resumed is not None:
        checkpoint.restore(resumed[0], wrapped, optimizer)
    start = 0 if resumed is None else int(resumed[1]["update"])

    method = method_of(cell.pruning, cell.training.optimizer_updates == "matched")
    everything = Candidates(
        torch.tensor([sample.number for sample in dataset]),
        torch.tensor([sample.response_length for sample in dataset]),
    )
    windows = plan_windows(cell, method, everything)
    shape = shape_of(language_model, cell.training.tuning == "lora", cell.training.gradient_checkpointing)
    model, optimizer = accelerator.prepare(wrapped, optimizer)
    loop = Loop(cell, method, dataset, accelerator, model, optimizer, shape, len(windows))
    if resumed is not None:
        for key, value in resumed[1]["cost"][accelerator.process_index].items():
            setattr(loop.cost, key, value)

    if accelerator.is_main_process:
        _print_derived(cell, accelerator, dataset, windows, trainable, start, difference)
    keeper = _Keeper(accelerator, cell, state, wrapped, optimizer, loop, checkpoint_seconds, started)
    journal = Journal(state, start) if accelerator.is_main_process else None
    mirror = Mirror.open(
        tracking if accelerator.is_main_process else "disabled",
        cell=cell,
        cell_id=cell_id(cell),
        groups=groups,
        folder=state.parent.parent / "wandb",
    )
    reason = None
    try:
        for window in _progress(windows[start:], start, len(windows), accelerator.is_main_process):
            record, trace = loop.step(window)
            if journal is not None:
                journal.log(record)
                journal.trace(trace)
                mirror.log(record)
            keeper.after(window.update + 1, journal, last=window.update + 1 == len(windows))
    except NonFinite as error:
        reason = str(error)

    costs = _gather([loop.cost.summary() | {"peak_memory_bytes": peak_memory(accelerator.device)}])
    if not accelerator.is_main_process or journal is None:
        return
    total = _sum_costs(costs) | {"seconds_total": keeper.elapsed()}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "cell.json", cell.model_dump(mode="json", by_alias=True))
    journal.publish(out / "metrics.jsonl", out / "trace.parquet")
    with atomic_path(out / "weights") as temporary:
        temporary.mkdir()
        if reason is None:
            causal_lm_of(language_model).config.use_cache = True  # off for training only; generation wants it
            language_model.save_pretrained(temporary)  # type: ignore[operator]
            tokenizer.save_pretrained(temporary)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    marker = {
        "cell": cell_id(cell),
        "status": "done" if reason is None else "diverged",
        "reason": reason,
        "updates": len(lines),
        "loss": json.loads(lines[-1])["loss"] if lines else None,
        "cost": total,
        "provenance": provenance()
        | {"device": str(accelerator.device), "processes": accelerator.num_processes}
        | {"data": read_json(samples_folder / "report.json").get("data_fingerprint")},
    }
    write_json(out / MARKER, marker)
    mirror.summary({key: value for key, value in marker.items() if key in ("status", "updates", "loss", "cost")})
    mirror.finish()
    checkpoint.clear(state)
    print(f"{cell_id(cell)}: {marker['status']} after {len(lines)} updates" + (f": {reason}" if reason else ""))


class _Keeper:
    """Decides when to checkpoint: every so many seconds, and at once when asked to stop (SIGTERM)."""

    def __init__(
        self,
        accelerator: Accelerator,
        cell: Cell,
        state: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loop: Loop,
        seconds: float,
        started: float,
    ) -> None:
        self._accelerator, self._cell, self._state = accelerator, cell, state
        self._model, self._optimizer, self._loop = model, optimizer, loop
        self._seconds, self._started, self._saved = seconds, started, time.perf_counter()
        self._before = loop.cost.seconds_total
        self._stop = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True

    def elapsed(self) -> float:
        """Seconds spent on the cell, over all attempts."""
        return self._before + time.perf_counter() - self._started

    def after(self, update: int, journal: Journal | None, last: bool) -> None:
        """Called after each update, on every process: all must agree on what happens."""
        due = time.perf_counter() - self._saved >= self._seconds
        wanted = torch.tensor([float(due), float(self._stop)], device=self._accelerator.device)
        if self._accelerator.num_processes > 1:
            wanted = self._accelerator.reduce(wanted, reduction="sum")  # type: ignore[assignment]
        if last or not bool(wanted.any()):
            return
        self._loop.cost.seconds_total = self.elapsed()
        costs = _gather([vars(self._loop.cost)])
        if journal is not None:
            journal.checkpoint(update)
            tensors = checkpoint.training_tensors(self._model, self._optimizer)
            checkpoint.save(self._state, update, tensors, {"cell": cell_json(self._cell), "cost": costs})
        self._saved = time.perf_counter()
        if bool(wanted[1]):
            print(f"stopped after update {update} as asked; the same command goes on from here", file=sys.stderr)
            raise SystemExit(128 + signal.SIGTERM)


def _build(base: Path, cell: Cell) -> nn.Module:
    """The base model, wrapped in LoRA if the cell asks for it."""
    assert cell.training is not None
    model = load_model(base, cell.model.dtype)
    if cell.training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
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
    return get_peft_model(model, config)  # type: ignore[return-value]


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
        f"method              {cell.pruning.method} at {cell.pruning.budget} (samples x tokens, per cent)\n"
        f"samples             {len(dataset)}, {sum(s.response_length for s in dataset)} response tokens an epoch\n"
        f"updates             {len(windows)} = {t.epochs} epochs; selection batch {t.batch_size}, window "
        f"{t.processes} process(es) x {t.accumulation} x {t.batch_size} samples\n"
        f"learning rate       {t.learning_rate:g}, {t.schedule}, warm-up {round(t.warmup * len(windows))} updates\n"
        f"trainable           {sum(p.numel() for p in trainable):,} parameters ({t.tuning}), weights "
        f"{cell.model.dtype}, autocast {t.mixed_precision}, on {accelerator.device}, {torch.get_num_threads()} "
        "thread(s)\n"
        f"packed = own model  within {difference:.1e} nats\n"
        + (f"resumed             at update {start}\n" if start else ""),
        flush=True,
    )


def _progress(windows: Sequence[Window], done: int, total: int, shown: bool) -> Any:
    """A bar on a terminal; in a log file a line about every tenth."""
    to_file = not sys.stderr.isatty()
    return tqdm(
        windows,
        initial=done,
        total=total,
        unit="update",
        disable=not shown,
        mininterval=5.0 if to_file else 0.2,
        miniters=max(1, total // 10) if to_file else None,
        ascii=True if to_file else None,
    )


def _gather(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from accelerate.utils import gather_object

    return gather_object(values)  # type: ignore[no-any-return]


def _sum_costs(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over processes; updates and wall-clock seconds are common to them, so not summed."""
    common = ("updates", "seconds_scoring", "seconds_training", "seconds_total")
    return {
        key: max(cost[key] for cost in costs) if key in common else sum(cost[key] for cost in costs) for key in costs[0]
    }


def is_finished(cell: Cell, out: Path) -> bool:
    """Whether `out` holds the whole result of this very cell."""
    marker = out / MARKER
    whole = all((out / name).exists() for name in ("weights", "metrics.jsonl", "trace.parquet", MARKER))
    return whole and read_json(marker)["cell"] == cell_id(cell)


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _sole_writer(state: Path) -> AbstractContextManager[None]:
    """One training a cell at a time: a killed launcher may leave its child behind, still writing."""
    if not _is_main():
        return nullcontext()
    return exclusive(state.with_name(f"{state.name}.lock"), f"training {state.name}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the training process; users type `qtuning train`, which launches this."""
    parser = argparse.ArgumentParser(prog="qtuning.train", description=__doc__)
    parser.add_argument("--cell", type=Path, required=True, help="cell.json")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.json")
    parser.add_argument("--samples", type=Path, required=True, help="folder with samples.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cell")
    parser.add_argument("--state", type=Path, required=True, help="folder of the resume state")
    parser.add_argument("--tracking", default="auto", help="W&B: auto, online, offline or disabled")
    parser.add_argument("--group", action="append", default=[], help="experiment(s) the cell belongs to")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, help="seconds between checkpoints")
    args = parser.parse_args(arguments)
    cell = Cell.model_validate(read_json(args.cell))
    failure = args.out / "failed.json"
    try:
        with _sole_writer(args.state):
            if is_finished(cell, args.out):
                checkpoint.clear(args.state)  # killed between its marker and the end
                print(f"{args.out.name}: already done")
                return
            failure.unlink(missing_ok=True)
            train(
                cell,
                args.model,
                args.samples,
                args.out,
                args.state,
                tracking=args.tracking,
                groups=args.group,
                checkpoint_seconds=args.checkpoint_seconds,
            )
    except Exception as error:
        if _is_main():
            write_json(failure, {"status": "failed", "reason": f"{type(error).__name__}: {error}"})
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        raise


if __name__ == "__main__":
    main()
