"""Asks another process about pruners of the user's own, so that listing experiments imports none of them here.

Such a module may be broken, hang, or end its process: then it is refused, and all that does not name it goes on.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from qtuning.errors import UserError

SECONDS = 60.0
"""How long a module may take to be imported and looked at; time in which others had the processor does not count."""

_listing: list[bool] = []


@contextmanager
def listing() -> Iterator[None]:
    """In here, pruners that are looked up are not imported by this process."""
    _listing.append(True)
    try:
        yield
    finally:
        _listing.pop()


def is_listing() -> bool:
    """Whether this runs inside `listing`."""
    return bool(_listing)


class Looker:
    """A process that imports pruners and answers questions about them (describe.py). It is started when it is asked."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lost: dict[str, str] = {}  # modules that hung or crashed, and what is said of them

    def ask(self, place: str, question: dict[str, Any]) -> Any:
        """The answer to a question about the pruner `place`. UserError with what is wrong with it."""
        module = place.partition(":")[0]
        if module not in self._lost:
            process = self._process = self._process or _start()
            assert process.stdin is not None and process.stdout is not None
            print(json.dumps(question), file=process.stdin, flush=True)
            heard = _says_something(process)
            if heard and (line := process.stdout.readline()):
                answer = json.loads(line)
                if "refused" in answer:
                    raise UserError(answer["refused"])
                return answer["found"]
            ended = f"ended its process (status {process.wait()})" if heard else f"took more than {SECONDS:g} seconds"
            self.close()
            self._lost[module] = f"{module} {ended} when it was imported; the experiments that name it are left out"
        raise UserError(f"pruner {place}: {self._lost[module]}")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _says_something(process: "subprocess.Popen[str]") -> bool:
    """Wait for a line, or the end of the process; False after SECONDS."""
    assert process.stdout is not None
    waited = time.monotonic() - _waiting(process.pid)
    while time.monotonic() - _waiting(process.pid) - waited < SECONDS:
        if select.select([process.stdout], [], [], 0.5)[0]:
            return True
    return False


def _waiting(process: int) -> float:
    """Seconds that a process was ready to run and others had the processor; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _start() -> "subprocess.Popen[str]":
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", "qtuning.experiment.describe"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip


@cache
def looker() -> Looker:
    """The one of this process, and of the folder that it stands in."""
    made = Looker()
    atexit.register(made.close)
    return made
