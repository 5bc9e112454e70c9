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
STAGES = {
    **{"contamination": 1, "base model": 2, "preparation": 3, "training": 4, "rank": 4, "evaluation": 5},
    **{"tables": 6, "figures": 7},
}
"""Roles in the order in which they come up in a run."""
LAST = {role: stage + 1 for role, stage in STAGES.items()} | {
    **{"launcher": 6, "warm server": 6, "shell": 8, "Snakemake": 8, EVERYTHING: 8},
}
"""The stage at which a run has no process of a role any more."""
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


def strike(run: Run, roles: list[str], act: str, random: Random, life: Mapping[str, float]) -> str | None:
    """Act on a process of the first role, at a random moment of its life; None if the run ended before.

    roles: a role that the run has left behind is passed over. Those that were tried are taken from the list.
    life: how long a process of each role lives.
    """
    role, appeared = roles.pop(0), dict[int, float]()
    share = random.uniform(0, 0.8)  # most processes live that long
    while run.running:
        now, found = time.monotonic(), list(processes(run.folder))
        here = [process for process in found if process.role == ("Snakemake" if role == EVERYTHING else role)]
        for process in here:
            if now - appeared.setdefault(process.pid, now) >= share * life[role]:
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    ACTS[act](Process(process.pid, role), run.folder, random)
                    return role
        if roles and not here and any(STAGES.get(process.role, 0) >= LAST[role] for process in found):
            role, appeared = roles.pop(0), {}
        time.sleep(POLL)
    return None


def chain(
    folder: Path,
    act: str,
    roles: Sequence[str],
    random: Random,
    life: Mapping[str, float],
    struck: Struck,
    settings: Sequence[str] = (),
) -> None:
    """Type the command again and again, and strike it, until the roles are through; then once more.

    struck: counts what was struck, by role and act. RuntimeError if the last run fails.
    """
    left, done = list(roles), False
    while left and not done:
        run = Run(folder, settings)
        role = strike(run, left, act, random, life)
        done = run.wait() and role is None
        if role is not None:
            struck[f"{role} {act}"] += act == KILLED or run.process.returncode != 0  # a limit may be too high to be met
    finish(Run(folder, settings))
