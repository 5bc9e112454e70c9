"""Outputs that appear whole or not at all, and digests of what was read."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from qtuning import holders

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre mounted without `flock`; NFS without its lock daemon
POLL_SECONDS = 10.0  # between questions to Slurm


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
    for pattern in (".*.tmp", ".*.old"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextlib.contextmanager
def exclusive(lock_file: Path, purpose: str) -> Iterator[None]:
    """Hold `lock_file` for the duration; wait, and say so, while another process holds it, here or on another node.

    The kernel frees the lock (flock) on any death of its holder. This is what makes it safe to retype a command whose
    killed predecessor left a child process running. Where the file system does not pass locks on between nodes, the
    holder that the file names is asked for (`qtuning/holders.py`); two processes that start within the same second are
    then not kept apart.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with open(lock_file, "a+", encoding="utf-8") as handle:
        if not _flock(handle, purpose):
            print(f"{lock_file}: this file system has no locks (docs/cluster.md)", file=sys.stderr)
        _outwait(handle, purpose)
        _name_holder(handle, holders.current().text())
        try:
            yield
        finally:
            _name_holder(handle, "")


def _flock(handle: TextIO, purpose: str) -> bool:
    """Take the kernel's lock of a file, or wait for it; False if its file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        holder = holders.parse(handle.read()) or "another process"
        print(f"waiting for {holder}, which is busy with {purpose}", file=sys.stderr)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _outwait(handle: TextIO, purpose: str) -> None:
    """Wait while the holder that a lock file names runs, be it unknown to the kernel or on another node."""
    told = False
    while True:
        handle.seek(0)
        holder = holders.parse(handle.read())
        runs = False if holder is None else holder.runs()
        if runs is None:
            print(f"{handle.name}: left by {holder}, which cannot be asked from here whether it runs", file=sys.stderr)
        if not runs:
            return
        if not told:
            print(f"waiting for {holder}, which is busy with {purpose}", file=sys.stderr)
            told = True
        time.sleep(POLL_SECONDS)


def _name_holder(handle: TextIO, text: str) -> None:
    handle.seek(0)
    handle.truncate()
    handle.write(text)
    handle.flush()
