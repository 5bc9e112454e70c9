"""Whether what was made from the user's files was made from the bytes that they have now. Times of files say nothing:
`touch`, `cp -r` and clocks that differ change them, and an older file can take the place of a newer one."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtuning.data.sources import describe_file
from qtuning.experiment.cell import FileSource, HubSource

if TYPE_CHECKING:
    from qtuning.experiment.cell import Cell


def is_of_present_data(report: Mapping[str, Any], cell: "Cell", data_dir: Path | None) -> bool:
    """Whether a prepared train set (its report.json) is of the present files; always, where it is of none.

    UserError where a file is missing.
    """
    train_set = cell.train_set
    assert train_set is not None
    sources = {"source": train_set.source, "ratings": train_set.ratings}
    return all(is_present(report[key], source, data_dir) for key, source in sources.items())


def is_present(
    described: Mapping[str, Any] | None, source: FileSource | HubSource | None, data_dir: Path | None
) -> bool:
    """Whether what was described of a source (sources.describe_source) fits its present files."""
    if source is None or isinstance(source, HubSource):
        return True
    return described is not None and described.get("sha256") == describe_file(source, data_dir)["sha256"]
