"""Locks between jobs, here and on other nodes: the kernel's (flock), and where these do not reach, who holds a file.

A lock file stays when it is free, and names nobody then. `qtuning doctor --repair` removes those that nobody holds.
"""

import contextlib
import errno
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO, TypeVar

from qtuning import holders
from qtuning.errors import UserError
from qtuning.owners import make_folder, open_ours

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre mounted without `flock`; NFS without its lock daemon
Checked = TypeVar("Checked")
POLL_SECONDS = 10.0  # between questions to Slurm


@contextlib.contextmanager
def exclusive(lock_file: Path, purpose: str) -> Iterator[None]:
    """Hold `lock_file` for the duration; wait, and say so, while another process holds it, here or on another node.

    The kernel frees the lock (flock) on any death of its holder. This is what makes it safe to retype a command whose
    killed predecessor left a child process running. Where the file system does not pass locks on between nodes, the
    holder that the file names is asked for (`qtuning/holders.py`); two processes that start within the same second are
    then not kept apart.
    """
    make_folder(lock_file.parent)
    while True:
        with _open(lock_file, os.O_CREAT) as handle:
            if not _flock(handle, purpose):
                print(f"{lock_file}: this file system has no locks (docs/cluster.md)", file=sys.stderr)
            if not _is_at(handle.fileno(), lock_file):
                continue  # it was removed (`remove_lock`) between our opening and our locking it
            _outwait(handle, purpose)
            with _named(handle):
                yield
            return


@contextlib.contextmanager
def exclusive_if_free(lock_file: Path) -> Iterator[bool]:
    """Hold `lock_file` as `exclusive` does, but do not wait: False where another process holds it, or may hold it."""
    make_folder(lock_file.parent)
    with _open(lock_file, os.O_CREAT) as handle:
        if not _free(handle) or not _is_at(handle.fileno(), lock_file):
            yield False
            return
        with _named(handle):
            yield True


def settled(check: Callable[[], Checked], lock_file: Path, purpose: str) -> Checked:
    """What `check` returns; if it raises UserError, once more under the lock: its holder may be replacing files."""
    try:
        return check()
    except UserError:
        if not os.access(lock_file, os.W_OK):
            raise
    with exclusive(lock_file, purpose):
        return check()


def is_held(lock_file: Path) -> bool:
    """Whether a process holds `lock_file` at this moment, or may hold it."""
    with contextlib.suppress(FileNotFoundError), _open(lock_file) as handle:
        return not _free(handle)
    return False


def remove_lock(lock_file: Path) -> bool:
    """Remove `lock_file` unless it is held; whether it was removed. Who waits for it meanwhile makes it anew."""
    with contextlib.suppress(FileNotFoundError), _open(lock_file) as handle:
        if _free(handle) and _is_at(handle.fileno(), lock_file):
            lock_file.unlink()
            return True
    return False


def _open(lock_file: Path, flags: int = 0) -> TextIO:
    """The file for reading and writing, which locks of NFS want. UserError if it is none that may be trusted."""
    return open(lock_file, "r+", encoding="utf-8", opener=lambda *_: open_ours(lock_file, os.O_RDWR | flags))


def _flock(handle: TextIO, purpose: str) -> bool:
    """Take the kernel's lock of a file, or wait for it; False if its file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for {_holder(handle) or 'another process'}, which is busy with {purpose}", file=sys.stderr)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _free(handle: TextIO) -> bool:
    """Whether nobody holds the file; if so, the kernel's lock of it is ours until it is closed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        # nothing but the file tells: who cannot be asked may well run
        return (holder := _holder(handle)) is None or holder.runs() is False
    return not _runs_elsewhere(handle)


def _outwait(handle: TextIO, purpose: str) -> None:
    """Wait while the holder that a lock file names runs, be it unknown to the kernel or on another node."""
    told = False
    while True:
        if not _runs_elsewhere(handle):
            return
        if not told:
            print(f"waiting for {_holder(handle)}, which is busy with {purpose}", file=sys.stderr)
            told = True
        time.sleep(POLL_SECONDS)


def _runs_elsewhere(handle: TextIO) -> bool:
    """Whether the holder that a lock file names runs. Of one that cannot be asked it is said, and taken that it ended:
    the kernel has given us its lock."""
    holder = _holder(handle)
    runs = False if holder is None else holder.runs()
    if runs is None:
        print(f"{handle.name}: left by {holder}, which cannot be asked from here whether it runs", file=sys.stderr)
    return bool(runs)


def _holder(handle: TextIO) -> holders.Holder | None:
    handle.seek(0)
    return holders.parse(handle.read())


@contextlib.contextmanager
def _named(handle: TextIO) -> Iterator[None]:
    """Name this process in its lock file for the duration."""
    _write(handle, holders.current().text())
    try:
        yield
    finally:
        _write(handle, "")


def _write(handle: TextIO, text: str) -> None:
    handle.seek(0)
    handle.truncate()
    handle.write(text)
    handle.flush()


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that `path` names now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
