"""Digests of what was written, and their comparison before it is read.

A marker (train.json, scores.json, report.json, model.json) is written last. Its `files` are the SHA-256 of the files
beside it, its `checksum` is that of its other entries. What an older version wrote has neither, and is read as it is.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from qtuning.errors import UserError, one_line
from qtuning.files import canonical_json, file_digest, read_json, short_hash, write_json

CHECKSUM, FILES = "checksum", "files"
DIFFERS = "damaged (its digest differs)"
HASHERS = 4  # files that are read at once
_told: set[str] = set()


def write_sealed(target: Path, value: Mapping[str, Any]) -> None:
    """`write_json` of a JSON object, with the checksum of its entries."""
    written = json.loads(canonical_json(dict(value)))  # as it will be read: tuples as lists, keys as text
    write_json(target, written | {CHECKSUM: short_hash(written)})


def read_sealed(path: Path, again: str) -> dict[str, Any]:
    """What `write_sealed` wrote, without the checksum; without one, what an older version wrote.

    again: what to delete and to type, for messages. UserError if it is damaged; FileNotFoundError if it is not there.
    """
    with reading(path, again):
        value = read_json(path)
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
        found = value.pop(CHECKSUM, None)
        if (found is not None or FILES in value) and found != short_hash(value):
            raise ValueError("its checksum differs")
    return value


@contextmanager
def reading(path: Path, again: str) -> Iterator[None]:
    """Turn what a reader raises over a damaged file into one UserError that names the file and what to do (`again`)."""
    try:
        yield
    except (UserError, FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{path}: damaged ({one_line(error)}); {again}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what readers in Rust raise is no Exception
            raise
        raise UserError(f"{path}: damaged ({one_line(error)}); {again}") from None


def digests_of(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Name below `folder` -> SHA-256, of these files."""
    found = sorted(files)
    with ThreadPoolExecutor(HASHERS) as pool:  # hashing and reading release Python's lock
        digests = pool.map(file_digest, found)
        return {str(path.relative_to(folder)): digest for path, digest in zip(found, digests, strict=True)}


def check_files(folder: Path, digests: Mapping[str, str], again: str) -> None:
    """UserError for the first file below `folder` that is missing, or has another digest than is written of it."""
    for name in sorted(digests):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing; {again}")
    for name, digest in digests_of(folder, [folder / name for name in digests]).items():
        if digest != digests[name]:
            raise UserError(f"{folder / name}: {DIFFERS}; {again}")


def check_open(handle: BufferedReader, path: Path, digest: str, again: str) -> None:
    """UserError if an open file, that of `path`, has another digest than is written of it. It is at its start again."""
    found = hashlib.file_digest(handle, "sha256").hexdigest()
    handle.seek(0)
    if found != digest:
        raise UserError(f"{path}: {DIFFERS}; {again}")


def tell_unverified(what: str) -> None:
    """Say, once in a process, that what an older version wrote cannot be checked."""
    if what not in _told:
        _told.add(what)
        print(f"{what}: written by an older version, without digests: damage would not be noticed", file=sys.stderr)
