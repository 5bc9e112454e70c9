"""What the experiments that are asked for want a base model to take, checked before anything is trained."""

import os
from collections.abc import Iterable
from pathlib import Path

from qtuning.data.limits import Wanted, check_limits
from qtuning.experiment.cell import Template
from qtuning.experiment.ids import model_id
from qtuning.files import file_digest, read_json, write_json
from qtuning.manifest import read_sealed
from qtuning.workflow.inputs import WorkflowInputs

VARIABLE = "QTUNING_EXPERIMENTS"
"""Environment variable: the experiments that are asked for. Jobs on other machines know only the files they make."""
PASSED = "limits.json"
"""Beside a model's marker: which marker it is of, and the options of `qtuning base-model` that were checked with it."""


def limit_options(inputs: WorkflowInputs, model: str) -> str:
    """Options of `qtuning base-model` (data/limits.py). model: its name below results/models."""
    wanted = _wanted(inputs, model)
    options = {f"--template {name}" for name in wanted.templates} | ({"--chat"} if wanted.chat else set())
    longest = {"--cutoff": wanted.cutoff, "--max-length": wanted.max_length}
    return " ".join([*(f"{name} {value}" for name, value in longest.items() if value), *sorted(options)])


def check_models(inputs: WorkflowInputs) -> None:
    """UserError if a base model that an earlier experiment made ready cannot take what is asked for now.

    One that is not ready yet is checked by `qtuning base-model`, when it is.
    """
    os.environ[VARIABLE] = ",".join(sorted(inputs.asked))
    for model in sorted({model_id(cell.model) for name in inputs.asked for cell in inputs.grids[name].cells}):
        folder, options = inputs.paths.root / "models" / model, limit_options(inputs, model)
        if not (file := folder / "model.json").is_file():
            continue
        marker = file_digest(file)
        passed = _passed(folder / PASSED, marker)
        if options in passed:
            continue
        path = folder / str(read_sealed(file, f"delete {file} and run again")["path"])
        if not path.is_dir():
            continue  # who needs it will say so
        check_limits(path, _wanted(inputs, model))
        write_json(folder / PASSED, {"marker": marker, "passed": [*passed, options]})


def _passed(file: Path, marker: str) -> list[str]:
    try:
        found = read_json(file)
        return list(map(str, found["passed"])) if found["marker"] == marker else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _wanted(inputs: WorkflowInputs, model: str) -> Wanted:
    cutoffs, lengths, templates, chat = list[int](), list[int](), set[Template](), False
    for grid in (inputs.grids[name] for name in _asked(inputs)):
        cells = [cell for cell in grid.cells if model_id(cell.model) == model]
        cutoffs += [cell.training.cutoff for cell in cells if cell.training is not None]
        templates |= {cell.model.template for cell in cells if cell.training is not None}
        if cells and grid.evaluation is not None:
            lengths.append(grid.evaluation.max_length)
            chat |= grid.evaluation.chat_template
    return Wanted(max(cutoffs, default=None), max(lengths, default=None), sorted(templates), chat)


def _asked(inputs: WorkflowInputs) -> Iterable[str]:
    told = os.environ.get(VARIABLE, "").split(",")
    return sorted(inputs.asked) or [name for name in told if name in inputs.grids]
