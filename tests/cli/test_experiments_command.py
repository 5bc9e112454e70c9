"""`qtuning experiments`: every experiment, its cells and scales, and what is wrong with those that cannot be read."""

import re
import shutil
from pathlib import Path

import typer
from typer.testing import CliRunner

from qtuning.cli.look import experiments

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def listed(configs: Path) -> list[str]:
    app = typer.Typer()
    app.command()(experiments)
    result = CliRunner().invoke(app, ["--configs", str(configs)])
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.output.splitlines()]


def test_every_experiment_has_its_line(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    folder = tmp_path / "configs/experiments"
    (folder / "broken.yaml").write_text((folder / "table4.yaml").read_text().replace("title:", "titel:"))
    lines = listed(tmp_path / "configs")
    assert [line.split()[0] for line in lines[1:]] == sorted(path.stem for path in folder.glob("*.yaml"))
    found = {line.split()[0]: line for line in lines}
    assert re.search(r"table1 +208 +mini \(207\), smollm2 \(414\) +Table 1: ", found["table1"])
    assert re.search(r"fig5b +15 +mini \(30\), smollm2 \(60\) ", found["fig5b"])
    assert re.search(r"mini +11 +Mini world", found["mini"])
    assert re.search(r"invalid: .*broken\.yaml: title: required", found["broken"])


def test_a_broken_edition_is_said_beside_its_experiment(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    scale = tmp_path / "configs/scales/mini.yaml"
    scale.write_text(scale.read_text().replace("models: [mini]", "models: [mimi]"))
    lines = listed(tmp_path / "configs")
    place = next(index for index, line in enumerate(lines) if line.split()[0] == "table1")
    assert "mini (invalid), smollm2 (414)" in lines[place]
    assert "scales/mini.yaml: models = 'mimi': unknown; did you mean mini?" in lines[place + 1]
