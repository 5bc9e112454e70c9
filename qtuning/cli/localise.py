"""`qtuning localise`: planted errors against what a cell's scores and pruning find."""

import os
from pathlib import Path
from typing import Annotated

import typer

from qtuning.errors import UserError


def localise(
    cell: Annotated[Path, typer.Argument(help="configuration of a trained cell, results/configurations/CELL.json")],
    results: Annotated[Path, typer.Option(help="folder of everything generated")] = Path("results"),
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of this job")] = 1,
) -> None:
    """Compare what a cell's scores and pruning find with the planted errors of its train set.

    Writes localisation.json into the cell's folder: AUC of token perplexity and of the smoothed score, precision and
    recall of the pruned tokens, for the base model and for the trained one (docs/experiments.md).

    `qtuning localise results/configurations/CELL.json`
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from qtuning.experiment.names import ResultPaths
    from qtuning.experiment.schema import Cell
    from qtuning.files import exclusive, read_json
    from qtuning.probes.planted_errors import find_planted_errors

    if not cell.exists():
        raise UserError(f"{cell}: no such file; `qtuning cells EXPERIMENT --write` writes the configurations")
    paths = ResultPaths(results)
    with exclusive(paths.lock(f"{cell.stem}-localisation"), f"localising errors of {cell.stem}"):
        print(find_planted_errors(Cell.model_validate(read_json(cell)), paths))
