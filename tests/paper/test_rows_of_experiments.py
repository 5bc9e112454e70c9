"""The experiments of the paper's tables have its rows, and no others."""

from pathlib import Path
from typing import Any

import pytest

from qtuning.experiment.grid import ConfigFolder
from qtuning.paper.published import changed_in, place_of, read_published
from qtuning.store.collect import identity
from qtuning.store.lines import line_of

PUBLISHED = read_published()
CONFIGS = ConfigFolder(Path(__file__).parents[2] / "configs")


@pytest.mark.parametrize("table", PUBLISHED.tables)
def test_every_row_of_a_table_is_run_by_its_experiment(table: int) -> None:
    (grid,) = CONFIGS.expand([f"table{table}"])
    rows = [identity(grid, cell) for cell in grid.cells]
    lines = [(row["model"], line_of(row, PUBLISHED.rows(table)[0].train_set)) for row in rows]
    ours: list[tuple[Any, ...]] = [
        (model, line.train_set, place_of(line), changed_in(line)) for model, line in dict.fromkeys(lines)
    ]
    theirs = [(row.model, row.train_set, row.place, row.line.variant) for row in PUBLISHED.rows(table)]
    if table == 3:  # the full data and the model without training are those of tables 1 and 8
        theirs = [row for row in theirs if row[2] not in (("full",), ("zero-shot",))]
    assert sorted(map(str, ours)) == sorted(map(str, theirs))
