"""Experiments without benchmarks, from the folders of their cells to figures, tables and the report."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cell_folders import CONFIGS, Folders
from test_details import decide, log
from typer.testing import CliRunner

from qtuning.cli.app import app
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import cell_id
from qtuning.figures.write import write_figures
from qtuning.files import write_json
from qtuning.report.build import write_report
from qtuning.store.store import Store, write_store

LOGGED: dict[str, Any] = {
    **{"level": 0.4, "converged": 1.0},
    **{"ppl_low": 2.0, "ppl_high": 9.0, "ent_low": 0.5, "ent_high": 1.0},
    **{f"q{n}_share": 0.2 for n in (1, 2, 3, 4)},
    **{f"median_q{n}": 0.25 for n in (1, 2, 3, 4)},
}


@dataclass
class Collected:
    """A shipped experiment whose cells are trained, logged and collected into the store below folders.results."""

    folders: Folders
    page: str
    report: Path


def collected(name: str, root: Path) -> Collected:
    """The experiment on its first train set, and the report of it, which has every figure and table."""
    (grid,) = ConfigFolder(CONFIGS).expand([name])
    names = [cell.train_set.name for cell in grid.cells if cell.train_set is not None]  # one train set, several draws
    cells = tuple(cell for cell, train_set in zip(grid.cells, names, strict=True) if train_set == names[0])
    folders = Folders(root / "results", replace(grid, cells=cells))
    for cell in cells:
        assert cell.pruning is not None
        folders.train(cell)
        triage = cell.pruning.method == "q-tuning"
        log(folders, cell, 40, **(LOGGED if triage else {}))
        if triage:
            decide(folders, cell, 400)
        if grid.experiment.localisation:
            localise(folders, cell)
    write_store([folders.grid], folders.results)
    page = write_report([name], folders.results, root / "report").read_text(encoding="utf-8")
    return Collected(folders, page, root / "report")


def localise(folders: Folders, cell: Cell) -> None:
    """localisation.json: recall as the seed and the token ratio say; the full data prune nothing."""
    assert cell.pruning is not None and cell.seeds is not None
    recall = 0.1 * cell.seeds.data + cell.pruning.token_ratio
    pruned: dict[str, Any] = {"tokens": 100, "wrong": 10, "pruned": 40, "precision": 0.2, "recall": recall}
    if cell.pruning.method == "full":
        pruned |= {"pruned": 0, "precision": None, "recall": 0.0}
    score = {"auc": 0.9, "precision_at_planted": 0.5}
    found = {"ppl": score, "s": score, "pruned": pruned, "pruned_in_kept": pruned}
    found["prunable"] = {"ppl": score | {"auc": 0.8}, "s": score, "pruned": pruned}
    found["kept_samples"] = {"with_error": 0.25, "without": 0.75}
    answer = {"cell": cell_id(cell), "lambda": cell.pruning.token_options.get("lambda", 0.5)}
    write_json(folders.folder(cell) / "localisation.json", answer | {"base": found, "trained": found})


@pytest.fixture(scope="module")
def stability(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return collected("stability-mini", tmp_path_factory.mktemp("stability"))


@pytest.fixture(scope="module")
def localisation(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return collected("localisation-mini", tmp_path_factory.mktemp("localisation"))


def captions(store: Collected) -> dict[str, str]:
    """Figure -> its caption; every one is on the page."""
    (path,) = store.report.glob("figures/*/captions.json")
    found: dict[str, str] = json.loads(path.read_text())
    assert store.page.count("<figure ") == len(found)
    assert all(f'id="{path.parent.name}-{figure}"' in store.page for figure in found)
    return found


def test_stability_has_the_figures_of_its_trainings(stability: Collected) -> None:
    found = captions(stability)
    assert set(found) == {"plane", "flow", "shares", "convergence"}
    assert "3 seeds (0, 1, 2)" in found["shares"] and "3 cells" in found["shares"]
    assert "git abc1234" in found["shares"] and "missing" not in found["shares"]
    assert Store(stability.folders.results).cells["title"][0] in stability.page
    assert "<table" not in stability.page.partition('id="audit"')[0]


def test_an_unknown_experiment_is_named_with_the_nearest_known_one(stability: Collected, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'stability-min': no rows; did you mean stability-mini"):
        write_figures("stability-min", Store(stability.folders.results), tmp_path)


def test_localisation_is_told_by_method(localisation: Collected) -> None:
    found = captions(localisation)
    assert set(found) == {"plane", "flow", "shares", "convergence", "localisation"}
    assert "27 cells" in found["localisation"] and "Within kept samples" in localisation.page
    data = pl.read_csv(localisation.report / "figures/localisation-mini/localisation.csv")
    assert len(data) == 9 * 2 * 9, "methods x weights x scores"
    row = data.filter(label="full + PPL", budget="100% x 70%", weights="trained", score="pruned tokens")
    assert row["recall"].to_list() == pytest.approx([0.7 + 0.1 * 1]), "the mean of seeds 0, 1 and 2"
    assert row["share"].to_list() == pytest.approx([0.4]) and row["missing"].to_list() == [0]
    assert set(data.filter(label="Q-Tuning (lambda=0.0)")["lambda"]) == {0.0}


@pytest.mark.parametrize("name", ["stability", "localisation"])
def test_tables_say_where_the_results_are(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: Folders = request.getfixturevalue(name).folders
    monkeypatch.chdir(CONFIGS.parent)
    result = CliRunner().invoke(app, ["tables", f"{name}-mini", "--results", str(folders.results)])
    assert result.exception is None, result.output
    assert (
        f"{name}-mini: no benchmarks, so no table of scores; its figures: qtuning figures {name}-mini" in result.output
    )
    tables = {path.name for path in (folders.results / "tables").glob("*")}
    if name == "stability":
        assert tables == set()
        return
    assert tables == {"localisation-mini.localisation.md", "localisation-mini.localisation.csv"}
    page = (folders.results / "tables/localisation-mini.localisation.md").read_text()
    rows = [re.split(r" *\| *", line.strip("| ")) for line in page.splitlines() if "full + PPL" in line]
    assert rows[1][:3] == ["100% x 70%", "full + PPL", "0.900 ± 0.000"]
    assert rows[1][7:10] == ["0.400 ± 0.000", "0.200 ± 0.000", "0.800 ± 0.100"], (
        "of all tokens, by seeds 0.7, 0.8 and 0.9"
    )
    full = next(line for line in page.splitlines() if "Full data" in line)
    assert rows[1][13] == "0.800 ± 0.000", "AUC of PPL in Q2"
    assert full.count("–") == 3 and "nothing is pruned" in page, "no precision of what is not pruned"
