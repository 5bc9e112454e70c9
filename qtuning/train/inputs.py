"""What a training or a measurement was made from, as far as its configuration cannot say it: digests and commits.

Loads no torch, so that the workflow can ask whether results are of what there is now.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qtuning.data.targets import train_file
from qtuning.experiment.ids import ResultPaths
from qtuning.experiment.influence import Measurement
from qtuning.files import file_digest
from qtuning.manifest import read_sealed


def read_inputs(
    model: Path, samples: Path, auxiliary: Mapping[str, Path], references: Sequence[Path], influence: Path | None
) -> dict[str, Any]:
    """Digests of data and tokenizer, commits of models. The arguments are those of `CellFolders` (cell.py)."""
    report = read_sealed(samples / "report.json", f"delete {samples}: it is prepared again")
    inputs = {key: report.get(key) for key in ("data_fingerprint", "tokenizer_fingerprint")}
    if (commit := report["source"].get("commit")) is not None:
        inputs["train_set_revision"] = commit
    for name, folder in {"model": model, **auxiliary}.items():
        marker = read_sealed(folder / "model.json", "delete it and run again")
        inputs |= {f"{name}_{key}": marker.get(key) for key in ("revision", "sha256")}
    if references:
        digests = [folder / "weights.sha256" for folder in references]
        inputs["references_sha256"] = [file_digest(path) if path.exists() else None for path in digests]
    if influence is not None:
        inputs["influence_sha256"] = read_sealed(influence / "influence.json", "delete it and measure again")["sha256"]
    return inputs


def read_measured_inputs(measurement: Measurement, paths: ResultPaths, data_dir: Path | None) -> dict[str, Any]:
    """The same of a measurement of influence: digests of its warm-up, its samples and the user's files of examples."""
    warmup, asked = measurement.warmup, measurement.influence
    folder = data_dir if asked.source == "data-dir" else None
    samples = paths.samples(warmup)
    report = read_sealed(samples / "report.json", f"delete {samples}: it is prepared again")
    return {
        "warmup": file_digest(paths.cell(warmup) / "weights.sha256"),
        "data_fingerprint": report.get("data_fingerprint"),
        "examples": {} if folder is None else {name: file_digest(train_file(folder, name)) for name in asked.targets},
    }
