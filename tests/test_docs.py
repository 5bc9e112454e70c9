"""What the documents show works as shown."""

import re
import shutil
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml

from qtuning.cli.app import main
from qtuning.experiment.cell import Readings, Scoring
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS, Need, TokenPruningOptions, TriageOptions
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.pruners.base import Candidates
from qtuning.pruners.method import method_of
from qtuning.scoring.scores import BatchScores

REPOSITORY = Path(__file__).parent.parent
PRUNERS = "docs/pruners.md"


def blocks(document: str, language: str) -> list[str]:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def table(*headings: str, document: str = PRUNERS) -> list[list[str]]:
    """The rows of the table of a document that begins with these columns, without backticks."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    _, found, after = text.partition(f"\n| {' | '.join(headings)} |")
    assert found, headings
    lines = after.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: with `configs`, and the code of the document about pruners as my_pruners.py."""
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    (tmp_path / "my_pruners.py").write_text("\n".join(blocks(PRUNERS, "python")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_pruners", raising=False)
    return tmp_path


def test_pruners_of_the_document_keep_the_rules(
    beside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = re.findall(r"^qtuning check-pruner .*$", (REPOSITORY / PRUNERS).read_text(), flags=re.MULTILINE)
    for line in (command, "qtuning check-pruner my_pruners:Unlearned", "qtuning check-pruner my_pruners:keep_new"):
        monkeypatch.setattr(sys, "argv", line.split())
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr().out
        assert not stop.value.code, printed
        assert sys.argv[2] in printed and "the same rows" not in printed
        assert [row.split()[1] for row in printed.splitlines() if row.split()[:1] == ["ok"]] == [
            row[0] for row in table("rule")
        ]
    assert all(len(code.splitlines()) < 30 for code in blocks(PRUNERS, "python"))


def test_pruner_of_the_document_prunes_as_it_says(beside: Path) -> None:
    lengths = torch.ones(6, dtype=torch.int64)
    nll = torch.tensor([1.0, 5.0, 2.0, 6.0, 3.0, 4.0], dtype=torch.float64)
    candidates = Candidates(torch.arange(6), lengths, BatchScores(nll, nll, lengths))
    kept = []
    for share in (0, 0.5, 1):
        entry = MethodEntry(method="my_pruners:keep_hard+random", options={"share": share})
        method = method_of(make_pruning(entry, Ratios(sample_ratio=0.7, token_ratio=1.0)))
        draws = [method.select(candidates, torch.Generator().manual_seed(seed)).samples.kept for seed in range(20)]
        assert all(int(drawn.sum()) == 4 for drawn in draws)
        kept.append(torch.stack(draws).sum(dim=0).tolist())
    assert all(0 < count < 20 for count in kept[0])
    assert [count == 20 for count in kept[1]] == [False, True, False, True, False, False]
    assert kept[2] == [0, 20, 0, 20, 20, 20]


def test_reference_model_of_the_document(beside: Path) -> None:
    """The recipe for Rho-1: a model of one's own, and the method that names it."""
    (model,) = [block for block in blocks(PRUNERS, "yaml") if "source:" in block]
    (beside / "configs/models/mini-reference.yaml").write_text(model)
    (method,) = re.findall(r"`(\{method: random\+rho-1.*?\}\})`", (REPOSITORY / PRUNERS).read_text())
    experiment = yaml.safe_load((beside / "configs/experiments/mini.yaml").read_text())
    experiment |= {"methods": [yaml.safe_load(method)], "zero_shot": False, "budgets": ["25x50"], "seeds": [0]}
    (beside / "configs/experiments/mine.yaml").write_text(yaml.safe_dump(experiment))
    (grid,) = ConfigFolder(beside / "configs").expand(["mine"])
    assert [cell.pruning.reference.label for cell in grid.cells if cell.pruning and cell.pruning.reference] == [
        "Mini, tuned"
    ]


def test_methods_of_the_document_are_methods(beside: Path) -> None:
    mini = yaml.safe_load((beside / "configs/experiments/mini.yaml").read_text())
    found = [block for block in map(yaml.safe_load, blocks(PRUNERS, "yaml")) if "methods" in block]
    for block in found:
        experiment = mini | block | {"zero_shot": False, "budgets": ["25x50"], "seeds": [0]}
        (beside / "configs/experiments/mine.yaml").write_text(yaml.safe_dump(experiment))
        (grid,) = ConfigFolder(beside / "configs").expand(["mine"])
        assert len(grid.cells) == len(block["methods"])
    assert [cell.pruning.sample_options for cell in grid.cells if cell.pruning] == [{"share": 0.5}, {"share": 0.8}]


def test_whole_experiment_of_the_document_is_one(beside: Path) -> None:
    (text,) = re.findall(r"```\n(title: My pruner.*?)```", (REPOSITORY / PRUNERS).read_text(), flags=re.DOTALL)
    (beside / "configs/experiments/my-pruner.yaml").write_text(text)
    (grid,) = ConfigFolder(beside / "configs").expand(["my-pruner"])
    methods = [cell.pruning.method for cell in grid.cells if cell.pruning]
    assert methods == ["random+random", "q-tuning", "my_pruners:keep_hard+random"]


def test_document_lists_every_pruner_with_its_scope_and_every_need() -> None:
    assert {row[0]: row[1] for row in table("name", "scope")} == {
        name: info.scope for name, info in SAMPLE_PRUNERS.items()
    }
    assert [row[0] for row in table("name", "keeps")] == list(TOKEN_PRUNERS)
    assert {row[0] for row in table("need")} == set(get_args(Need))


def test_document_lists_every_reading_with_its_values() -> None:
    fields = TriageOptions.model_fields | TokenPruningOptions.model_fields | Readings.model_fields
    rows = table("#", "where", "key", "values")
    assert [row[0] for row in rows] == [f"A{number}" for number in range(1, 18)]
    for reading, where, key, values, *_ in rows:
        assert values.split(", ") == list(get_args(fields[key].annotation))
        assert fields[key].default == values.split(", ")[0]
        assert str(fields[key].description).startswith(f"{reading}: ")
        assert (where == "all") == (key in Readings.model_fields)
    assert fields.keys() - {row[2] for row in rows} == {"lambda_", "drop_in", "prune_in"}


def test_document_lists_every_way_of_scoring_with_its_values() -> None:
    headings = ("key", "value", "what it does", "what it costs (full fine-tuning)", "its decisions")
    listed: dict[str, list[str]] = {}
    key = ""
    for first, value, *told in table(*headings, document="docs/scoring.md"):
        key = first or key
        listed.setdefault(key, []).append(value)
        assert all(told), f"{key} {value}: what it does, costs and decides"
    assert list(listed) == list(Scoring.model_fields)
    for key, field in Scoring.model_fields.items():
        values = get_args(field.annotation)
        if key == "compare_every":
            assert listed[key] == ["none (default), a number of updates"] and field.default is None
        elif values:
            assert [value.removesuffix(" (default)") for value in listed[key]] == list(values)
            assert [value for value in listed[key] if "(default)" in value] == [f"{field.default} (default)"]
        else:
            assert len(listed[key]) == 1 and listed[key][0].startswith(f"{field.default} (default)")
    (block,) = blocks("docs/scoring.md", "yaml")
    schedules = [
        make_pruning(MethodEntry.model_validate(entry), Ratios(sample_ratio=0.5, token_ratio=0.5)).scoring.schedule
        for entry in (e if isinstance(e, dict) else {"method": e} for e in yaml.safe_load(block)["methods"])
    ]
    assert set(schedules) == set(get_args(Scoring.model_fields["schedule"].annotation))


def test_experiment_of_the_readme_is_valid(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    (block,) = blocks("README.md", "yaml")
    (tmp_path / "configs/experiments/my-table.yaml").write_text(block)
    (grid,) = ConfigFolder(tmp_path / "configs").expand(["my-table"])
    # zero-shot, and 3 seeds of full data, and of random+random and two q-tunings at two budgets
    assert len(grid.cells) == 1 + 3 * (1 + 2 * 3)


@pytest.mark.parametrize(
    "document", ["README.md", *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert ((REPOSITORY / document).parent / target).exists(), target
