"""`qtuning figures EXPERIMENT...`: the figures of experiments, from the score store alone."""

from pathlib import Path
from typing import Annotated

import typer


def figures(
    experiments: Annotated[list[str], typer.Argument(help="experiments that are in the store")],
    store: Annotated[Path, typer.Option(help="folder with scores.parquet, steps.parquet, planes.parquet")] = Path(
        "results"
    ),
    out: Annotated[Path, typer.Option(help="folder to write EXPERIMENT/*.svg, .png, .csv and captions.json to")] = Path(
        "results/figures"
    ),
) -> None:
    """Draw the figures that the rows of each experiment allow: SVG, PNG, the data behind each as CSV, and captions."""
    from qtuning.figures.write import write_figures

    for experiment in experiments:
        for figure in write_figures(experiment, store, out):
            print(figure.paths[0])
