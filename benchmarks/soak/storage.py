"""Faults of the disk that everything lies on: full at a random moment, read-only at the start of a run.

The disk is a real one of its own, in memory (tmpfs), in mounts that only the soak sees.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

from benchmarks.soak.micro import Run, checkout, finish, quiet
from benchmarks.soak.strikes import KILLED, strike
from benchmarks.soak.tally import Struck

PRIVATE = "QTUNING_SOAK_MOUNTS"
FULL, READ_ONLY = "disk full", "disk read-only"
ROOM = 48 * 2**20
"""Bytes that a run writes at most, with what is removed before its end."""


def with_private_mounts(module: str) -> bool:
    """Start `python -m MODULE` again where mounts are its own; False where this machine does not allow it."""
    if PRIVATE in os.environ:
        return os.environ[PRIVATE] == "yes"
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    allowed = shutil.which("unshare") and not subprocess.run([*unshare, "true"], capture_output=True).returncode
    if not allowed:
        return False
    os.environ[PRIVATE] = "yes"
    os.execvp("unshare", [*unshare, sys.executable, "-m", module, *sys.argv[1:]])


def disk_faults(folder: Path, random: Random, tries: int, struck: Struck) -> None:
    """As `strikes.chain`, on a disk of its own that is full or read-only at half of the tries each."""
    folder.mkdir()
    _mount(folder, "size=1g")
    checkout(folder)
    for number in range(tries):
        fault = FULL if number % 2 == 0 else READ_ONLY
        full = f"size={shutil.disk_usage(folder).used + int(ROOM * random.random() ** 2)}"
        _mount(folder, f"remount,{full if fault == FULL else 'ro'}")
        struck[fault] += not Run(folder).wait()
        quiet(folder)
        _mount(folder, "remount,rw,size=1g")
        if fault == READ_ONLY and number + 1 < tries:  # the next fault comes upon a run that got further
            strike(run := Run(folder), ["Snakemake"], KILLED, random, {"Snakemake": 30.0})
            run.wait()
    finish(Run(folder))


def unmount(folder: Path) -> None:
    """Give the disk of `disk_faults` up."""
    subprocess.run(["umount", str(folder)], check=True)


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)
