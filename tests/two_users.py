"""For tests in which another user looks."""

from pathlib import Path


def open_to_all(folder: Path) -> None:
    """Let all users reach `folder`."""
    for each in (folder, *folder.parents):
        if (mode := each.stat().st_mode) & 0o055 != 0o055:  # others may be on a disk that is read-only
            each.chmod(mode | 0o055)
