"""Reads data sets that were fetched, by `datasets` and without network."""

from pathlib import Path
from typing import TYPE_CHECKING

from qtuning.errors import UserError, one_line
from qtuning.hub.fetch import snapshot
from qtuning.hub.repositories import Repository

if TYPE_CHECKING:
    from datasets import DatasetDict


def read_data_set(repository: Repository, hub: Path | None, subset: str | None = None) -> "DatasetDict":
    """All splits of a fetched data set, or of one of its subsets. UserError where it was not fetched or cannot be read.

    `datasets` by itself would, offline, take whatever revision it prepared last.
    """
    folder, marker = snapshot(repository, hub)
    import datasets

    how = marker["data"][subset or ""]
    files = {split: [str(folder / name) for name in names] for split, names in how["files"].items()}
    features = None if how["features"] is None else datasets.Features.from_dict(how["features"])
    try:
        found = datasets.load_dataset(how["builder"], data_files=files, features=features)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{repository}: {folder}: cannot be read: {one_line(error)}") from None
    assert isinstance(found, datasets.DatasetDict)
    return found
