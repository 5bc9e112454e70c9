"""The one exception a user is meant to read."""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

ELSEWHERE = "make it writable, or give another folder (--results DIR; of snakemake: --config results=DIR)"
STORAGE = {
    errno.ENOSPC: "free some space, then the same command goes on",
    errno.EDQUOT: "free some of your quota, then the same command goes on",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f unlimited), then the same command goes on",
    errno.EIO: "look after the disk (dmesg says more), then the same command goes on",
    errno.EROFS: ELSEWHERE,
    errno.EACCES: ELSEWHERE,
    errno.EPERM: ELSEWHERE,
}
"""What the system says of storage that takes no file -> what helps."""


class UserError(Exception):
    """Bad input or a missing resource: one line saying what, where (file, key, line) and what to do.

    The command line prints the message without a traceback and exits with status 2. Anything else that is raised is
    a defect of ours and keeps its traceback (status 1).
    """


def raise_problems(problems: Sequence[str]) -> None:
    """UserError with a line for each problem, if there is any."""
    if problems:
        raise UserError("\n".join(problems))


def one_line(error: BaseException) -> str:
    """What a library's exception says, on one line of at most 200 characters, to stand in a message of ours."""
    return shorten(str(error) or type(error).__name__, 200, placeholder=" ...")


def storage_problem(error: BaseException, target: Path | None = None) -> UserError | None:
    """The one line for an error of storage: a full disk, a folder that is read-only. None for any other error.

    target: what was being written, for errors that name no file. Libraries in Rust raise exceptions of their own, with
    the number of the system's error in the text.
    """
    if isinstance(error, UserError):
        return None
    told = re.search(r"os error (\d+)|Os \{ code: (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) else int(told[1] or told[2]) if told else None
    if number not in STORAGE:
        return None
    named = str(error.filename) if isinstance(error, OSError) and error.filename is not None else ""
    if target is not None and (not named or f".{target.name}." in named):  # a temporary sibling of it
        named = str(target)
    if not named and STORAGE[number] == ELSEWHERE:  # of a process or a device
        return None
    return UserError(f"{named or 'a file'}: {os.strerror(number)}; {STORAGE[number]}")


def memory_problem(error: BaseException) -> UserError | None:
    """The one line for an error of Python, numpy or Arrow about too little memory. None for any other error."""
    if not isinstance(error, MemoryError):
        return None
    said = f" ({one_line(error)})" if str(error) else ""
    return UserError(f"out of memory{said}; run fewer jobs at once (snakemake --cores N), or take a larger machine")
