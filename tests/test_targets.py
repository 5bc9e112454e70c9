"""What the workflow makes of experiments: targets, and that a mistake in one of them is its own affair."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qtuning.errors import UserError
from qtuning.workflow import Plan, load

REPOSITORY = Path(__file__).parent.parent
CONFIGS = REPOSITORY / "configs"


def plan_of(configs: Path) -> Plan:
    config: dict[str, Any] = yaml.safe_load((CONFIGS / "config.yaml").read_text())
    return load(config, configs)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(CONFIGS)


def test_targets(plan: Plan) -> None:
    for name in ("table1-mini", "fig4"):
        assert [str(path) for path in plan.targets(name)] == [f"results/tables/{name}.md", f"results/figures/{name}"]
    assert [str(path) for path in plan.targets("stability-mini")] == ["results/figures/stability-mini"], (
        "nothing to evaluate: no table"
    )
    assert [str(path) for path in plan.targets("localisation-mini")] == [
        "results/tables/localisation-mini.localisation.md",
        "results/figures/localisation-mini",
    ]
    assert [path.name for path in plan.cells_of("stability-mini")] == ["train.json"] * 18
    localisation = [path.name for path in plan.cells_of("localisation-mini")]
    assert sorted(localisation) == ["localisation.json"] * 18 + ["train.json"] * 18
    with pytest.raises(UserError, match=r"stability-mini.*has no `evaluation`, and therefore no table"):
        plan.scores("stability-mini")
    with pytest.raises(UserError, match="unknown; did you mean table1-mini"):
        plan.targets("table1-mni")


def test_shared_cells_are_asked_for_once(plan: Plan) -> None:
    scores = [path for name in ("table1-mini", "fig5-mini", "table4-mini") for path in plan.cells_of(name)]
    assert len(set(scores)) == len(scores) - 2 * (3 + 3), "Q-Tuning of two seeds and three budgets, in two of them"


def test_weights_go_or_stay(plan: Plan) -> None:
    """Each cell matches one of the two rules that train, adapters the one that keeps them."""
    temporary, lasting = (re.compile(f"{pattern}/train.json") for pattern in (plan.temporary(), plan.lasting()))
    for identity, cell in plan.cells.items():
        path = f"{identity}/train.json"
        adapter = cell.training is not None and cell.training.tuning == "lora"
        assert bool(temporary.fullmatch(path)) == (not adapter)
        assert bool(lasting.fullmatch(path)) == adapter


def test_an_invalid_experiment_is_told_to_who_asks_for_it(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    broken = tmp_path / "configs/experiments/broken.yaml"
    broken.write_text("title: [")
    scale = tmp_path / "configs/scales/mini.yaml"
    scale.write_text(scale.read_text().replace("seeds: [0, 1]", "seeds: [0, -1]"))
    (tmp_path / "configs/experiments/train.yaml").write_text("title: called like a rule")
    found = plan_of(tmp_path / "configs")
    assert "broken" in found.experiments and "train" not in found.experiments
    assert found.targets("table1") and found.targets("table1-smollm2")
    with pytest.raises(UserError, match=f"{re.escape(str(broken))}: line 1: not valid YAML"):
        found.targets("broken")
    for name in ("table1-mini", "fig4-mini"):
        with pytest.raises(UserError, match=r"scales/mini\.yaml: seeds\.1\.data = -1"):
            found.scores(name)


def test_snakemake_runs_what_is_valid_and_explains_what_is_not(tmp_path: Path) -> None:
    for name in ("workflow", "profiles", "configs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copy(REPOSITORY / "Snakefile", tmp_path)
    (tmp_path / "configs/experiments/broken.yaml").write_text("title: B\nparts: [table1, tabel2]\n")

    def dry_run(*targets: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", *targets]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    result = dry_run("table4", "table5-mini", "localisation-mini")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = re.findall(r"^([\w-]+) +(\d+)$", result.stdout + result.stderr, flags=re.MULTILINE)
    jobs = {rule: int(count) for rule, count in rows}
    counted = ("train", "train_and_keep", "evaluate", "localise", "tables", "localisation_table", "figures")
    assert {name: jobs[name] for name in counted} == {
        "train": 30 + 18,
        "train_and_keep": 11,
        "evaluate": 11 + 30,
        "localise": 18,
        "tables": 2,
        "localisation_table": 1,
        "figures": 3,
    }
    result = dry_run("table1", "table2")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    rows = re.findall(r"^([\w-]+) +(\d+)$", result.stdout + result.stderr, flags=re.MULTILINE)
    jobs = {rule: int(count) for rule, count in rows}
    assert (jobs["train_and_keep"], jobs["evaluate"]) == (206 + 156, 208 + 159)
    assert "train" not in jobs and jobs["tables_beside_the_paper"] == 2
    result = dry_run("broken")
    assert result.returncode != 0
    assert "configs/experiments/broken.yaml: parts: experiment = 'tabel2': unknown; did you mean table2?" in (
        result.stdout + result.stderr
    )
