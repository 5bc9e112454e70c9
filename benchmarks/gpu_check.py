"""`make gpu-check`: what one GPU does, in a quarter of an hour; writes docs/benchmarks/gpu.md and what `plan` assumes.

Kernels chosen, exactness against the CPU, speeds, updates at the shapes of 135M, 1.7B and 7B models with random weights
(nothing is fetched), and DDP and FSDP where there are two. Every part asks first whether its time and memory are there;
the page says what was left out. Exit status 1: a part failed or a result is not exact; 2: there is no GPU.

`--device cpu --quick --out FOLDER` goes the same way on a CPU: that it runs is shown, and its numbers mean nothing.
"""

import argparse
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu_speeds import Speeds
    from benchmarks.gpu_steps import Run
    from qtuning.plan.machines import Machine, Measured

REPOSITORY = Path(__file__).parent.parent
NAME = "gpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to see that it runs")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: its numbers mean nothing")
    parser.add_argument("--minutes", type=float, default=14.0, help="for all parts; what does not fit is left out")
    parser.add_argument("--memory", type=float, help="GiB that models may take; default: what is free")
    parser.add_argument("--gpus", type=int, help="to train on together; default: two if there are two")
    parser.add_argument("--out", type=Path, help="folder to write to; default: docs/benchmarks and configs/machines")
    typed = sys.argv[1:] if arguments is None else arguments
    args = parser.parse_args(typed)
    if args.out is None and (args.quick or args.device == "cpu"):
        parser.error("--out: required with --quick and --device cpu, whose numbers mean nothing")
    from qtuning.errors import UserError

    try:
        devices, driver = (args.gpus or 1, "") if args.device == "cpu" else _take_gpus(args.gpus)
    except UserError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    if args.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    return _check(args, typed, devices, driver)


def _take_gpus(asked: int | None) -> tuple[int, str]:
    """Lease the GPUs that are used; (how many, driver). UserError where there is none that torch can use."""
    from qtuning.cli.options import hold_gpus
    from qtuning.errors import UserError
    from qtuning.gpus.find import look

    machine = look()
    nothing = "no GPU here: nothing was measured or written (`qtuning doctor` says what this machine has)"
    if not machine.devices:
        raise UserError(nothing)
    whole = [device for device in machine.devices if not device.is_instance]
    devices = asked or min(2, max(len(whole), 1))
    hold_gpus(devices, "--gpus")
    import torch

    if not torch.cuda.is_available():
        raise UserError(nothing)
    return devices, machine.driver or "unknown"


