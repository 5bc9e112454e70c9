"""The command line: help that teaches, one clear line for bad input, exit codes that tell."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def qtuning(*arguments: str, cwd: Path = REPOSITORY) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "qtuning", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_cells_are_listed_and_written(tmp_path: Path) -> None:
    result = qtuning("cells", "mini", "--results", str(tmp_path), "--write")
    assert result.returncode == 0, result.stderr
    listed = result.stdout.split()
    assert len(listed) == 19  # zero-shot, and 2 seeds of full data and of 4 methods at 2 budgets
    assert {path.stem for path in (tmp_path / "configurations").iterdir()} > set(listed)


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    return tmp_path / "configs"


def test_all_errors_of_a_configuration_come_at_once_each_with_file_key_and_value(configs: Path) -> None:
    path = configs / "experiments" / "mini.yaml"
    text = path.read_text()
    for right, wrong in (
        ("models: [mini]", "models: [mimi]"),
        ("train_sets: [mini]", "train_sets: [minni]"),
        (", random+random,", ", random+randon,"),
        ("arc_easy,", "arc_esy,"),
    ):
        assert right in text
        text = text.replace(right, wrong)
    path.write_text(text)
    result = qtuning("cells", "mini", cwd=configs.parent)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for expected in (
        "models = 'mimi': unknown; did you mean mini?",
        "train_sets = 'minni': unknown; did you mean mini?",
        "'randon': unknown token pruner; did you mean random?",
        "evaluation.benchmarks = 'arc_esy': unknown; did you mean arc_easy?",
    ):
        assert f"configs/experiments/mini.yaml: {expected}" in result.stderr.replace("methods: ", "")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            "budgets: [25x50, 50x70]",
            'budgets: ["0x50"]',
            "budgets.0 = '0x50': per cent of samples must be above 0 and at most 100",
        ),
        (
            "budgets: [25x50, 50x70]",
            "budgets: [25x500]",
            "budgets.0 = '25x500': per cent of tokens must be above 0 and at most 100",
        ),
        (
            "budgets: [25x50, 50x70]",
            "budgets: [0x50]",
            "budgets.0 = '0x50': per cent of samples must be above 0 and at most 100",
        ),
        (
            "budgets: [25x50, 50x70]",
            "budgets: [25]",
            "budgets.0 = 25: read by YAML as a number, which is no budget",
        ),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds.1 = 0: is the same as seeds.0; leave it out"),
        ("seeds: [0, 1]", "seeds: [-1]", "seeds.0 = -1: is no seed; write 0 or a number above"),
        ("full, epochs:", "full, epoks:", "training.epoks: unknown key; did you mean epochs?"),
        ("models: [mini]", "", "models: required, but not given"),
        ("train_sets: [mini]", "train_sets: [mini]\ntrain_sets: [mini]", "key 'train_sets' is written twice"),
    ],
)
def test_bad_values_are_named(configs: Path, right: str, wrong: str, message: str) -> None:
    path = configs / "experiments" / "mini.yaml"
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong, 1))
    result = qtuning("cells", "mini", cwd=configs.parent)
    assert result.returncode == 2
    assert message in result.stderr
    assert "configs/experiments/mini.yaml" in result.stderr


@pytest.mark.parametrize(
    "arguments", [("experiments",), ("plan", "mini"), ("tables", "mini", "fig4"), ("contamination", "mini")]
)
def test_outside_a_clone_is_told_once(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = qtuning(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    expected = "error: configs: no such folder; run it in a clone of the repository or give --configs\n"
    assert (result.stdout, result.stderr) == ("", expected)
    assert not list(tmp_path.iterdir())


def test_tables_say_where_they_are(tmp_path: Path) -> None:
    """Of what was never run there are none; one cell that failed is enough."""
    result = qtuning("tables", "mini", "--results", str(tmp_path))
    assert (result.returncode, result.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert result.stderr.startswith(f"error: mini: none of its 19 cells was ever run in {tmp_path}; run it first")
    assert f"`snakemake --cores all mini --config results={tmp_path}`" in result.stderr
    ids = qtuning("cells", "mini", "--results", str(tmp_path)).stdout.split()
    failed = tmp_path / "cells" / next(name for name in ids if "q-tuning" in name)
    failed.mkdir(parents=True)
    (failed / "failed.json").write_text(json.dumps({"status": "failed", "reason": "out of memory"}))
    result = qtuning("tables", "mini", "--results", str(tmp_path))
    assert result.returncode == 0, result.stderr
    pages = [f"{tmp_path}/tables/mini.partial.{kind}" for kind in ("md", "cost.md")]
    assert result.stdout.splitlines()[-2:] == pages
    assert all(Path(page).exists() for page in pages)


def test_a_traceback_begins_with_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Not with what called it: the warm server, typer."""
    from qtuning.cli import app as cli
    from qtuning.cli import look

    monkeypatch.setattr(sys, "argv", ["qtuning", "experiments"])
    monkeypatch.setattr("qtuning.experiment.grid.ConfigFolder", lambda configs: 1 // 0)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    heading, first, *_, last = capsys.readouterr().err.splitlines()
    assert (heading, last) == (
        "Traceback (most recent call last):",
        "ZeroDivisionError: integer division or modulo by zero",
    )
    assert look.__file__ in first


def test_unknown_experiment_names_the_nearest() -> None:
    result = qtuning("tables", "mni")
    assert result.returncode == 2
    assert "experiment = 'mni': unknown; did you mean mini?" in result.stderr


@pytest.mark.parametrize("command", ["base-model", "prepare", "train"])
def test_missing_configuration_says_how_to_write_it(command: str, tmp_path: Path) -> None:
    result = qtuning(command, str(tmp_path / "none.json"))
    assert result.returncode == 2
    assert "qtuning cells EXPERIMENT --write" in result.stderr


def test_zero_shot_cell_cannot_be_trained(tmp_path: Path) -> None:
    qtuning("cells", "mini", "--results", str(tmp_path), "--write")
    (configuration,) = tmp_path.glob("configurations/mini-zero-shot-*.json")
    result = qtuning("train", str(configuration), "--results", str(tmp_path))
    assert result.returncode == 2
    assert "there is nothing to train" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--accelerate", "configs/accelerate/ddp-8.yaml"], "no such option any more; write --processes N"),
        (["--processes", "3"], "batch_size 8 x 3 processes must divide it"),
        (["--processes", "8", "--nodes", "3"], "processes = 8: nodes = 3 must divide it"),
        (["--parallel", "fsdp"], "parallel = 'fsdp': shares a model among processes, and processes = 1"),
    ],
)
def test_a_launch_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any, options: list[str], message: str
) -> None:
    from qtuning.cli import app as cli
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import cell_json

    cell = next(cell for cell in ConfigFolder(REPOSITORY / "configs").expand(["mini"])[0].cells if not cell.zero_shot)
    (tmp_path / "cell.json").write_text(cell_json(cell))
    monkeypatch.setattr(sys, "argv", ["qtuning", "train", str(tmp_path / "cell.json"), *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
