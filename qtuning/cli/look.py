"""Commands that look: what experiments there are and cost, what a train set holds, whether a pruner keeps the rules."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from qtuning.cli.options import CONFIGS, RESULTS
from qtuning.errors import UserError

GPUS = ("h100", "a100", "4090", "cpu")


def experiments(
    configs: Annotated[Path, typer.Option(help="folder with experiments/, scales/, models/, train_sets/")] = CONFIGS,
) -> None:
    """List the experiments of configs/experiments: name, cells, scales, title.

    `table1` at scale `mini` is the target `table1-mini`. An experiment that cannot be read is listed with the first
    thing that is wrong with it.
    """
    from rich.console import Console
    from rich.table import Table

    from qtuning.experiment.grid import ConfigFolder

    folder = ConfigFolder(configs)
    table = Table("name", "cells", "scales (cells)", "title", header_style="bold", box=None)
    for name in folder.files.stems("experiments"):
        scales = folder.files.scales_of(name)
        grids, problems = folder.expand_valid([name, *(f"{name}-{scale}" for scale in scales)])
        counts = {grid.experiment.name: len(grid.cells) for grid in grids}
        editions = [f"{scale} ({counts.get(f'{name}-{scale}', 'invalid')})" for scale in scales]
        first = next(iter(problems.values()), "").partition("\n")[0]
        title = next((grid.experiment.title for grid in grids if grid.experiment.name == name), "")
        table.add_row(name, str(counts.get(name, "–")), ", ".join(editions), title or f"invalid: {first}")
        if title and first:
            table.add_row("", "", "", f"invalid: {first}")
    width = 10_000  # one line an experiment; the terminal wraps, and a pipe does not
    Console(width=width, highlight=False, markup=False).print(table)


def plan(
    experiments: Annotated[list[str], typer.Argument(help="names of files in configs/experiments, without .yaml")],
    gpu: Annotated[str, typer.Option(help=f"what it shall run on: {', '.join(GPUS)} (published speeds)")] = GPUS[0],
    devices: Annotated[int, typer.Option(min=1, help="how many of them work at a time, for days and disk")] = 1,
    usd_per_gpu_hour: Annotated[float | None, typer.Option(min=0, help="price of an hour of one of them")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything as JSON, for machines")] = False,
    configs: Annotated[Path, typer.Option(help="folder with experiments/, models/, planning.yaml")] = CONFIGS,
    results: Annotated[Path, typer.Option(help="folder of everything generated: what is done is not paid")] = RESULTS,
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


def check_pruner(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="built-in pruners, entry points, or module:attribute of your own; none: every built-in"),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="sample or token, where a name means both")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, an option of the pruner; repeatable")] = None,
) -> None:
    """Try pruners on random and degenerate batches: budget, determinism, order, padding, processes, resume.

    Exit status 1 if any of them breaks a rule. docs/pruners.md explains the rules, and how to write a pruner.

    `qtuning check-pruner my_pruners:keep_hard --option share=0.3`
    """
    from qtuning.pruners.check import run_checks

    if not run_checks(names or [], kind, option or []):
        sys.exit(1)
