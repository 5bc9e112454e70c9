"""What the workflow tells jobs of the runs that mirror them, and the commands that write runs and dashboards."""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from cell_folders import Folders
from command_line import invoke
from no_login import log_out
from offline_runs import offline_runs

from qtuning.errors import UserError
from qtuning.experiment.ids import ResultPaths, cell_id
from qtuning.workflow.inputs import WorkflowInputs
from qtuning.workflow.tracked import ASKED, TrackedRuns


@pytest.fixture
def inputs(make_folders: Any, tmp_path: Path) -> WorkflowInputs:
    """Two experiments that share cells; `other` asks fewer benchmarks, and its Q-Tuning varies."""
    lambdas = [{"method": "q-tuning", "options": {"lambda": value}} for value in (0.5, 0.3)]
    grids = [make_folders().grid]
    evaluation = grids[0].experiment.evaluation.model_dump(mode="json") | {"benchmarks": ["gsm8k"]}
    grids.append(make_folders(name="other", methods=["full", *lambdas], evaluation=evaluation).grid)
    return WorkflowInputs(grids, ResultPaths(tmp_path / "results"), None)


def test_the_experiment_that_was_asked_for_is_the_group(
    inputs: WorkflowInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ASKED, "")
    shared = next(name for name in inputs.cells if "full-s0" in name)
    assert TrackedRuns(inputs, ["other"]).options(shared) == "--group other --group mini"
    # Snakemake's own processes have no targets, and know it from the one that started them
    assert os.environ[ASKED] == "other"
    assert TrackedRuns(inputs, None).options(shared) == "--group other --group mini"
    assert TrackedRuns(inputs, ["all"]).options(shared) == "--group mini --group other"


class TestReplay:
    @pytest.fixture
    def folders(self, folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Folders:
        log_out(monkeypatch, tmp_path)
        folders.finish(folders.find("zero-shot"))
        return folders

    def replay(self, folders: Folders, *arguments: str) -> str:
        where = ["--results", folders.results, "--configs", folders.results.parent / "configs"]
        result = invoke("replay", *arguments, *where)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    def test_of_an_experiment(self, folders: Folders) -> None:
        printed = self.replay(folders, "mini", "--tracking", "offline")
        assert printed.startswith("1 of 1 cells written")
        assert f"{len(folders.grid.cells) - 1} cells are not finished" in printed
        assert "no intervals, comparisons and store of mini" in printed
        folder = shlex.quote(str(folders.results / "wandb"))
        assert printed.splitlines()[-1].endswith(f"cd {folder} && wandb sync --yes")
        assert self.replay(folders, "mini", "--tracking", "offline").startswith("0 of 1 cells written")
        (run,) = offline_runs(folders.results)
        assert (run.name, run.group) == (cell_id(folders.find("zero-shot")), "mini")

    def test_refusals_are_told(self, folders: Folders, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file; give the folder of a cell"):
            self.replay(folders, str(tmp_path))
        with pytest.raises(UserError, match="nothing to write"):
            self.replay(folders, "mini", "--tracking", "disabled")
        with pytest.raises(UserError, match="--tracking = 'trakio': unknown; did you mean trackio"):
            self.replay(folders, "mini", "--tracking", "trakio")
        (folders.results / "wandb").write_text("in the way")
        with pytest.raises(UserError, match=r"zero-shot-.*: not sent: "):
            self.replay(folders, "mini", "--tracking", "offline")
