"""The process that trains one cell, alone or beside others that launch.py starts: `python -m qtuning.train ...`.

Here are its arguments, the lock of the cell and the exit. The training itself is in cell.py.
"""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from qtuning.errors import UserError, one_line, storage_problem
from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import AUXILIARY
from qtuning.files import read_json, remove_leftovers, write_json
from qtuning.locks import exclusive
from qtuning.model.out_of_memory import OutOfMemory, is_out_of_memory
from qtuning.train import checkpoint
from qtuning.train.accelerator import make_accelerator
from qtuning.train.cell import CellFolders, is_finished, is_of_inputs, train
from qtuning.train.exchange import LOCK_WAIT, gather_objects, wait_for_everyone
from qtuning.train.launch import TOO_LARGE
from qtuning.train.wanted import has_used
from qtuning.warm.owner import end_with_owner


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the training process; users type `qtuning train`, which launches this."""
    parser = argparse.ArgumentParser(prog="qtuning.train", description=__doc__)
    parser.add_argument("--cell", type=Path, required=True, help="configuration of the cell")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.json")
    parser.add_argument("--samples", type=Path, required=True, help="folder with samples.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cell")
    parser.add_argument("--state", type=Path, required=True, help="folder of the resume state")
    for role in AUXILIARY:
        parser.add_argument(f"--{role}", type=Path, help=f"folder with the model.json of the cell's {role} model")
    parser.add_argument(
        "--trained-reference",
        type=Path,
        action="append",
        default=[],
        help="folder of a cell whose weights this one needs, in the order of references_of",
    )
    parser.add_argument("--influence", type=Path, help="folder of the measured influence (LESS)")
    parser.add_argument("--tracking", default="auto", help="auto, online, offline, disabled, trackio or tensorboard")
    parser.add_argument("--group", action="append", default=[], help="experiment(s) the cell belongs to")
    parser.add_argument("--variant", default="", help="what tells it from others of its method and budget")
    parser.add_argument("--observe", action="store_true", help="watch fixed samples, record masks of tokens")
    parser.add_argument("--measure", action="store_true", help="from the start, for time and memory alone")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, help="seconds between checkpoints")
    parser.add_argument("--shard", action="store_true", help="each process holds a slice of the model (FSDP)")
    parser.add_argument("--recompute", action="store_true", help="activations in the backward pass")
    parser.add_argument("--reuse", action="store_true", help="graphs of scoring, where the schedule is auto")
    args = parser.parse_args(arguments)
    cell = Cell.model_validate(read_json(args.cell))
    assert cell.training is not None
    accelerator = make_accelerator(cell.training.mixed_precision, args.shard)
    auxiliary = {role: getattr(args, role) for role in AUXILIARY if getattr(args, role) is not None}
    trained = tuple(args.trained_reference)
    folders = CellFolders(
        args.model,
        args.samples,
        args.out,
        args.state,
        auxiliary,
        trained,
        args.influence,
        observe=args.observe,
        measure=args.measure,
    )
    failure, first = args.out / "failed.json", accelerator.is_main_process
    # one training of a cell at a time: a killed launcher may leave its child behind, still writing
    lock = exclusive(folders.lock, f"training {args.state.name}")
    try:
        with lock if first else nullcontext():
            wait_for_everyone(LOCK_WAIT)  # until the first process has the lock
            if gather_objects([first and is_finished(cell, folders)])[0]:
                if first:
                    _say_used(folders)
                    checkpoint.clear(args.state)  # left by a kill after the marker was written
                    print(f"{args.out.name}: already done")
                return
            if first:
                failure.unlink(missing_ok=True)
                marker = args.out / folders.outputs[-1]
                if marker.exists() and not is_of_inputs(cell, folders):
                    marker.unlink()  # its data may come back while other outputs are of the data that there is now
                # others write to the cell's folder at this time: evaluations, probes, the training beside a measurement
                remove_leftovers(args.out, {name.partition("/")[0] for name in folders.outputs})
                remove_leftovers(args.state)
                if args.measure:  # a measurement in two halves would be none
                    checkpoint.clear(args.state)
            train(
                cell, accelerator, folders, args.tracking, args.group, args.checkpoint_seconds, args.shard,
                recompute=args.recompute, reuse=args.reuse, variant=args.variant,
            )  # fmt: skip
            if first:
                _say_used(folders)
    except Exception as raised:
        small = is_out_of_memory(raised)
        error = _too_large(raised, args.recompute, cell) if small else storage_problem(raised) or raised
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
        if first:
            _note(failure, {"status": "failed", "reason": f"{type(error).__name__}: {error}"})
            if isinstance(error, OutOfMemory) and _recomputes_next(error, args.recompute, cell):
                _note(args.state / TOO_LARGE, {"reason": error.what})
        if isinstance(error, UserError):
            sys.exit(2)
        raise


def _say_used(folders: CellFolders) -> None:
    """Say that this cell needs the weights of its references no more (wanted.py)."""
    for reference in folders.references:
        has_used(folders.out.parent.parent, reference.name, folders.out / folders.outputs[-1])


def _note(path: Path, what: dict[str, str]) -> None:
    """Write down a failure. If that fails, too (the disk is full), say so after the cause, which is told anyway."""
    try:
        write_json(path, what)
    except (UserError, OSError) as error:
        print(f"not noted in {path.name}: {error}", file=sys.stderr)


def _too_large(error: Exception, recomputed: bool, cell: Cell) -> OutOfMemory:
    """What to tell of too little memory."""
    if not isinstance(error, OutOfMemory):
        error = OutOfMemory(f"out of memory ({one_line(error)})", "lower training.batch_size or training.cutoff")
    if not _recomputes_next(error, recomputed, cell):
        return error
    return OutOfMemory(error.what, "the same command goes on from the last checkpoint, with activations recomputed")


def _recomputes_next(error: OutOfMemory, recomputed: bool, cell: Cell) -> bool:
    """Whether activations, which were kept, are recomputed from the next start on.

    Not if the model itself did not fit, where there were none.
    """
    assert cell.training is not None
    return not (cell.training.gradient_checkpointing or recomputed or error.phase == "loading")


def run_as_worker(main: Callable[[], None]) -> NoReturn:
    """Run `main` in a process that a launcher started beside others, then exit without tearing Python down.

    After DDP, threads of a gloo process group outlive `destroy_process_group`. A thread that frees a tensor during the
    interpreter's teardown aborts the process ("terminate called without an active exception", pytorch/pytorch#179291),
    and a finished training would count as failed. At this point everything is written and W&B runs are closed. If
    `main` raises, the process ends as usual.
    """
    from torch import distributed

    main()
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    if sys.platform == "linux":  # the launcher holds the lease of our GPU: if it dies, the kernel shall end us, too
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    end_with_owner()
    run_as_worker(main)
