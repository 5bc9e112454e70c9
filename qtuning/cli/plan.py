"""`qtuning plan`: what experiments will cost, before anything is launched."""

from pathlib import Path
from typing import Annotated

import typer

from qtuning.errors import UserError

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
    from qtuning.plan.machines import find_machine
    from qtuning.plan.print import list_assumptions, plan_json, print_plan

    machine = find_machine(gpu)
    grids = ConfigFolder(configs, data_dir).expand(experiments)
    assumptions = read_assumptions(configs)
    jobs = jobs_of(grids, ResultPaths(results), assumptions, data_dir)
    bill = bill_of(jobs, machine, devices, usd_per_gpu_hour)
    effects, checked = effects_of(grids, results, assumptions), check(jobs, results, machine)
    too_large, assumed = refusals(jobs, machine), list_assumptions(jobs, machine, assumptions)
    if as_json:
        print(plan_json(bill, effects, checked, assumed, too_large))
    else:
        print_plan(bill, effects, checked, assumed)
    if too_large:
        raise UserError("\n".join(too_large))
