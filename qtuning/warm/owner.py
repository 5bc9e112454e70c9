"""A job ends with the workflow that started it, however that ended: nobody would read what it goes on to write.

Between the two are a shell and perhaps the client of a warm server, so the kernel's signal for the death of a parent
(PR_SET_PDEATHSIG) does not reach the job. Imports the standard library only.
"""

import os
import select
import signal
import socket
import sys
import threading

VARIABLE = "QTUNING_OWNER"
"""Environment variable: host and number of the process of Snakemake that starts jobs here."""


def own_jobs() -> None:
    """Let the jobs that this process starts end with it."""
    os.environ[VARIABLE] = f"{socket.gethostname()} {os.getpid()}"


def end_with_owner() -> None:
    """Send SIGTERM to this process as soon as the workflow that started it has ended. Trainings checkpoint then.

    Without effect where no workflow started it, or one on another machine; and on systems other than Linux.
    """
    host, _, number = os.environ.get(VARIABLE, "").rpartition(" ")
    if host != socket.gethostname() or not hasattr(os, "pidfd_open"):
        return
    try:
        owner = os.pidfd_open(int(number))
    except ProcessLookupError:
        sys.exit("the workflow that wanted this has ended")
    threading.Thread(target=_wait, args=(owner,), daemon=True).start()


def _wait(owner: int) -> None:
    select.select([owner], [], [])
    print("the workflow has ended, and so does this job", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
