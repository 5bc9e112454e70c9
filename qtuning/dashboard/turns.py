"""One process at a time writes a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qtuning.locks import exclusive, exclusive_if_free

TURN_SECONDS = 30.0  # how long a job waits for another that writes the same run


@contextmanager
def turn(results: Path, name: str, wait: bool) -> Iterator[None]:
    """Hold the lock of a run. wait: as long as it takes; else TURN_SECONDS, and then TimeoutError.

    A job must not stand still because somebody sends its cell over a slow line.
    """
    lock = results / "locks" / f"{name}-tracking.lock"
    if wait:
        with exclusive(lock, f"tracking {name}"):
            yield
        return
    deadline = time.monotonic() + TURN_SECONDS
    while True:
        with exclusive_if_free(lock) as mine:
            if mine:
                yield
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process writes {name}; `qtuning replay` sends it later")
        time.sleep(0.5)