def _check(args: argparse.Namespace, typed: Sequence[str], devices: int, driver: str) -> int:
    import torch
    from rich.console import Console

    from benchmarks import gpu_kernels, gpu_several, gpu_speeds, gpu_steps, machine
    from benchmarks.gpu_setting import GIB, QUICK, WHOLE, Setting
    from benchmarks.report import Table, show, targets, write

    device = torch.device("cpu" if args.device == "cpu" else "cuda:0")
    free, total = gpu_speeds.memory_of(device)
    memory = free if args.memory is None else args.memory * GIB
    setting = Setting(device, QUICK if args.quick else WHOLE, memory, 60 * args.minutes)
    console = Console(width=None if sys.stdout.isatty() else 160)
    facts = machine.about(device) | {"command": shlex.join(["python", "-m", "benchmarks.gpu_check", *typed])}
    if device.type == "cuda":
        facts |= {"driver": driver, "CUDA": torch.version.cuda, "memory": f"{total / GIB:.1f} GiB"}
    cuda_name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    name, known = _known(cuda_name)
    tables: list[Table] = []
    failed = False

    def part(title: str, run: Callable[[], Any]) -> Any:
        """What `run` returns, or None with a note of what went wrong: one part must not take the others with it."""
        nonlocal failed
        begun = time.monotonic()
        try:
            return run()
        except Exception as error:
            failed = True
            setting.left_out.append(f"{title}: FAILED: {type(error).__name__}: {str(error).splitlines()[0]}")
            return None
        finally:
            setting.free()
            console.print(f"  [dim]{title}: {time.monotonic() - begun:.0f} s[/dim]")

    tables += part("kernels", lambda: gpu_kernels.kernels(setting)) or []
    tables += part("exactness", lambda: gpu_kernels.exactness(setting)) or []
    measured: Measured | None = None
    if (spoken := part("speeds", lambda: gpu_speeds.speeds(setting, known))) is not None:
        speeds, found = spoken
        tables += found
        runs, found = part("updates", lambda: gpu_steps.steps(setting, speeds, known, REPOSITORY / "configs")) or (
            [],
            [],
        )
        tables += found
        books = part("optimizer", lambda: gpu_steps.optimizer_seconds(setting))
        measured = _measured(speeds, runs, books, cuda_name or "CPU", total, facts)
        if runs:
            tables.append(gpu_steps.planned(runs, measured.machine(name)))
    samples = 64 if args.quick else 512
    tables += part("several GPUs", lambda: gpu_several.several(setting, devices, samples)) or []
    facts["duration"] = f"{time.monotonic() - setting.begun:.0f} s of {setting.seconds:.0f} s"
    if setting.left_out:
        tables.append(Table("Left out", [{"what": line} for line in setting.left_out]))
    for table in (targets(tables), *tables):
        show(table, console)
    folder = args.out or REPOSITORY / "docs/benchmarks"
    write(folder, NAME, facts, tables)
    console.print(f"written   {folder / NAME}.md and .json")
    if measured is not None:
        path = (args.out or REPOSITORY / "configs") / f"machines/{name}.yaml"
        _write_machine(path, measured)
        console.print(f"written   {path}, which `qtuning plan --gpu {name}` now uses")
    wrong = [what for table in tables for what, figure in table.checked() if not figure.met]
    for line in wrong:
        print(f"gpu-check: not exact: {line}", file=sys.stderr)
    return int(failed or bool(wrong))


def _known(cuda_name: str) -> tuple[str, "Machine | None"]:
    """(the name for `--gpu`, what is assumed of this card so far, if anything is)."""
    from qtuning.plan.machines import MACHINES

    for machine in MACHINES.values():
        if cuda_name and machine.cuda_name == cuda_name:
            return machine.name, machine
    return re.sub(r"[^a-z0-9]+", "-", cuda_name.lower()).strip("-") or "checked-cpu", None


def _measured(
    speeds: "Speeds", runs: "Sequence[Run]", books: float | None, cuda_name: str, memory: float, facts: dict[str, Any]
) -> "Measured":
    """What `plan` takes from here. Bookkeeping and decisions are those of the smallest model under LoRA."""
    from qtuning.plan.machines import Measured

    small = [run for run in runs if run.model == "135M" and run.tuning == "lora" and run.job is not None]
    decisions = [run.decision for run in small if run.variant.schedule == "fresh"]
    update = None
    if small and books is not None:
        update = books + max(0.0, median(run.wall - run.seconds for run in small))
    told = ", ".join(str(facts[key]) for key in ("date", "git", "driver", "packages", "command") if facts.get(key))
    return Measured(
        label=cuda_name,
        cuda_name=cuda_name,
        memory=memory,
        products=speeds.products,
        bandwidth=speeds.bandwidth,
        layer_seconds=speeds.layer_seconds,
        adapter_factor=speeds.adapter_factor,
        update_seconds=update,
        decision_seconds=median(decisions) if decisions else None,
        start_seconds=speeds.start_seconds,
        measured=told,
    )


def _write_machine(path: Path, measured: "Measured") -> None:
    import yaml

    from qtuning.files import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "# Written by `make gpu-check`: replaces what `qtuning plan` assumes of this card (docs/plan.md).\n"
    write_text(path, lines + yaml.safe_dump(measured.model_dump(), sort_keys=False, width=120))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
