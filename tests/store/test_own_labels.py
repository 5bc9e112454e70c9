"""`label` and `colour` of a method: told wherever methods are named, and no part of a cell."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import ConfigFolder, Grid
from qtuning.experiment.ids import cell_id, cell_json
from qtuning.explore.find import label_of
from qtuning.figures.marks import assign_looks, describe_looks
from qtuning.figures.points import points
from qtuning.figures.style import Drawing, panels, save
from qtuning.statistics.summary import summarise
from qtuning.store.collect import collect
from qtuning.store.lines import line_of
from qtuning.store.store import Store, write_store
from qtuning.tables.labels import method_label, pruner_labels

CONFIGS = Path(__file__).parents[2] / "configs"
PLAIN: list[Any] = ["full", "random+random", {"method": "q-tuning", "options": {"lambda": 0.3}}]
NAMED: list[Any] = [
    "full",
    {"method": "random+random", "label": "Dice", "colour": "#123456"},
    {"method": "q-tuning", "options": {"lambda": 0.3}, "label": "Ours"},
]


def grid_of(folder: Path, methods: list[Any]) -> Grid:
    for section in ("models", "train_sets", "scales"):
        if not (folder / section).exists():
            (folder / section).symlink_to(CONFIGS / section)
    experiment = yaml.safe_load((CONFIGS / "experiments/mini.yaml").read_text())
    experiment = {key: value for key, value in experiment.items() if key not in ("name", "scales", "primary")}
    (folder / "experiments").mkdir(exist_ok=True)
    written = experiment | {"methods": methods, "budgets": ["25x50"]}
    (folder / "experiments/mine.yaml").write_text(yaml.safe_dump(written))
    return ConfigFolder(folder).expand(["mine"])[0]


def test_labels_and_colours_change_no_cell(tmp_path: Path) -> None:
    plain, named = grid_of(tmp_path, PLAIN), grid_of(tmp_path, NAMED)
    assert [cell_id(cell) for cell in plain.cells] == [cell_id(cell) for cell in named.cells]
    assert [cell_json(cell) for cell in plain.cells] == [cell_json(cell) for cell in named.cells]
    assert "Dice" not in "".join(map(cell_json, named.cells))
    assert {cell.label for cell in named.cells} == {None, "Dice", "Ours"}
    assert all("label" not in cell.model_dump() or cell.label for cell in named.cells)
    assert Cell.model_validate_json(cell_json(named.cells[-1])).label is None


def test_every_line_is_called_as_the_experiment_calls_it(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, NAMED)
    write_store([grid], tmp_path / "results")
    store = Store(tmp_path / "results")
    summary = summarise(store.experiment("mine"))
    assert [method_label(line) for line in summary.lines] == ["Zero-shot", "Full data", "Dice", "Ours"]
    ours = summary.lines[-1]
    assert pruner_labels(ours) == ("Ours", "") and ours.variant == "lambda=0.3"
    frame = points(summary)
    looks = assign_looks(frame)
    plain = assign_looks(frame.with_columns(colour=pl.lit(None, pl.String)))
    assert looks["Dice"].colour == "#123456" and plain["Dice"].colour != "#123456"
    assert looks["Ours"] == plain["Ours"] and looks["Dice"].marker == plain["Dice"].marker
    assert "a colour that the experiment names" in describe_looks(frame)
    trained = [cell for cell in grid.cells if cell.pruning]
    assert {label_of(cell) for cell in trained} == {"Full data", "Dice, 25% x 50%", "Ours, 25% x 50%"}
    figure, _ = panels(1, 1, 1.0, 1.0)
    *_, data = save(Drawing(figure, frame), tmp_path, "drawn")
    assert pl.read_csv(data).columns == [name for name in frame.columns if name != "colour"]


def test_a_store_without_labels_has_no_columns_of_them(tmp_path: Path) -> None:
    for methods, there in ((PLAIN, False), (NAMED, True)):
        write_store([grid_of(tmp_path, methods)], tmp_path / "results")
        for name in ("scores", "cells"):
            columns = pl.read_parquet(tmp_path / "results" / f"{name}.parquet").columns
            assert ("method_label" in columns) == ("method_colour" in columns) == there
    assert Store(tmp_path / "results").cells["method_colour"].drop_nulls().unique().to_list() == ["#123456"]


def test_a_label_is_no_part_of_a_line(tmp_path: Path) -> None:
    _, cells = collect([grid_of(tmp_path, NAMED)], tmp_path)
    row = cells.filter(method_label="Ours").row(0, named=True)
    named, plain = line_of(row, "mini"), line_of(row | {"method_label": None}, "mini")
    assert named == plain and hash(named) == hash(plain)
    assert [method_label(named), method_label(plain)] == ["Ours", "Q-Tuning (lambda=0.3)"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"method": "full", "colour": "blue"}, "methods.0.colour = 'blue': write six hexadecimal digits"),
        ({"method": "full", "colour": None}, "methods.0.colour = None: write it in quotes"),
        ({"method": "full", "label": "_x"}, "methods.0.label = '_x': write at most 60 characters on one line"),
        ({"method": "full", "label": " "}, "methods.0.label = ' ': write at most 60 characters"),
    ],
)
def test_what_is_no_label_or_colour_is_refused(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        grid_of(tmp_path, [entry])
    assert said in str(caught.value)


def test_one_label_names_one_method(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"methods.1.label = 'Same': is the label of methods.0"):
        grid_of(tmp_path, [{"method": "full", "label": "Same"}, {"method": "random+random", "label": "Same"}])
