"""What `options.reference` may be, and the one line that says what is wrong with it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from qtuning.errors import UserError
from qtuning.experiment.auxiliary import TrainedReference
from qtuning.experiment.cell import Model, ShippedModelSource
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths, cell_id
from qtuning.experiment.influence import measurement_of
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.references import references_of, with_references
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.bill import bill_of
from qtuning.plan.jobs import Jobs
from qtuning.plan.machines import MACHINES
from qtuning.workflow.inputs import WorkflowInputs

HALF = Ratios(sample_ratio=0.5, token_ratio=0.5)
SEEDS = 3  # of mini-methods
RHO, CLEANING, EVOLVING = "random+rho-1", "random+token-cleaning", "random+self-evolving"


@pytest.mark.parametrize(
    ("method", "reference", "message"),
    [
        (RHO, None, "options.reference: required: the name of a model in configs/models"),
        (RHO, 10, "options.reference: required"),
        (EVOLVING, "mini", "options.reference: required: how to train one"),
        (RHO, {}, "options.reference: samples: required, but not given"),
        (RHO, {"sampels": 10}, "options.reference: sampels: unknown key; did you mean samples"),
        (RHO, {"samples": 0}, "options.reference: samples = 0: input should be greater than 0"),
        (RHO, {"samples": 101}, "samples = 101: input should be less than or equal to 100"),
        (CLEANING, {"samples": 10, "epochs": 0}, "epochs = 0: input should be greater than 0"),
        (CLEANING, {"samples": 10, "parts": 2}, "options.reference.parts = 2: is for self-evolving alone"),
        (EVOLVING, {"samples": 10}, "options.reference.parts = 1: must be 2 or more"),
        (EVOLVING, {"samples": 100, "parts": 2}, "options.reference.samples = 100: leaves nothing for 2 parts"),
        ("random+ppl", {"samples": 10}, "options.reference: this method needs no reference model; leave it out"),
        ("random+fastv", None, None),
    ],
)
def test_a_wrong_reference_is_one_line(method: str, reference: Any, message: str | None) -> None:
    entry = MethodEntry(method=method, options={} if reference is None else {"reference": reference})
    if message is None:
        assert make_pruning(entry, HALF).reference is None
        return
    with pytest.raises(UserError) as error:
        make_pruning(entry, HALF, models={"mini": Model(name="mini", source=ShippedModelSource(kind="shipped"))})
    lines = str(error.value).splitlines()
    assert any(message in line for line in lines) and all(line.startswith(method) for line in lines), lines


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("reference", "{method: random+rho-1, options: {reference: mimi}}"),
        ("proxy", "{method: q-tuning, options: {scoring: {schedule: proxy}, proxy: mimi}}"),
    ],
)
def test_an_unknown_model_is_told_with_the_key_that_names_it(key: str, entry: str, tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[2] / "configs", tmp_path / "configs")
    path = tmp_path / "configs/experiments/mini.yaml"
    path.write_text(path.read_text().replace("methods: [", f"methods: [{entry}, "))
    told = rf"^\S+mini\.yaml: methods: options\.{key}: models = 'mimi': unknown; did you mean mini\? \(valid: .*mini, "
    with pytest.raises(UserError, match=told):
        ConfigFolder(tmp_path / "configs").expand(["mini"])


def test_fastv_of_layer_2_has_one_name() -> None:
    with pytest.raises(UserError, match=r"random\+fastv: options: layer = 2: .*write fastv-original"):
        make_pruning(MethodEntry(method="random+fastv", options={"layer": 2}), HALF)
    assert make_pruning(MethodEntry(method="random+fastv-original"), HALF).token_options["layer"] == 2


def test_references_are_trained_first_shared_and_paid_but_no_rows(tmp_path: Path) -> None:
    library = ConfigFolder(Path(__file__).parents[2] / "configs")
    (grid,) = library.expand(["mini-methods"])
    paths = ResultPaths(tmp_path)
    inputs = WorkflowInputs([grid], paths, None)
    trained = [cell for cell in grid.cells if references_of(cell)]
    assert len(trained) == 3 * SEEDS
    by_method = [trained[start : start + SEEDS] for start in range(0, len(trained), SEEDS)]
    for rho, cleaning, evolving in zip(*([references_of(cell) for cell in cells] for cells in by_method), strict=True):
        assert rho == cleaning and len(rho) == 1 and len(evolving) == 4, "one reference serves both"
    everything = {cell_id(cell) for cell in with_references(grid.cells)}
    warmups = {cell_id(found.warmup) for cell in grid.cells if (found := measurement_of(cell))}  # of LESS
    assert set(inputs.cells) == everything | warmups and len(warmups) == SEEDS
    assert len(everything) == len(grid.cells) + SEEDS * (1 + 4), "the noise is drawn anew for each seed"
    assert inputs.rows == [cell_id(cell) for cell in grid.cells]
    last = cell_id(evolving[-1])
    assert inputs.references(last) == [paths.cell(evolving[-2]) / "weights/generation_config.json"]
    assert paths.cell(evolving[-2]) / "weights.sha256" in inputs.auxiliary_models(last)
    assert inputs.samples(last) == inputs.samples(cell_id(trained[-1])), "no train set is prepared for a reference"
    assumptions = read_assumptions(library.configs)
    bill = bill_of(Jobs([grid], paths, assumptions), MACHINES["cpu"], 1, None)
    (row,) = bill.rows
    assert (row.trainings, row.references) == (len(grid.cells) - 1, SEEDS * (1 + 4 + 1))
    assert sum(model.trainings for model in bill.models) == row.trainings
    alone = grid.experiment.model_copy(update={"name": "alone"})
    twice = bill_of(Jobs([grid, type(grid)(alone, grid.cells)], paths, assumptions), MACHINES["cpu"], 1, None)
    assert twice.total == bill.total and twice.rows[1].references == 0


def test_a_reference_is_labelled() -> None:
    assert TrainedReference(samples=12.5).label == "12.5% of the data"
    evolving = TrainedReference(samples=20, parts=4, epochs=2, seed=1)
    assert evolving.label == "20% of the data, then 4 parts, 2 epochs, seed 1"


def test_what_is_replayed_is_trained_first_and_needs_no_weights(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[2] / "configs", tmp_path / "configs")
    path = tmp_path / "configs/experiments/mini.yaml"
    replay = "{method: replay+replay-random, options: {of: {method: q-tuning, options: {lambda: 0.3}}}}"
    path.write_text(path.read_text().replace("methods: [", f"methods: [{replay}, "))
    (grid,) = ConfigFolder(tmp_path / "configs").expand(["mini"])
    paths = ResultPaths(tmp_path)
    inputs = WorkflowInputs([grid], paths, None)
    replays = [cell for cell in grid.cells if cell.pruning is not None and cell.pruning.replay is not None]
    assert replays
    for cell in replays:
        (recorded,) = references_of(cell)
        assert cell_id(recorded) in inputs.cells and recorded.pruning is not None
        assert recorded.pruning.token_options["lambda"] == 0.3
        assert inputs.references(cell_id(cell)) == [paths.cell(recorded) / "trace.parquet"]
        assert paths.cell(recorded) / "weights.sha256" in inputs.auxiliary_models(cell_id(cell))
