"""The command that says where experiments are."""

import sys
import time
from typing import Annotated

import typer

from qtuning.cli.look import GPUS
from qtuning.cli.options import CONFIGS, RESULTS, Configs, DataDir, Experiments, Results

FAILED, AT_WORK, UNFINISHED = 1, 3, 4
"""Exit statuses. 2 is that of what was typed wrongly."""


def status(
    experiments: Experiments,
    watch: Annotated[bool, typer.Option("--watch", help="go on until all is done or nothing is at work")] = False,
    every: Annotated[float, typer.Option(min=1, help="seconds between two looks of --watch")] = 10.0,
    gpu: Annotated[
        str,
        typer.Option(
            help=f"GPU that the time left is planned for, until jobs of the run are measured: {', '.join(GPUS[:-1])}"
        ),
    ] = GPUS[0],
    configs: Configs = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
) -> None:
    """Say where experiments are: cells done, at work, failed and why, and the time left. From any terminal.

    It only reads what jobs leave in the results folder, while Snakemake runs or after it was killed. The time left is
    what `qtuning plan` says of each job, corrected by what this run took so far. Exit status 0: all cells are done; 1:
    some failed; 3: at work; 4: unfinished, and nothing is at work.

    `qtuning status table1-mini --watch`
    """
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths
    from qtuning.plan.assumptions import read_assumptions
    from qtuning.plan.machines import find_machine
    from qtuning.status.lines import status_lines
    from qtuning.status.look import Observer

    grids = ConfigFolder(configs, data_dir).expand(experiments)
    machine = find_machine(gpu, configs)
    observer = Observer(grids, ResultPaths(results), read_assumptions(configs), data_dir, machine)
    while True:
        found = observer.look()
        print("\n".join(status_lines(found)), flush=True)
        if found.done == found.cells or not found.at_work or not watch:
            break
        time.sleep(every)
    if found.failed or found.failures:
        sys.exit(FAILED)
    if found.done < found.cells:
        sys.exit(AT_WORK if found.at_work else UNFINISHED)
