"""Finds where the rows of a train set come from, files or the hub, and reads them."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from qtuning.data.containers import read_file
from qtuning.data.rows import Row
from qtuning.data.shards import find_files, others_of
from qtuning.errors import UserError
from qtuning.experiment.cell import FileSource, HubSource, TrainSet
from qtuning.files import file_digest
from qtuning.hub.fetch import commit_of
from qtuning.hub.read import read_data_set
from qtuning.hub.repositories import repository_of_train_set

MINI_WORLD = Path(__file__).parents[1] / "assets" / "mini_world"
"""Train sets and benchmarks that the package ships (docs/mini-world.md)."""


def local_folder(kind: str, data_dir: Path | None) -> Path | None:
    """Where local train sets and benchmarks lie: in the package for kind `mini-world`, else in `data_dir`."""
    return MINI_WORLD if kind == "mini-world" else data_dir


def locate(source: FileSource, *, data_dir: Path | None) -> list[Path]:
    """The files that `source` names, in their order: one, those that a pattern fits, or the shards in a folder.

    UserError if there are none, if shards are missing, if a folder holds more than one set, or if it lies in a data
    folder that is not given.
    """
    if source.kind == "path":
        path = Path(source.file).expanduser()
    else:
        folder = local_folder(source.kind, data_dir)
        if folder is None:
            raise UserError(f"{source.file} lies in the data folder, but none is given; add --config data_dir=DIR")
        path = Path(folder).expanduser() / source.file
    try:
        return find_files(path)
    except FileNotFoundError:
        what = f"no such file (train set source: kind {source.kind}, file {source.file})"
        raise UserError(f"{path}: {what}{_meant(source)}") from None


def _meant(source: FileSource) -> str:
    """What may have been meant by the name of a file that is not there."""
    if re.match(r"\w{2,}://?", source.file):
        return "; addresses are not fetched: download it, and name the file"
    if re.search(r"\{.*,.*\}", source.file):
        return "; patterns have * ? and [...], but no {a,b}"
    if (
        source.kind == "path"
        and re.fullmatch(r"\w[\w.-]*/[\w.-]+", source.file)
        and not re.search(r"\.(jsonl?|parquet|csv|tsv|ndjson)\b", source.file)
    ):
        return f"; a data set of the hub is named by source: {{kind: hub, id: {source.file}}}"
    return ""


def describe_source(train_set: TrainSet, data_dir: Path | None, hub: Path | None = None) -> dict[str, Any]:
    """The source as configured, and the SHA-256 of its file; of a data set of the hub, the commit that was fetched."""
    if isinstance(train_set.source, HubSource):
        repository = repository_of_train_set(train_set)
        assert repository is not None and hub is not None, "its rows have been read"
        return train_set.source.model_dump(mode="json") | {"commit": commit_of(repository, hub)}
    return describe_file(train_set.source, data_dir)


def describe_file(source: FileSource, data_dir: Path | None) -> dict[str, Any]:
    """A file as configured, where it lies, and its SHA-256; of several, also their names, and one SHA-256 over all."""
    files = locate(source, data_dir=data_dir)
    found: dict[str, Any] = source.model_dump(mode="json") | {"path": str(files[0])}
    if len(files) == 1:
        return found | {"sha256": file_digest(files[0])}
    digests = {file.name: file_digest(file) for file in files}
    listed = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    return found | {
        "path": str(files[0].parent),
        "files": digests,
        "sha256": hashlib.sha256(listed.encode()).hexdigest(),
    }


def read_rows(train_set: TrainSet, *, data_dir: Path | None, hub: Path | None = None) -> Iterator[Row]:
    """Every row of a train set in the order of its source.

    hub: where it says what was fetched from the hub (ResultPaths.hub). UserError if the source cannot be read, or not
    to its end.
    """
    if isinstance(train_set.source, HubSource):
        return _hub(train_set.source, train_set, hub)
    files = locate(train_set.source, data_dir=data_dir)
    rows = chain.from_iterable(map(read_file, files))
    if (pattern := others_of(files)) is None:
        return rows
    remark = f"of one shard alone (source.file = {pattern} names all)"
    return (replace(row, remarks=(*row.remarks, remark)) for row in rows)


def _hub(source: HubSource, train_set: TrainSet, hub: Path | None) -> Iterator[Row]:
    repository = repository_of_train_set(train_set)
    assert repository is not None
    try:
        splits = read_data_set(repository, hub, source.subset)
        if source.split not in splits:
            raise UserError(f"{repository}: has no split {source.split}, but {', '.join(splits)}")
    except UserError as error:
        local = f"{train_set.local} below DIR" if train_set.local else "`local` in its YAML, below DIR"
        raise UserError(
            f"train set {train_set.name}: {error}; or give a local copy with --config data_dir=DIR ({local})"
        ) from None
    for number, value in enumerate(splits[source.split], start=1):
        yield Row(source.id, number, value)
