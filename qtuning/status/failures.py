"""Why a job ended without its result: what its training noted, or the last word of its log."""

import re
from pathlib import Path
from textwrap import shorten

from qtuning.files import read_json

TAIL = 16_384  # bytes of a log that are looked at
LONGEST = 200  # characters of a reason
ERROR = "error: "  # how a message for users begins (qtuning/cli/app.py)
TRACEBACK = "Traceback (most recent call last)"
RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:: |$)")  # the line of a traceback that names the exception
STOPPED = ("KeyboardInterrupt", "SystemExit")


def noted_reason(file: Path) -> str | None:
    """What failed.json says; None without one."""
    try:
        return _one_line(str(read_json(file)["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def logged_reason(log: Path) -> str | None:
    """The error that a log ends with; None if it does not: its job was killed, or still runs."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, log.stat().st_size - TAIL))
            lines = handle.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for place in range(len(lines) - 1, -1, -1):
        if lines[place].startswith(ERROR):
            return _one_line(lines[place].removeprefix(ERROR))
        if lines[place].startswith(TRACEBACK):
            raised = next((line for line in lines[place + 1 :] if RAISED.match(line)), None)
            return None if raised is None or raised.startswith(STOPPED) else _one_line(raised)
    return None


def _one_line(text: str) -> str:
    return shorten("".join(c if c.isprintable() else " " for c in text), LONGEST, placeholder=" ...")
