"""`qtuning explore` as it is typed: which trainings it finds, what it says where there is none, untrained data."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke
from explored import arrays_in, meta_of, row

from qtuning.embed import ASSETS
from qtuning.errors import UserError
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths, cell_id
from qtuning.explore.find import find_cell, find_cells
from qtuning.files import write_text
from qtuning.probes.inputs import find_model, find_train_set
from qtuning.probes.score_file import score_file

CONFIGS = Path(__file__).parents[2] / "configs"


def finished(make_folders: Callable[..., Any], **changes: Any) -> Any:
    """An experiment of which everything but the full data at seed 1 is trained."""
    folders = make_folders(**changes)
    for cell in folders.grid.cells:
        if cell.pruning is not None and not (cell.pruning.method == "full" and cell.seeds.data == 1):
            folders.train(cell)
            (folders.folder(cell) / "trace.parquet").touch()
    return folders


def labels(found: Any) -> list[str]:
    return [label for _, label in found.cells]


def test_what_an_experiment_shows(make_folders: Callable[..., Any]) -> None:
    folders = finished(make_folders, budgets=["25x50", "50x70"], seeds=[0, 1])
    paths = ResultPaths(folders.results)
    found = find_cells(folders.grid, paths)
    names = ["Q-Tuning, 25% x 50%", "Q-Tuning, 50% x 70%", "random + random, 25% x 50%", "random + random, 50% x 70%"]
    assert labels(found) == [*names, "Full data"] and found.left_out == 0
    assert {cell.seeds.data for cell, _ in found.cells} == {0}
    assert labels(find_cells(folders.grid, paths, seed=1)) == names
    few = find_cells(folders.grid, paths, budgets=["50x70"], most=1)
    assert labels(few) == [names[1]] and few.left_out == 1
    assert labels(find_cells(folders.grid, paths, methods=["random+random", "full"])) == [*names[2:], "Full data"]
    cell, _ = found.cells[0]
    assert find_cell(cell_id(cell), paths).cells[0][1] == names[0]


def test_what_is_not_there(make_folders: Callable[..., Any]) -> None:
    folders = make_folders()
    paths = ResultPaths(folders.results)
    for wanted, message in (
        ({}, "mini: no training of it that was asked for is finished below"),
        ({"methods": ["q-tunin"]}, "--method = 'q-tunin': not in mini; did you mean q-tuning?"),
        ({"budgets": ["10x10"]}, "--budget = '10x10': not in mini"),
        ({"seed": 77}, "--seed = '77': not in mini"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            find_cells(folders.grid, paths, **wanted)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no finished training"):
        find_cell("nobody", paths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wizardlm"], "wizardlm: is data; add --model"),
        (["minni"], "minni"),
        (["DATA", "--model", "mini", "--budget", "0x50"], "--budget = '0x50': per cent of samples must be above 0"),
        (["DATA", "--model", "mini", "--method", "random+rho-1"], "reference"),
        (["DATA", "--model", "mini", "--method", "deita+random"], "needs"),
    ],
)
def test_one_clear_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    data = tmp_path / "data.jsonl"
    write_text(data, "\n".join(json.dumps({k: row(n)[k] for k in ("instruction", "output")}) for n in range(8)))
    asked = [str(data) if argument == "DATA" else argument for argument in arguments]
    result = invoke("explore", *asked, "--configs", CONFIGS, "--results", tmp_path, "--out", tmp_path / "out")
    assert isinstance(result.exception, UserError) and message in str(result.exception), result.exception
    assert not (tmp_path / "out").exists()


def test_a_cell_by_its_name(run: tuple[Path, Any, Any], tmp_path: Path) -> None:
    root, _, cells = run
    name = cell_id(cells[0])
    for asked in (name, root / "cells" / name):
        result = invoke("explore", asked, "--results", root, "--configs", CONFIGS, "--out", tmp_path, "--samples", 30)
        assert result.exit_code == 0, result.exception
        page = tmp_path / f"{name}.html"
        assert result.output.startswith(f"30 of 40 samples, 1 method: Q-Tuning, 50% x 50%\n{page}")
        assert meta_of(page)["lines"][0]["cell"] == name and len(arrays_in(page)["number"]) == 30
        page.unlink()


def test_data_without_training(tmp_path: Path) -> None:
    """Scores as `qtuning plane` has them, which scores the file by another path."""
    data, folders = tmp_path / "data.jsonl", ["--configs", CONFIGS, "--results", tmp_path / "results"]
    write_text(data, "\n".join(json.dumps({k: row(n)[k] for k in ("instruction", "output")}) for n in range(20)))
    result = invoke("explore", data, "--model", "mini", "--budget", "50x50", *folders)
    assert result.exit_code == 0, result.exception
    page = tmp_path / "results" / "explore" / "mini-data.html"
    assert f"20 samples, 2 methods: Q-Tuning, 50% x 50%; random + random, 50% x 50%\n{page}" in result.output
    arrays, meta = arrays_in(page), meta_of(page)
    assert meta["lines"][0]["updates"] >= 1 and meta["lines"][0]["notes"] == []
    named = ConfigFolder(CONFIGS)
    found = find_model("mini", None, named), find_train_set(str(data), named)
    scored = score_file(*found, ResultPaths(tmp_path / "results"), sample_ratio=0.5).samples.sort("row")
    assert np.allclose(arrays["0.ppl"], scored["ppl"].to_numpy(), rtol=1e-4)
    assert np.allclose(arrays["0.entropy"], scored["entropy"].to_numpy(), atol=1e-4)
    assert ((arrays["0.flags"] & 8) > 0).all(), "all tokens have scores"


def test_the_library_is_the_published_one() -> None:
    said = re.search(r"sha256\s+([0-9a-f]{64})", (ASSETS / "echarts" / "README.md").read_text(encoding="utf-8"))
    found = hashlib.sha256((ASSETS / "echarts" / "echarts.common.min.js").read_bytes()).hexdigest()
    assert said is not None and said[1] == found
