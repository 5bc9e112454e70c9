"""What jobs ask a cluster for: from the cell and the plan alone, more with every attempt, whatever is here."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qtuning.cli.options import hold_gpus
from qtuning.errors import UserError
from qtuning.experiment.ids import cell_id, evaluation_id
from qtuning.gpus import visible
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.jobs import Jobs
from qtuning.plan.machines import GIB, find_machine
from qtuning.plan.shapes import PUBLISHED
from qtuning.workflow.command_line import submits
from qtuning.workflow.inputs import WorkflowInputs, load_inputs
from qtuning.workflow.requests import Request, Requests, requests_of

REPOSITORY = Path(__file__).parent.parent
SETTINGS: dict[str, Any] = yaml.safe_load((REPOSITORY / "configs/config.yaml").read_text()) | {"warm": False}
LLAMA = PUBLISHED["meta-llama/Llama-2-7b-hf"]


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped configurations with few experiments, and one whose model nobody knows."""
    folder = tmp_path_factory.mktemp("few") / "configs"
    shutil.copytree(REPOSITORY / "configs", folder)
    for path in (folder / "experiments").iterdir():
        if path.stem not in ("table1", "table6", "mini", "mini-methods", "fig7"):
            path.unlink()
    (folder / "models/own.yaml").write_text("source: {kind: hub, id: nobody/knows-it}\n")
    table1 = (folder / "experiments/table1.yaml").read_text()
    (folder / "experiments/own.yaml").write_text(re.sub(r"^models:.*$", "models: [own]", table1, flags=re.MULTILINE))
    return folder


@pytest.fixture(scope="module")
def inputs(configs: Path) -> WorkflowInputs:
    return load_inputs(SETTINGS, configs)


@pytest.fixture(scope="module")
def requests(inputs: WorkflowInputs, configs: Path) -> Requests:
    return requests_of(SETTINGS, inputs, configs)


def cells_of(inputs: WorkflowInputs, experiment: str) -> list[str]:
    return [cell_id(cell) for cell in inputs.grids[experiment].cells if cell.training is not None]


@given(st.floats(1, 1e12), st.floats(0, 1e6), st.integers(1, 9), st.none() | st.integers(1, 10_000))
def test_more_with_every_attempt(memory: float, seconds: float, attempt: int, limit: int | None) -> None:
    request = Request(memory, seconds, limit)
    assert request.mem_mb(attempt) * 2**20 >= attempt * memory
    assert request.mem_mb(attempt + 1) >= request.mem_mb(attempt)
    assert request.minutes(attempt + 1) >= request.minutes(attempt) >= 1
    assert request.minutes(attempt) >= min(attempt * seconds / 60, limit or float("inf"))
    assert limit is None or request.minutes(attempt) <= limit


