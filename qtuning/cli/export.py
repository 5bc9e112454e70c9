"""`qtuning export EXPERIMENT...`: a store of some experiments, to be shared."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    experiments: Annotated[list[str], typer.Argument(help="experiments that are in the store")],
    out: Annotated[Path, typer.Option(help="folder of the new store")],
    store: Annotated[Path, typer.Option(help="score store, which `qtuning tables` fills")] = Path("results"),
    plane_rows: Annotated[
        int | None, typer.Option(min=1, help="keep so many points of the plane of each cell; default: all")
    ] = None,
) -> None:
    """Copy what the store holds of experiments into a store of their own, with the overlaps that were counted.

    A few megabytes hold a whole grid: tables, statistics, figures and reports can be drawn from it anywhere.
    """
    from qtuning.files import write_text
    from qtuning.store.store import export_store

    export_store(experiments, store, out, plane_rows)
    for report in sorted((store / "contamination").glob("*.json")):
        write_text(out / "contamination" / report.name, report.read_text(encoding="utf-8"))
    print(out)
