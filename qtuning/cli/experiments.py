"""`qtuning experiments`: what can be asked for."""

from pathlib import Path
from typing import Annotated

import typer


def experiments(
    configs: Annotated[Path, typer.Option(help="folder with experiments/, scales/, models/, train_sets/")] = Path(
        "configs"
    ),
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
