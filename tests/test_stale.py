"""What is stale is told by digests of what lies there, and never by times."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_workflow_inputs import CONFIGS, inputs_of

from qtuning.data.sources import describe_source
from qtuning.evaluation import inputs as evaluated
from qtuning.experiment.ids import cell_id, pair_id
from qtuning.files import write_json
from qtuning.store.fresh import mark_collected
from qtuning.train.inputs import read_inputs
from qtuning.workflow.inputs import WorkflowInputs
from qtuning.workflow.stale import Stale

EXPERIMENT = """
title: Stale
models: [hub]
train_sets: [own]
methods: [full, random+random]
budgets: [25x50]
seeds: [0]
training: {tuning: full, epochs: 1, batch_size: 8}
evaluation: {benchmarks: [triviaqa], source: data-dir}
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stale") / "configs"
    shutil.copytree(CONFIGS, folder, ignore=shutil.ignore_patterns("experiments"))
    (folder / "experiments").mkdir()
    (folder / "models/hub.yaml").write_text("source: {kind: hub, id: nobody/knows-it}\n")
    (folder / "experiments/own.yaml").write_text(EXPERIMENT)
    (folder / "train_sets/own.yaml").write_text("label: Own\nsource: {kind: data-dir, file: own.jsonl}\n")
    return folder


@pytest.fixture
def inputs(configs: Path, tmp_path: Path) -> WorkflowInputs:
    """Of a results folder in which everything is finished."""
    (tmp_path / "data/triviaqa").mkdir(parents=True)
    (tmp_path / "data/own.jsonl").write_text("one\n")
    (tmp_path / "data/triviaqa/validation.jsonl").write_text("a question\n")
    inputs = inputs_of(configs, data_dir=str(tmp_path / "data"), results=str(tmp_path / "results"))
    paths, (grid,) = inputs.paths, inputs.grids.values()
    assert grid.evaluation is not None
    trained = [cell for cell in grid.cells if not cell.zero_shot]
    for cell in trained:
        assert cell.train_set is not None
        report = {"data_fingerprint": "one", "source": describe_source(cell.train_set, inputs.data_dir)}
        write_json(paths.samples(cell) / "report.json", report | {"ratings": None, "tokenizer_fingerprint": "t"})
    for cell in grid.cells:
        write_json(paths.model(cell) / "model.json", {"revision": None, "sha256": "m"})
        if cell in trained:
            told = read_inputs(paths.model(cell), paths.samples(cell), {}, [], None)
            write_json(paths.cell(cell) / "train.json", {"inputs": told})
            (paths.cell(cell) / "weights.sha256").write_text(cell_id(cell))
        told = evaluated.read_inputs(cell, grid.evaluation, paths, inputs.data_dir)
        write_json(paths.evaluation(cell, grid.evaluation) / "scores.json", {"inputs": told})
    return inputs


def stale(inputs: WorkflowInputs) -> set[str]:
    """Names of all that is stale: of the train set, of cells, of evaluations."""
    found = Stale(inputs)
    names = {"train set" for cell in trained(inputs) if found.train_set(pair_id(inputs.cells[cell]))}
    names |= {inputs.cells[cell].pruning.method for cell in trained(inputs) if found.training(cell)}  # type: ignore[union-attr]
    for evaluation in inputs.evaluations:
        names |= {f"scores of {cell.rpartition('-')[0]}" for cell in inputs.cells if found.scores(cell, evaluation)}
    return names


def trained(inputs: WorkflowInputs) -> list[str]:
    return [name for name, cell in inputs.cells.items() if not cell.zero_shot]


OF_CELLS = {"scores of hub-own-full-s0", "scores of hub-own-random+random-25x50-s0"}


def test_times_of_files_say_nothing(inputs: WorkflowInputs) -> None:
    assert stale(inputs) == set()
    for number, path in enumerate(sorted(inputs.paths.root.parent.rglob("*"))):
        os.utime(path, (10.0**9 * (number % 3), 10.0**9 * (number % 3)))
    assert stale(inputs) == set()


def test_other_data_make_stale_what_is_made_of_them(inputs: WorkflowInputs) -> None:
    """An older file in the place of a newer one, too."""
    assert inputs.data_dir is not None
    train, questions = inputs.data_dir / "own.jsonl", inputs.data_dir / "triviaqa/validation.jsonl"
    train.write_text("two\n")
    os.utime(train, (0, 0))
    assert stale(inputs) == {"train set", "full", "random+random"} | OF_CELLS
    train.write_text("one\n")
    assert stale(inputs) == set()
    questions.write_text("another\n")
    assert stale(inputs) == {*OF_CELLS, "scores of hub-zero-shot"}


