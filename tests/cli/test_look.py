"""`qtuning contamination` and `qtuning experiments` as they are typed."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from typer.testing import Result

from qtuning.data.contamination import OverlapCheck, checks_of, notes_of_checks
from qtuning.errors import UserError
from qtuning.experiment.grid import ConfigFolder

CONFIGS = Path(__file__).parents[2] / "configs"
QUESTION = "a farmer has three fields and each of them has four rows of twelve trees how many trees"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """A folder of train sets with a local copy, and one GSM8K item that stands in it."""
    configs, data = tmp_path / "configs" / "train_sets", tmp_path / "data"
    configs.mkdir(parents=True)
    (configs / "sums.yaml").write_text("label: Sums\nsource: {kind: hub, id: some/sums}\nlocal: sums.jsonl\n")
    (data / "gsm8k").mkdir(parents=True)
    records = [{"question": text, "answer": "#### 144"} for text in (QUESTION, "how many trees are there")]
    (data / "gsm8k" / "test.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    (data / "sums.jsonl").write_text(json.dumps({"instruction": f"{QUESTION.upper()}?", "output": "144"}) + "\n")
    folders = ["--configs", tmp_path / "configs", "--results", tmp_path / "results"]
    return lambda *arguments: invoke("contamination", *arguments, *folders)


def test_it_writes_a_report_that_tables_can_quote(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("sums", "--benchmarks", "gsm8k", "--data-dir", str(tmp_path / "data"))
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "results" / "contamination").glob("*.json")
    assert path.name.startswith("sums-data-dir-")
    assert json.loads(path.read_text())["benchmarks"]["gsm8k"]["contaminated"] == 1
    assert "a farmer has three fields and each of them has four rows of" in result.output
    check = OverlapCheck(
        ConfigFolder(tmp_path / "configs", tmp_path / "data").train_set("sums"), "data-dir", ("gsm8k",)
    )
    assert notes_of_checks(tmp_path / "results", [check]) == [
        "Contamination: items that share a 13-gram with Sums: GSM8K 1 of 2 (50.0%; 1 shorter, compared whole)."
    ]
    before = path.read_bytes()
    run("sums", "--benchmarks", "gsm8k", "--data-dir", str(tmp_path / "data"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sum"], "train set = 'sum': unknown; did you mean sums?"),
        (["sums", "--benchmarks", "gsm"], "--benchmarks = 'gsm': unknown; did you mean gsm8k?"),
        (["sums", "--source", "hubb"], "--source = 'hubb': unknown; did you mean hub?"),
    ],
)
def test_what_is_asked_wrongly_is_told(arguments: Any, message: str, run: Callable[..., Result]) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def listed(configs: Path) -> list[str]:
    result = invoke("experiments", "--configs", configs)
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.output.splitlines()]


def test_every_experiment_has_its_line(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    folder = tmp_path / "configs/experiments"
    (folder / "broken.yaml").write_text((folder / "table4.yaml").read_text().replace("title:", "titel:"))
    lines = listed(tmp_path / "configs")
    assert [line.split()[0] for line in lines[1:]] == sorted(path.stem for path in folder.glob("*.yaml"))
    found = {line.split()[0]: line for line in lines}
    assert re.search(r"table1 +38 +mini \(61\), smollm2 \(74\) +Table 1: ", found["table1"])
    assert re.search(r"fig5b +15 +mini \(72\), smollm2 \(60\) ", found["fig5b"])
    assert "Figure 6: each stage alone (v1-fig4 is called fig6 now)" in found["v1-fig4"]
    assert re.search(r"mini +19 +Mini world", found["mini"])
    assert re.search(r"invalid: .*broken\.yaml: title: required", found["broken"])


def test_a_broken_edition_is_said_beside_its_experiment(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    scale = tmp_path / "configs/scales/mini.yaml"
    scale.write_text(scale.read_text().replace("models: [mini]", "models: [mimi]"))
    lines = listed(tmp_path / "configs")
    place = next(index for index, line in enumerate(lines) if line.split()[0] == "table1")
    assert "mini (invalid), smollm2 (74)" in lines[place]
    assert "scales/mini.yaml: models = 'mimi': unknown; did you mean mini?" in lines[place + 1]


@pytest.mark.parametrize("experiment", ["table1", "fig5b", "mini"])
def test_the_workflow_gets_the_report_that_it_expects(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not say the protocol, so that every experiment with `protocol: paper` ended without its overlap."""
    rule = (CONFIGS.parent / "workflow/rules/tables.smk").read_text().partition("rule tables:")[0]
    options = re.findall(r"(--[a-z]+) \{params\.(\w+)(?::q)?\}", rule)
    monkeypatch.setattr("qtuning.data.contamination.run_check", lambda *_, **__: {})
    monkeypatch.setattr("qtuning.data.contamination.print_report", lambda *_: None)
    monkeypatch.setattr("qtuning.hub.fetch.ensure", lambda *_: None)
    for check in checks_of(ConfigFolder(CONFIGS).expand([experiment])).values():
        said = vars(check) | {"benchmarks": ",".join(check.benchmarks)}
        typed = [part for option, key in options for part in (option, str(said[key]))]
        done = invoke("contamination", check.train_set.name, *typed, "--results", tmp_path, "--configs", CONFIGS)
        assert done.exception is None, done.output
        assert check.path(tmp_path).is_file()
