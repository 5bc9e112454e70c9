"""`qtuning report EXPERIMENT...`: one page of everything that the store holds of experiments."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    experiments: Annotated[list[str], typer.Argument(help="experiments that are in the store")],
    store: Annotated[Path, typer.Option(help="folder of the score store (`qtuning tables` fills it)")] = Path(
        "results"
    ),
    out: Annotated[
        Path, typer.Option(help="folder to write report.html, audit.md, tables/, figures/ and statistics/ to")
    ] = Path("results/report"),
) -> None:
    """Draw all tables, comparisons and figures of experiments, the audit, and one self-contained page of them.

    The page needs no network and no other file; the same store gives the same bytes.
    """
    from qtuning.report import write_report

    print(write_report(experiments, store, out))
