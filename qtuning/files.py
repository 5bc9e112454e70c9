"""Outputs that appear whole or not at all, and digests of what was read."""

import contextlib
import filecmp
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qtuning.errors import storage_problem

LEFTOVERS = (".*.tmp", ".*.old")  # names of what a killed `atomic_path` leaves


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `target`; on success it is synced and renamed to `target`, on failure removed.

    A file with the bytes that `target` has already is dropped, and `target` left untouched.

    The caller may create a file or a directory there. An older `target` is replaced (a directory is moved aside first,
    since rename cannot replace a directory that is not empty). UserError for a full disk, or one that takes nothing.
    """
    target = Path(target)
    with storing(target):
        yield from _atomic_path(target)


@contextlib.contextmanager
def storing(target: Path) -> Iterator[None]:
    """Raise UserError for what hinders any file from being written to `target`'s folder: a full disk, permissions."""
    try:
        yield
    except Exception as error:
        if (problem := storage_problem(error, target)) is None:
            raise
        raise problem from error


def _atomic_path(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if temporary.is_dir():
            for path in temporary.rglob("*"):
                if path.is_file():
                    _sync(path)
            if target.exists():
                aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
                os.rename(target, aside)
                os.rename(temporary, target)
                shutil.rmtree(aside)
            else:
                os.rename(temporary, target)
        else:
            if target.is_file() and filecmp.cmp(temporary, target, shallow=False):
                return  # the same bytes: whoever depends on them has nothing new
            _sync(temporary)
            os.replace(temporary, target)
        _sync(target.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary.exists():
            temporary.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: Path, text: str) -> None:
    """Write `text` (UTF-8) to `target`, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented, key-sorted JSON, atomically. NaN and infinity are refused: they are not JSON."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces. What is hashed into identities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def short_hash(value: Any) -> str:
    """First 8 hex digits of the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def remove_leftovers(folder: Path, names: Iterable[str] = ("*",)) -> None:
    """Remove what writers that were killed left half-made of these files and folders in `folder`.

    Only for who alone writes them: what another process is writing now looks the same.
    """
    for pattern in (f".{name}.{leftover[1:]}" for name in names for leftover in LEFTOVERS):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
