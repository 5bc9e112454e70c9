"""Faults that strike one process at a random moment of its life: killed, out of memory, no more room to write."""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

from benchmarks.soak.micro import Process, Run, finish, kill_all, processes
from benchmarks.soak.tally import Struck

POLL = 0.02
EVERYTHING = "everything at once"
Act = Callable[[Process, Path, Random], None]


def kill(process: Process, folder: Path, random: Random) -> None:
    """SIGKILL; of everything at once, as when the machine loses power but keeps its disk."""
    if process.role == EVERYTHING:
        kill_all(folder)
    else:
        os.kill(process.pid, signal.SIGKILL)


def starve(process: Process, folder: Path, random: Random) -> None:
    """No address space beyond what the process has, and a little: its next large allocation fails."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + random.randrange(32 * 2**20)
    resource.prlimit(process.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def cut_writes(process: Process, folder: Path, random: Random) -> None:
    """No file grows beyond some bytes: the write that reaches them is short, the next one fails."""
    most = int(2 ** random.uniform(0, 24))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


KILLED, STARVED, CUT_OFF = "killed", "out of memory", "a short write, then none"
ACTS: Mapping[str, Act] = {KILLED: kill, STARVED: starve, CUT_OFF: cut_writes}


def lives(run: Run) -> dict[str, float]:
    """Seconds that the longest process of each role lived; waits for the end of the run."""
    first: dict[int, float] = {}
    found: dict[str, float] = {}
    while run.running:
        now = time.monotonic()
        for process in processes(run.folder):
            life = now - first.setdefault(process.pid, now)
            found[process.role] = max(found.get(process.role, 0.0), life)
        time.sleep(POLL)
    return found | {EVERYTHING: found["Snakemake"]}


def strike(run: Run, role: str, act: Act, random: Random, life: float) -> bool:
    """Act on a process of this role at a random moment of its life; False if the run ended before.

    life: how long such a process lives.
    """
    wanted = "Snakemake" if role == EVERYTHING else role
    moment = random.uniform(0, 0.8 * life)  # most processes live that long
    appeared: dict[int, float] = {}
    while run.running:
        now = time.monotonic()
        for process in processes(run.folder):
            if process.role != wanted:
                continue
            if now - appeared.setdefault(process.pid, now) >= moment:
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    act(Process(process.pid, role), run.folder, random)
                    return True
        time.sleep(POLL)
    return False


def chain(
    folder: Path,
    act: str,
    roles: Sequence[str],
    random: Random,
    life: Mapping[str, float],
    struck: Struck,
    settings: Sequence[str] = (),
) -> None:
    """Type the command once for each role, and strike; then once more. RuntimeError if that fails.

    life: of a process of each role. struck: counts what was struck, by role and act.
    """
    for role in roles:
        run = Run(folder, settings)
        hit = strike(run, role, ACTS[act], random, life[role])
        ended = run.wait()
        struck[f"{role} {act}"] += hit and (act == KILLED or not ended)  # a limit may be too high to be met
        if ended and not hit:
            break  # nothing is left to do
    finish(Run(folder, settings))
