"""What scores were computed from, as far as the configuration cannot say it: digests. Loads no torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qtuning.data.items import local_files
from qtuning.experiment.cell import Cell, Evaluation
from qtuning.experiment.ids import ResultPaths
from qtuning.files import file_digest, read_json


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
    model = read_json(paths.model(cell) / "model.json")
    return {"model": {key: model.get(key) for key in ("revision", "sha256")}, "questions": files}


def is_evaluated(out: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether `out` holds the scores of these very inputs."""
    marker = out / "scores.json"
    return marker.is_file() and (out / "items.parquet").is_file() and bool(read_json(marker).get("inputs") == inputs)
