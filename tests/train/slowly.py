"""`slowly.py UPDATES ARGUMENTS`: `python -m qtuning.train ARGUMENTS` that takes its time after so many updates.

A test that kills a training after some updates looks for them in a file. The rest of a tiny cell takes a fraction of a
second, which a loaded machine may well let pass before the test looks again.
"""

import os
import runpy
import select
import signal
import sys
from functools import cache

from qtuning.train.lines import LineFile

SECONDS = 30.0
"""Before each further update, unless a signal comes."""


@cache
def signals() -> int:
    """A pipe that can be read from as soon as this process gets a signal that it handles."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    return reader


def slow_after(updates: int) -> None:
    """From now on, in this process and its forks, each update beyond the first `updates` waits."""
    add, made = LineFile.add, 0

    def add_slowly(file: LineFile, line: str) -> None:
        nonlocal made
        add(file, line)
        made += file.path.name == "metrics.jsonl"
        if made > updates:
            select.select([signals()], [], [], SECONDS)

    LineFile.add = add_slowly  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    slow_after(int(sys.argv.pop(1)))
    runpy.run_module("qtuning.train", run_name="__main__", alter_sys=True)
