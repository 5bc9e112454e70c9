"""Which figures an experiment gets, what stands below them, and that the same store gives the same bytes."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import typer
from figure_frames import cell_rows, table, write_store
from typer.testing import CliRunner

from qtuning.cli.draw import figures
from qtuning.errors import UserError
from qtuning.figures.style import COLUMN, PAGE
from qtuning.figures.write import Written, drawings, write_figures
from qtuning.store.store import Store

ROOT = Path(__file__).parents[2]


def test_every_figure_that_applies_is_written_with_data_and_caption(written: list[Written]) -> None:
    names = [figure.name for figure in written]
    assert names == ["budgets", "pareto", "heatmap", "plane", "flow", "shares", "convergence"]
    folder = written[0].paths[0].parent
    assert json.loads((folder / "captions.json").read_text()) == {figure.name: figure.caption for figure in written}
    for figure in written:
        assert [path.suffix for path in figure.paths] == [".svg", ".pdf", ".png", ".csv"]
        assert len(pl.read_csv(figure.paths[-1])) > 0
        assert b"/Type3" not in figure.paths[1].read_bytes(), "fonts that journals take"
        width = struct.unpack(">I", figure.paths[2].read_bytes()[16:20])[0] / 300
        assert width == pytest.approx(COLUMN, abs=0.01) or width == pytest.approx(PAGE, abs=0.01)
    assert {path.name for path in folder.iterdir()} == {
        "captions.json",
        *(path.name for figure in written for path in figure.paths),
    }


def test_another_process_writes_the_same_bytes(folder: Path, written: list[Written], tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from qtuning.figures.write import write_figures as w; "
    code += "from qtuning.store.store import Store; w('demo', Store(Path(sys.argv[1])), Path(sys.argv[2]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345", "SOURCE_DATE_EPOCH": "86400"}
    subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path)], check=True, env=environment, cwd=tmp_path)
    first = written[0].paths[0].parent
    for path in first.iterdir():
        assert (tmp_path / "demo" / path.name).read_bytes() == path.read_bytes(), path.name


def test_files_tell_nothing_of_when_and_by_what_they_were_made(written: list[Written]) -> None:
    for figure in written:
        svg = figure.paths[0].read_text(encoding="utf-8")
        assert "<dc:date>" not in svg and "Matplotlib" not in svg.split("<g", 1)[0]
        pdf = figure.paths[1].read_bytes()
        assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf and b"atplotlib" not in pdf
        assert b"Software" not in figure.paths[2].read_bytes()[:400]


def test_fonts_are_those_that_matplotlib_brings(tmp_path: Path) -> None:
    """A system may have another DejaVu, which a fresh cache of fonts may find first."""
    code = (
        "import shutil, sys; from dataclasses import replace; from matplotlib import font_manager as f\n"
        "strange = shutil.copy(f.findfont('DejaVu Sans'), sys.argv[1])\n"
        "own = [font for font in f.fontManager.ttflist if font.name == 'DejaVu Sans']\n"
        "f.fontManager.ttflist[:0] = [replace(font, fname=strange) for font in own]\n"
        "assert f.findfont(f.FontProperties(family='DejaVu Sans', size=99)) == strange\n"
        "import qtuning.figures.style; print(f.findfont('DejaVu Sans:size=7'), f.findfont('DejaVu Sans:italic'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "strange.ttf")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert [Path(path).parts[-3:-1] for path in found.stdout.split()] == [("fonts", "ttf")] * 2, found


def test_captions_explain_what_is_drawn_and_name_what_it_rests_on(written: list[Written]) -> None:
    captions = {figure.name: figure.caption for figure in written}
    for name in ("budgets", "pareto"):
        assert "Colour: sample pruner; marker and line style: token pruner." in captions[name]
    assert "in per cent of what training on the full data cost" in captions["pareto"]
    assert "seconds are wall seconds of the machine" in captions["pareto"]
    assert "less than a factor of two means little" in captions["pareto"]
    assert "dotted: 5%, the least that a quadrant should hold" in captions["shares"]
    assert "Blue: better; orange: worse." in captions["heatmap"]
    assert "2 seeds (0, 1)" in captions["pareto"]
    assert "ARC-E 200 (acc)" in captions["pareto"] and "SQuAD 180 (f1)" in captions["pareto"]
    assert "Evaluation evaluation-1234abcd." in captions["pareto"]
    assert "15 cells" in captions["pareto"] and "1 with missing scores" in captions["pareto"]
    assert "git abc1234, torch 2.13.0" in captions["pareto"]
    assert "mini-q-tuning-25x50-s0" in captions["plane"] and "One seed (0)" in captions["plane"]


def test_figures_of_an_earlier_store_do_not_stay(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "demo" / "ratios.svg"
    old.parent.mkdir()
    old.write_text("old")
    small = write_store(tmp_path / "store", table(cell_rows("random+random", 0.5, 0.5), cell_rows("full")))
    names = [figure.name for figure in write_figures("demo", Store(small), tmp_path)]
    assert "plane" not in names and "budgets" not in names  # one budget, and no Q-Tuning
    assert not old.exists()


def test_an_experiment_without_scores_yet_has_no_figures_of_scores(tmp_path: Path) -> None:
    waiting = [
        cell_rows(method, 0.5, 0.5, status="not run", reason="not trained yet")
        for method in ("q-tuning", "random+random")
    ]
    folder = write_store(tmp_path / "store", table(*waiting), logged=False)
    assert [name for name, *_ in drawings(Store(folder), "demo")] == []


def test_an_unknown_experiment_is_named_with_the_nearest_known_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'dem': no rows; did you mean demo"):
        write_figures("dem", Store(folder), tmp_path)
    with pytest.raises(UserError, match=r"cells.parquet: no such file; collect the experiment first"):
        write_figures("demo", Store(tmp_path), tmp_path)


def test_captions_name_only_lines_that_are_drawn(written: list[Written], tmp_path: Path) -> None:
    captions = {figure.name: figure.caption for figure in written}
    assert "Dashed: full data; dotted: zero-shot" in captions["budgets"]
    rows = [cell_rows(method, 0.5, t, score=9.0) for method in ("random+random", "q-tuning") for t in (0.5, 0.7)]
    for extra, told in (([], None), ([cell_rows("zero-shot", seed=None)], "Dotted: zero-shot")):
        store = Store(write_store(tmp_path / str(len(extra)), table(*rows, *extra), logged=False))
        found = {name: caption for name, _, caption in drawings(store, "demo")}
        for name in ("budgets", "pareto"):
            assert "full data" not in found[name], name
            assert ("zero-shot" in found[name]) == (told is not None), name
            assert told is None or told in found[name]


def test_models_and_train_sets_have_figures_of_their_own(tmp_path: Path) -> None:
    rows = [
        cell_rows(method, 0.5, 0.5, seed, model=model, score=30 + seed)
        for model in ("one", "two")
        for method in ("random+random", "q-tuning")
        for seed in (0, 1)
    ]
    names = [name for name, *_ in drawings(Store(write_store(tmp_path, table(*rows))), "demo")]
    assert names.count("pareto") == 1
    for kind in ("heatmap", "plane", "flow", "shares", "convergence"):
        assert {f"{kind}-mini-sft-one", f"{kind}-mini-sft-two"} <= set(names)


def test_the_command_names_what_it_wrote(tmp_path: Path) -> None:
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
