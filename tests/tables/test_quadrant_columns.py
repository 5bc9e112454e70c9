"""Columns of the quadrants that lose samples and tokens: only where an experiment varies them (tables 4 and 15)."""

from collections.abc import Callable

from cell_folders import Folders
from score_tables import TWO, block, markdown, scores_of


def test_ablations_of_the_quadrants_say_what_each_row_loses(make_folders: Callable[..., Folders]) -> None:
    methods = [
        "random+random",
        {"method": "q-tuning", "options": {"drop_in": "Q3"}},
        {"method": "q-tuning", "options": {"prune_in": "Q2+Q4"}},
        {"method": "q-tuning+none"},
        "q-tuning",
    ]
    folders = make_folders(evaluation=TWO, budgets=["25x50"], seeds=[0], methods=methods, zero_shot=False)
    for cell in folders.grid.cells:
        folders.finish(cell)
    page = markdown(scores_of(folders))
    rows = [row[:4] for row in block(page, "Samples 25% x Tokens 50%")]
    assert rows == [
        ["Sample pruner", "Token pruner", "Samples lost in", "Tokens lost in"],
        ["random", "random", "–", "–"],
        ["Q-Tuning", "", "Q3", "Q2"],
        ["Q-Tuning", "", "Q1, Q3", "Q2, Q4"],
        ["Q-Tuning", "", "Q1, Q3", "Q2"],
    ]
    assert block(page, "Samples 25% x Tokens 100%")[-1][:4] == ["Q-Tuning", "none", "Q1, Q3", "none"]


def test_other_experiments_have_no_such_columns(complete: Folders) -> None:
    assert "lost in" not in markdown(scores_of(complete))
