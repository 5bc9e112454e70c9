"""What scores were computed from, as far as the configuration cannot say it: digests. Loads no torch."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qtuning.data.items import local_files
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Evaluation
from qtuning.experiment.ids import ResultPaths
from qtuning.files import file_digest
from qtuning.manifest import FILES, check_files, read_sealed


def read_inputs(
    cell: Cell,
    evaluation: Evaluation,
    paths: ResultPaths,
    data_dir: Path | None,
    digest: Callable[[Path], str] = file_digest,
) -> dict[str, Any]:
    """Digests of the weights, or of the base model of a zero-shot cell, and of the user's files.

    digest: of a file. OSError where the cell is not trained.
    """
    folder = data_dir if evaluation.source == "data-dir" else None
    asked = local_files(folder, evaluation.benchmarks, evaluation.protocol)
    files = {name: digest(file) for name, file in asked.items()}
    if cell.training is not None:
        return {"weights": file_digest(paths.cell(cell) / "weights.sha256"), "questions": files}
    model = read_sealed(paths.model(cell) / "model.json", "delete it and run again")
    return {"model": {key: model.get(key) for key in ("revision", "sha256")}, "questions": files}


def is_evaluated(out: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether `out` holds the scores of these very inputs. Damaged ones are told, and count as none."""
    marker = out / "scores.json"
    if not marker.is_file() or not (out / "items.parquet").is_file():
        return False
    try:
        found = read_sealed(marker, "evaluating now")
        check_files(out, found.get(FILES, {}), "evaluating now")
    except UserError as error:
        print(error, file=sys.stderr)
        return False
    return bool(found.get("inputs") == inputs)