@pytest.mark.parametrize("devices", [None, "", "0,1,2"])
def test_gpus_come_from_the_cell(requests: Requests, inputs: WorkflowInputs, configs: Path, devices: str | None,
                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Whatever GPUs the login node has. Trainings of 7B went to nodes without GPUs, since it had none."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if devices is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    four = requests_of(SETTINGS, load_inputs(SETTINGS | {"processes": 4}, configs), configs)
    for cell in cells_of(inputs, "table1"):
        assert (requests.gpus(cell), four.gpus(cell), four.gpus(cell, evaluation=True)) == (1, 4, 1)
    for cell in cells_of(inputs, "mini"):
        assert (requests.gpus(cell), four.gpus(cell), four.gpus(cell, evaluation=True)) == (0, 0, 0)


def test_a_job_without_gpus_sees_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    hold_gpus(0)
    assert visible() == []


def test_weights_fit_into_the_memory_that_is_asked_for(requests: Requests, inputs: WorkflowInputs) -> None:
    """4,000 MB were asked for 13.5 GB of weights, which are read into the host first."""
    evaluation = evaluation_id(inputs.grids["table1"].evaluation)
    weights = 2 * LLAMA.parameters
    for cell in cells_of(inputs, "table1"):
        for request in (requests.training(cell), requests.evaluation(cell, evaluation)):
            assert weights + 2 * GIB < request.mem_mb(1) * 2**20 < 2 * weights
    mini = cells_of(inputs, "mini")[0]
    assert requests.training(mini).mem_mb(1) < 4000


def test_time_is_that_of_the_plan(requests: Requests, inputs: WorkflowInputs, configs: Path) -> None:
    machine = find_machine(SETTINGS["machine"])
    slower = requests_of(SETTINGS | {"machine": "4090"}, inputs, configs)
    short = requests_of(SETTINGS | {"time_limit": 30}, inputs, configs)
    jobs = Jobs([inputs.grids["table1"]], inputs.paths, read_assumptions(configs))
    for cell in cells_of(inputs, "table1"):
        planned = 60 * jobs.trainings[cell].hours(machine).total
        asked = requests.training(cell).minutes(1)
        assert planned < asked < 3 * planned + 30
        assert slower.training(cell).minutes(1) > asked
        assert short.training(cell).minutes(3) <= 30


def test_slices_of_a_model_are_no_whole_models(inputs: WorkflowInputs, configs: Path) -> None:
    """Eight processes asked for eight whole models and their moments, 948 GiB, which few nodes have."""
    cells = cells_of(inputs, "table1")
    full = inputs.cells[cells[0]].model_copy(update={"training": inputs.cells[cells[0]].training.model_copy(
        update={"tuning": "full"})})  # fmt: skip
    asked = {}
    for parallel in ("ddp", "fsdp"):
        found = load_inputs(SETTINGS | {"processes": 8, "parallel": parallel}, configs)
        (grid,) = (grid for grid in found.grids.values() if grid.experiment.name == "table1")
        found.grids["table1"] = replace(grid, cells=(full,))
        found.cells[cell_id(full)] = full
        found.experiments_of[cell_id(full)] = ["table1"]
        asked[parallel] = requests_of(SETTINGS, found, configs).training(cell_id(full)).memory / GIB
    state = 3 * 4 * LLAMA.parameters / GIB  # float32 weights and both moments
    assert state < asked["fsdp"] < 4 * state < 8 * state < asked["ddp"]


def test_what_looks_at_samples_once_more_is_one_process(inputs: WorkflowInputs, configs: Path) -> None:
    """It got the time of one of eight processes, and the memory of all."""
    one, eight = (
        requests_of(SETTINGS, load_inputs(SETTINGS | {"processes": count}, configs), configs) for count in (1, 8)
    )
    cell = cells_of(inputs, "table1")[0]
    assert eight.scoring(cell) == one.scoring(cell) == one.training(cell)
    assert eight.training(cell).seconds < one.training(cell).seconds


def test_what_starts_anew_must_fit_into_the_time_limit(inputs: WorkflowInputs, configs: Path) -> None:
    measured = next(name for name, grid in inputs.grids.items() if grid.experiment.measure and grid.cells)
    requests_of(SETTINGS, inputs, configs).check_targets(inputs.grids)
    short = requests_of(SETTINGS | {"time_limit": 5}, inputs, configs)
    with pytest.raises(UserError, match=r"time_limit = 5: the measurement of .* cannot go on where it is stopped"):
        short.check_targets([measured])
    short.check_targets(["mini"])


def test_a_model_of_unknown_size_asks_for_much(inputs: WorkflowInputs, configs: Path) -> None:
    requests = requests_of(SETTINGS | {"time_limit": 1000}, inputs, configs)
    own = cells_of(inputs, "own")[0]
    asked = requests.training(own)
    assert requests.gpus(own) == 1
    assert (asked.mem_mb(1), asked.minutes(1), requests.group(own)) == (66_000, 1000, None)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"machine": "h10"}, "machine = 'h10': unknown; did you mean h100"), ({"machine": "cpu"}, "machine = 'cpu'"),
     ({"time_limit": 0}, "time_limit = 0: must be a whole number of minutes above 0, or null")],
)  # fmt: skip
def test_bad_settings(inputs: WorkflowInputs, configs: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        requests_of(SETTINGS | setting, inputs, configs)


def test_short_jobs_are_grouped(requests: Requests, inputs: WorkflowInputs, configs: Path) -> None:
    """Cells of minutes share a group with cells of the same settings; hours, and what others read, stay alone."""
    groups = {cell: requests.group(cell) for cell in cells_of(inputs, "mini-methods")}
    assert len(set(groups.values()) - {None}) < len(groups)
    by_group: dict[str, set[str]] = {}
    for cell, group in groups.items():
        if group is not None:
            by_group.setdefault(group, set()).add(inputs.group_options(cell))
    assert by_group and all(len(options) == 1 for options in by_group.values())
    assert {requests.group(cell) for cell in cells_of(inputs, "table1")} == {None}
    assert {requests.group(cell) for cell in cells_of(inputs, "fig7-mini")} == {None}, "observed"
    assert {requests.group(name) for name, cell in inputs.cells.items() if cell.part is not None} == {None}
    alone = [group for cell in cells_of(inputs, "table1-smollm2") if (group := requests.group(cell)) is not None]
    assert alone and len(set(alone)) == len(alone), "each cell on a GPU by itself"
    short = requests_of(SETTINGS | {"time_limit": 60}, inputs, configs)
    assert {short.group(cell) for cell in groups} == {None}, "a group asks for the time of all its parts"


@pytest.mark.parametrize(
    "typed",
    ["--cores 2 a", "--executor local -j 2 a", "-n a", "--executor dryrun -j 1 a", "--executor touch -j 1 a"],
)
def test_jobs_that_run_here(typed: str) -> None:
    assert not submits(typed.split())


@pytest.mark.slurm
def test_jobs_that_run_elsewhere() -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    for typed in ("--executor slurm -j 2 a", f"--profile {REPOSITORY}/profiles/slurm -n a"):
        assert submits(typed.split())


def test_jobs_elsewhere_inherit_nothing_of_this_machine(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job on a GPU node looked for the login node's warm server, by its process number."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "QTUNING_WARM"):
        monkeypatch.setenv(name, "7")
    load_inputs(SETTINGS | {"warm": True}, configs, submits=True)
    assert not {"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "QTUNING_WARM"} & os.environ.keys()
    monkeypatch.setenv("QTUNING_WARM", "7")
    load_inputs(SETTINGS | {"warm": False}, configs)
    assert "QTUNING_WARM" not in os.environ, "nor do those here, of a workflow that has ended"
