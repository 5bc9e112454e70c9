"""`qtuning plan`: what experiments will cost, before anything is launched."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qtuning.errors import UserError

if TYPE_CHECKING:
    from qtuning.plan.assumptions import Assumptions
    from qtuning.plan.jobs import Jobs
    from qtuning.plan.machines import Machine

GPUS = ("h100", "a100", "4090", "cpu")


def plan(
    experiments: Annotated[list[str], typer.Argument(help="names of files in configs/experiments, without .yaml")],
    gpu: Annotated[str, typer.Option(help=f"what it shall run on: {', '.join(GPUS)} (published speeds)")] = GPUS[0],
    devices: Annotated[int, typer.Option(min=1, help="how many of them work at a time, for days and disk")] = 1,
    usd_per_gpu_hour: Annotated[float | None, typer.Option(min=0, help="price of an hour of one of them")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything as JSON, for machines")] = False,
    configs: Annotated[Path, typer.Option(help="folder with experiments/, models/, planning.yaml")] = Path("configs"),
    results: Annotated[Path, typer.Option(help="folder of everything generated: what is done is not paid")] = Path(
        "results"
    ),
    data_dir: Annotated[Path | None, typer.Option(help="local copies of train sets and benchmarks")] = None,
) -> None:
    """What experiments will cost: cells, GPU-hours by stage, memory, disk, price; and what they will be able to show.

    Nothing is launched or fetched. Exit status 2 where something cannot fit into memory, with the key that helps.
    Predictions are compared with finished cells. docs/plan.md says what is assumed.

    `qtuning plan table1 table2 --gpu h100 --devices 8 --usd-per-gpu-hour 2.5`
    """
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.names import ResultPaths
    from qtuning.plan.assumptions import read_assumptions
    from qtuning.plan.bill import bill_of
    from qtuning.plan.check import check
    from qtuning.plan.effect import effects_of
    from qtuning.plan.fits import refusals
    from qtuning.plan.jobs import jobs_of

    machine = _machine(gpu)
    grids = ConfigFolder(configs, data_dir).expand(experiments)
    assumptions = read_assumptions(configs)
    jobs = jobs_of(grids, ResultPaths(results), assumptions, data_dir)
    bill = bill_of(jobs, machine, devices, usd_per_gpu_hour)
    effects, checked = effects_of(grids, results, assumptions), check(jobs, results, machine)
    too_large = refusals(jobs, machine)
    notes = _notes(jobs, machine, assumptions)
    if as_json:
        _print_json(bill, effects, checked, notes, too_large)
    else:
        from qtuning.plan.print import print_bill

        print_bill(bill, effects, checked, notes)
    if too_large:
        raise UserError("\n".join(too_large))


def _machine(name: str) -> "Machine":
    from qtuning.experiment.yaml_files import nearest
    from qtuning.plan.machines import machines

    if name not in GPUS:
        raise UserError(f"--gpu = {name!r}: unknown{nearest(name, GPUS)}")
    return machines()[name]


def _notes(jobs: "Jobs", machine: "Machine", assumptions: "Assumptions") -> list[str]:
    """What the bill rests on that was not measured."""
    from qtuning.plan.lengths import CHARACTERS

    notes = []
    read = {name: lengths.rows for name, lengths in jobs.train_sets.values() if lengths.basis == "characters"}
    for name, rows in sorted(read.items()):
        notes.append(
            f"{name}: {rows:,} rows of its file, {CHARACTERS:g} characters a token, until it has been prepared"
        )
    guessed = sorted({name for name, lengths in jobs.train_sets.values() if lengths.basis == "assumed"})
    for name in guessed:
        guess, own = assumptions.train_set(name)
        size = f"{guess.rows:,} rows, {guess.prompt_tokens:g} + {guess.response_tokens:g} tokens"
        whose = "" if own else " (default: no entry of its own)"
        notes.append(f"{name}: {size}, from planning.yaml{whose}, until it has been prepared")
    unit, name = (1e12, "TFLOP/s") if machine.device == "cuda" else (1e9, "GFLOP/s")
    rates = ", ".join(f"{dtype} {machine.rate(dtype) / unit:.3g} {name}" for dtype in ("bfloat16", "float32"))
    shares = " and ".join(f"{100 * machine.reached[dtype]:.0f}%" for dtype in ("bfloat16", "float32"))
    notes.append(f"speed: {rates} ({shares} of the peaks), {1e3 * machine.layer_seconds:g} ms a layer")
    return notes


def _print_json(
    bill: Any, effects: Sequence[Any], checked: Any, notes: Sequence[str], too_large: Sequence[str]
) -> None:
    from dataclasses import asdict

    from qtuning.files import canonical_json

    content = asdict(bill) | {
        "wall_hours": bill.wall_hours,
        "effects": [asdict(effect) for effect in effects],
        "check": asdict(checked),
        "assumed": list(notes),
        "too_large": list(too_large),
    }
    print(canonical_json(content))
