"""Outputs that appear whole or not at all, and digests of what was read."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEFTOVERS = (".*.tmp", ".*.old")  # names of what a killed `atomic_path` leaves


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `target`; on success it is synced and renamed to `target`, on failure removed.

    The caller may create a file or a directory there. An older `target` is replaced (a directory is moved aside first,
    since rename cannot replace a directory that is not empty).
    """
    target = Path(target)
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


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left half-made in `folder`. Only for the sole writer of the folder."""
    for pattern in LEFTOVERS:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextlib.contextmanager
def exclusive(lock_file: Path, purpose: str) -> Iterator[None]:
    """Hold `lock_file` (flock) for the duration; wait, and say so, while another process holds it.

    The kernel frees the lock on any death of its holder. This is what makes it safe to retype a command whose killed
    predecessor left a child process running.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(lock_file, "a+", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                print(f"waiting for process {handle.read().strip()}, which is busy with {purpose}", file=sys.stderr)
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_at(handle.fileno(), lock_file):
                continue  # it was removed (`remove_lock`) between our opening and our locking it
            handle.seek(0)
            handle.truncate()
            handle.write(str(os.getpid()))
            handle.flush()
            yield
            return


def is_held(lock_file: Path) -> bool:
    """Whether a process holds `lock_file` at this moment. (Opened for writing, which NFS wants for a lock.)"""
    with contextlib.suppress(FileNotFoundError), open(lock_file, "r+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def remove_lock(lock_file: Path) -> bool:
    """Remove `lock_file` unless it is held; whether it was removed. Who waits for it meanwhile makes it anew."""
    with contextlib.suppress(FileNotFoundError), open(lock_file, "r+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if _is_at(handle.fileno(), lock_file):
            lock_file.unlink()
            return True
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that `path` names now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def exclusive_if_free(lock_file: Path) -> Iterator[bool]:
    """Hold `lock_file` as `exclusive` does, but do not wait: False where another process holds it."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with open(lock_file, "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield True
