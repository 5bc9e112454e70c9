"""`qtuning figures`: from a store to files."""

from pathlib import Path

import typer
from figure_frames import cell_rows, table, write_store
from typer.testing import CliRunner

from qtuning.cli.draw import figures
from qtuning.errors import UserError


def test_it_names_what_it_wrote(tmp_path: Path) -> None:
    rows = [cell_rows("full", score=50.0), cell_rows("random+random", 0.5, 0.5), cell_rows("longest+ppl", 0.5, 0.5)]
    store = write_store(tmp_path / "store", table(*rows))
    app = typer.Typer()
    app.command()(figures)
    result = CliRunner().invoke(app, ["demo", "--store", str(store), "--out", str(tmp_path / "figures")])
    assert result.exception is None, result.output
    printed = [Path(line) for line in result.output.split()]
    assert printed == [tmp_path / "figures" / "demo" / f"{name}.svg" for name in ("pareto", "heatmap", "convergence")]
    assert all(path.exists() for path in printed)
    assert isinstance(CliRunner().invoke(app, ["other", "--store", str(store)]).exception, UserError)
