"""Files of a resume state that grow while a cell trains, and digests that say up to where they are whole.

`Journal`: name -> (bytes, SHA-256 of so many first bytes), as a checkpoint notes it. A kill may leave more after them,
the last line torn; nothing before them may differ.
"""

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from qtuning.files import atomic_path, file_digest, storing
from qtuning.manifest import reading

Journal = Mapping[str, tuple[int, str]]


class LineFile:
    """A text file that lines are appended to. What it held before is replaced by `kept`."""

    def __init__(self, path: Path, kept: bytes) -> None:
        self.path, self._size, self._hash = path, 0, sha256()
        with atomic_path(path) as temporary:
            temporary.write_bytes(kept)
        self._count(kept)
        self._handle = path.open("ab")

    def add(self, line: str) -> None:
        """Append a line, which is in the file when this returns. UserError for a full disk."""
        written = line.encode() + b"\n"
        with storing(self.path):
            self._handle.write(written)
            self._handle.flush()
        self._count(written)

    def _count(self, written: bytes) -> None:
        self._size += len(written)
        self._hash.update(written)

    def sync(self) -> tuple[int, str]:
        """Bring it to the disk; what a journal says of it."""
        with storing(self.path):
            os.fsync(self._handle.fileno())
        return self._size, self._hash.hexdigest()

    def close(self) -> None:
        """No line follows."""
        self._handle.close()

    def publish(self, target: Path) -> None:
        """Close it, and copy it to its final place. UserError if it is not what was written."""
        size, digest = self.sync()
        self.close()
        with reading(self.path, again(self.path.parent)):
            _check(self.path, size, digest)
        with atomic_path(target) as temporary:
            temporary.write_bytes(self.path.read_bytes())


def check_journal(folder: Path, journal: Journal) -> None:
    """ValueError for the first file in `folder` that does not begin as a journal says; a Parquet file must end so, too.

    OSError for one that is missing.
    """
    for name, (size, digest) in journal.items():
        _check(folder / name, size, digest)


def again(state: Path) -> str:
    """What to do where a resume state cannot be gone on from, for messages."""
    return f"delete {state}: the same command then trains afresh"


def _check(path: Path, size: int, digest: str) -> None:
    found = path.stat().st_size
    if found == size:
        same = file_digest(path) == digest
    else:
        with path.open("rb") as handle:
            same = found > size and path.suffix != ".parquet" and sha256(handle.read(size)).hexdigest() == digest
    if not same:
        raise ValueError(f"{path.name} is not what training wrote")