def test_what_a_killed_workflow_has_left_to_do_is_stale(inputs: WorkflowInputs) -> None:
    """The train set was prepared anew, then the workflow was killed; or one cell was trained anew, then it was."""
    first, other = trained(inputs)
    cell = inputs.cells[first]
    report = {"data_fingerprint": "two", "source": describe_source(cell.train_set, inputs.data_dir)}  # type: ignore[arg-type]
    kept = inputs.samples(first).read_text()
    write_json(inputs.samples(first), report | {"ratings": None, "tokenizer_fingerprint": "t"})
    assert stale(inputs) == {"full", "random+random"} | OF_CELLS
    inputs.samples(first).write_text(kept)
    (inputs.paths.cell(inputs.cells[other]) / "weights.sha256").write_text("others")
    assert stale(inputs) == {f"scores of {other.rpartition('-')[0]}"}


def test_a_cell_without_its_marker_is_to_be_trained(inputs: WorkflowInputs) -> None:
    """A damaged marker is deleted, as its reader asks; scores and tables are there, and Snakemake would do nothing."""
    first, _ = trained(inputs)
    (inputs.paths.root / "cells" / first / "train.json").unlink()
    assert stale(inputs) == {f"scores of {first.rpartition('-')[0]}"}
    assert inputs.paths.root / "cells" / first / "train.json" in inputs.digest(first)


def test_weights_are_wanted_by_what_is_not_done(inputs: WorkflowInputs) -> None:
    """Not by finished jobs, unless their cell is trained anew; nor by a cell without weights."""
    first, other = trained(inputs)
    (evaluation,) = inputs.evaluations
    assert Stale(inputs).wanted(["own"]) == {}
    (inputs.paths.root / "cells" / first / evaluation / "scores.json").unlink()
    assert Stale(inputs).wanted(["own"]) == {first: [f"cells/{first}/{evaluation}/scores.json"]}
    assert Stale(inputs).wanted([None, "another"]) == {}
    assert inputs.data_dir is not None
    (inputs.data_dir / "own.jsonl").write_text("two\n")
    assert sorted(Stale(inputs).wanted(["own"])) == sorted([first, other]) == sorted(Stale(inputs).going(["own"]))


def test_who_has_lost_scores_and_replies_is_asked_again(inputs: WorkflowInputs) -> None:
    (cell, *_), (evaluation,) = inputs.cells, inputs.evaluations
    places = inputs.cells[cell], inputs.evaluations[evaluation]
    scores, replies = inputs.paths.evaluation(*places) / "scores.json", inputs.paths.replies(*places)
    told = scores.read_text()
    scores.unlink()
    assert not Stale(inputs).replies(cell, evaluation), "never asked: Snakemake sees to it"
    write_json(inputs.paths.asked(*places), {})
    assert Stale(inputs).replies(cell, evaluation)
    write_json(replies, {})
    assert not Stale(inputs).replies(cell, evaluation)
    replies.unlink()
    scores.write_text(told)
    assert not Stale(inputs).replies(cell, evaluation)


def test_tables_are_stale_without_what_they_show_or_when_they_show_other_things(inputs: WorkflowInputs) -> None:
    """Snakemake makes no missing input for a table that is there; why it made that, it forgets with `.snakemake`."""
    assert Stale(inputs).shown("own"), "the overlap is missing"
    for path in inputs.overlaps("own"):
        write_json(path, {})
    assert not Stale(inputs).shown("own"), "an earlier version has not noted what it showed"
    (grid,) = inputs.grids.values()
    mark_collected({}, inputs.paths.root, [grid])
    assert not Stale(inputs).shown("own")
    label = {"model": grid.cells[0].model.model_copy(update={"label": "Another name"})}
    renamed = replace(grid, cells=tuple(cell.model_copy(update=label) for cell in grid.cells))
    mark_collected({}, inputs.paths.root, [renamed])
    assert Stale(inputs).shown("own")
    mark_collected({}, inputs.paths.root, [grid])
    first, _ = trained(inputs)
    evaluation = next(iter(inputs.evaluations))
    (inputs.paths.root / "cells" / first / evaluation / "scores.json").unlink()
    assert Stale(inputs).shown("own"), "a seed was added, or scores were deleted"
