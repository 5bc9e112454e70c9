"""What users and finished results rely on stays the same: names of cells, and what every command's --help says.

A change that is meant to move one of these renews the files: `python -m tests.test_pins`. The example is the third
pin (tests/test_example.py).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from qtuning.cli.app import app
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import cell_id, evaluation_id, model_id, pair_id

PINS = Path(__file__).parent / "pins"
CONFIGS = Path(__file__).parent.parent / "configs"


def identities() -> str:
    """Of every experiment its evaluation and its cells; then the folders of all models and tokenised train sets."""
    library, lines, shared = ConfigFolder(CONFIGS), [], set()
    for grid in library.expand(library.names("experiments")):
        lines.append(
            f"{grid.experiment.name}: {evaluation_id(grid.evaluation) if grid.evaluation else 'no evaluation'}"
        )
        for cell in grid.cells:
            lines.append(f"  {cell_id(cell)}")
            shared |= {model_id(cell.model), *([] if cell.train_set is None else [pair_id(cell)])}
    return "\n".join([*lines, "models and train sets:", *(f"  {name}" for name in sorted(shared))]) + "\n"


def pages() -> Iterator[str]:
    """--help of the program and of each command, 100 columns wide."""
    group, runner = typer.main.get_command(app), CliRunner()
    for arguments in [[], *([name] for name in sorted(group.commands))]:  # type: ignore[attr-defined]
        shown = runner.invoke(app, [*arguments, "--help"], env={"TERMINAL_WIDTH": "100", "COLUMNS": "100"})
        assert shown.exit_code == 0, shown.output
        yield "\n".join(line.rstrip() for line in shown.output.strip().splitlines())


@pytest.mark.parametrize("pin", ["cells", "help"])
def test_pins_hold(pin: str) -> None:
    now = identities() if pin == "cells" else "\n\n".join(pages()) + "\n"
    assert now == (PINS / f"{pin}.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    (PINS / "cells.txt").write_text(identities(), encoding="utf-8")
    (PINS / "help.txt").write_text("\n\n".join(pages()) + "\n", encoding="utf-8")
