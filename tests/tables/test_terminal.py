"""A page in the terminal: as much as fits, and what is emphasised."""

import pytest
from cell_folders import Folders
from rich.console import Console
from score_tables import scores_of

from qtuning.statistics.summary import summarise
from qtuning.tables.scores import score_page
from qtuning.tables.terminal import print_page


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (200, "Q-Tuning 35.00 ± 2.83 ↑4.0 6.00 ± 0.00 ↓1.0 20.50 ± 1.41 ↑1.5"),
        (75, "Q-Tuning 35.00 ↑4.0 6.00 ↓1.0 20.50 ↑1.5"),
        (55, "Q-Tuning 35.00 6.00 20.50 ↑1.5"),
        (50, "Q-Tuning 35.00 6.00 20.50"),
    ],
)
def test_terminal_shows_as_much_as_fits(width: int, row: str, complete: Folders) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_page(score_page(summarise(scores_of(complete))), console)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert row in lines
    assert "Samples 25% x Tokens 50%" in lines


def test_terminal_emphasises(complete: Folders) -> None:
    console = Console(width=200, record=True, force_terminal=True, color_system="standard")
    print_page(score_page(summarise(scores_of(complete))), console)
    text = console.export_text(styles=True)
    assert "\x1b[1m35.00\x1b[0m" in text
    assert "\x1b[32m ↑4.0\x1b[0m" in text
    assert "\x1b[31m ↓1.0\x1b[0m" in text
