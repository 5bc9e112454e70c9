"""Reads the rows of a train set, from a JSON, JSONL (.gz) or Parquet file or from the hub.

Rows that cannot be decoded are yielded, too, with their place and the problem, so that a report can list them.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from qtuning.data.rows import Reason, Row
from qtuning.errors import UserError, one_line
from qtuning.experiment.cell import FileSource, HubSource, TrainSet
from qtuning.files import file_digest
from qtuning.hub.fetch import commit_of
from qtuning.hub.read import read_data_set
from qtuning.hub.repositories import repository_of_train_set

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")

MINI_WORLD = Path(__file__).parents[1] / "assets" / "mini_world"
"""Train sets and benchmarks that the package ships (docs/mini-world.md)."""


def local_folder(kind: str, data_dir: Path | None) -> Path | None:
    """Where local train sets and benchmarks lie: in the package for kind `mini-world`, else in `data_dir`."""
    return MINI_WORLD if kind == "mini-world" else data_dir


def locate(source: FileSource, *, data_dir: Path | None) -> Path:
    """The file that `source` names. UserError if it does not exist, or lies in a data folder that is not given."""
    if source.kind == "path":
        path = Path(source.file).expanduser()
    else:
        folder = local_folder(source.kind, data_dir)
        if folder is None:
            raise UserError(f"{source.file} lies in the data folder, but none is given; add --config data_dir=DIR")
        path = Path(folder).expanduser() / source.file
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name one file ({', '.join(SUFFIXES)})")
    if not path.exists():
        raise UserError(f"{path}: no such file (train set source: kind {source.kind}, file {source.file})")
    return path


def describe_source(train_set: TrainSet, data_dir: Path | None, hub: Path | None = None) -> dict[str, Any]:
    """The source as configured, and the SHA-256 of its file; of a data set of the hub, the commit that was fetched."""
    if isinstance(train_set.source, HubSource):
        repository = repository_of_train_set(train_set)
        assert repository is not None and hub is not None, "its rows have been read"
        return train_set.source.model_dump(mode="json") | {"commit": commit_of(repository, hub)}
    return describe_file(train_set.source, data_dir)


def describe_file(source: FileSource, data_dir: Path | None) -> dict[str, Any]:
    """A file as configured, where it lies, and its SHA-256."""
    path = locate(source, data_dir=data_dir)
    return source.model_dump(mode="json") | {"path": str(path), "sha256": file_digest(path)}


def read_rows(train_set: TrainSet, *, data_dir: Path | None, hub: Path | None = None) -> Iterator[Row]:
    """Every row of a train set in the order of its source.

    hub: where it says what was fetched from the hub (ResultPaths.hub). UserError if the source cannot be read, or not
    to its end.
    """
    if isinstance(train_set.source, HubSource):
        return _hub(train_set.source, train_set, hub)
    return read_file(locate(train_set.source, data_dir=data_dir))


def read_file(path: Path) -> Iterator[Row]:
    """Every row of a local file; the suffix tells the format."""
    name = path.name.lower()
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    if suffix is None:
        raise UserError(f"{path}: unknown file format; known: {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        return _parquet(path)
    return _jsonl(path) if suffix.startswith(".jsonl") else _json(path)


def _open(path: Path) -> BinaryIO:
    try:
        if path.name.lower().endswith(".gz"):
            return cast(BinaryIO, gzip.open(path, "rb"))
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _jsonl(path: Path) -> Iterator[Row]:
    """One JSON value a line. Blank lines are no rows. Only line feeds end a line: JSON texts may hold other breaks."""
    line = 0
    with _open(path) as handle:
        try:
            for line, raw in enumerate(handle, start=1):
                raw = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
                if raw.strip():
                    yield _decode(str(path), line, raw)
        except (EOFError, OSError, zlib.error) as error:
            raise _broken(path, f"line {line}", error) from None


def _broken(path: Path, reached: str, error: Exception) -> UserError:
    return UserError(f"{path}: damaged or cut short, read up to {reached} ({error}); fetch the file again")


def _decode(file: str, line: int, raw: bytes) -> Row:
    try:
        return Row(file, line, json.loads(raw.decode("utf-8")))
    except UnicodeDecodeError:
        return Row(file, line, None, Reason.INVALID_UTF8)
    except (ValueError, RecursionError):  # also numbers and nesting beyond what Python reads
        return Row(file, line, None, Reason.INVALID_JSON)


def _json(path: Path) -> Iterator[Row]:
    """A JSON list of rows, decoded one by one, so that every row knows its line.

    Bytes that are no UTF-8 become lone surrogates, which `rows.parse_row` refuses in the row that holds them.
    """
    with _open(path) as handle:
        try:
            text = handle.read().decode("utf-8-sig", errors="surrogateescape")
        except (EOFError, OSError, zlib.error) as error:
            raise _broken(path, "no complete row", error) from None
    decoder = json.JSONDecoder()
    position = _skip_space(text, 0)
    if text[position : position + 1] != "[":
        hint = "; a file with one object a line is named .jsonl" if text[position : position + 1] == "{" else ""
        raise UserError(f"{path}: expected a JSON list of rows{hint}")
    line, counted = 1, 0
    position = _skip_space(text, position + 1)
    closed = text[position : position + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{line}: JSON that cannot be read: {error}") from None
        yield Row(str(path), line, value)
        position = _skip_space(text, position)
        closed = text[position : position + 1] == "]"
        if not closed and text[position : position + 1] != ",":
            line += text.count("\n", counted, position)
            raise UserError(f"{path}:{line}: not valid JSON: expected a comma or the end of the list")
        position = position if closed else _skip_space(text, position + 1)
    if _skip_space(text, position + 1) != len(text):
        raise UserError(f"{path}: text after the end of the JSON list")


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position


def _parquet(path: Path) -> Iterator[Row]:
    import polars

    try:
        table = polars.read_parquet(path)
    # On some damaged files polars panics, which is no PolarsError and not even an Exception.
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {one_line(error)}") from None
    for number, value in enumerate(table.iter_rows(named=True), start=1):
        yield Row(str(path), number, value)


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
