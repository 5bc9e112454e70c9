"""Seconds and peak memory of a command."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mini import REPOSITORY
from benchmarks.report import Value

MIB = 2**20


@dataclass(frozen=True)
class Spent:
    """seconds: of the wall clock. processor: of all processes. peak: bytes, resident size of the largest process."""

    seconds: float
    processor: float
    peak: int

    def columns(self) -> Mapping[str, Value]:
        """For a row of a table."""
        return {"seconds": self.seconds, "processor seconds": self.processor, "peak MiB": self.peak / MIB}


def run(arguments: Sequence[str], folder: Path, log: Path) -> Spent:
    """`python -m ARGUMENTS` in `folder`, to its end; what it prints goes to `log`. RuntimeError where it fails."""
    command = [sys.executable, "-m", *arguments]
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as handle:
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, stdout=handle, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": path}
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}\n{log.read_text()[-3000:]}")
    spent = Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
    print(
        f"{log.parent.name}, {log.stem}: {spent.seconds:.1f} s, {spent.peak / MIB:,.0f} MiB",
        file=sys.stderr,
        flush=True,
    )
    return spent
