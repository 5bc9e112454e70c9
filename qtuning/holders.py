"""Who holds a lock, and whether it still runs: on this machine by its process, on another node by its Slurm job.

The kernel's locks (flock) do not reach every node of every cluster: NFS and GPFS pass them on, Lustre only if it is
mounted with `flock`, BeeGFS only with tuneUseGlobalFileLocks. A lock file therefore also says who holds it.
"""

import json
import os
import socket
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

# states of a Slurm job that may still write
ACTIVE = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "STOPPED", "SUSPENDED", "SIGNALING", "STAGE_OUT"})


@dataclass(frozen=True)
class Holder:
    """A process. started: clock ticks from boot to its start, since numbers are used again. slurm: its job, or ""."""

    process: int
    started: int
    host: str
    slurm: str

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm}" if self.slurm else ""
        return f"process {self.process} on {self.host}{job}"

    def text(self) -> str:
        """What a lock file says."""
        return json.dumps(asdict(self))

    def runs(self) -> bool | None:
        """Whether it still runs; None if that cannot be told from here."""
        if self.host == socket.gethostname():
            if not Path("/proc/self/stat").exists():
                return False  # macOS: the kernel's lock decides, which every local file system has
            return _started(self.process) == self.started
        if not self.slurm:
            return None
        if self.slurm == os.environ.get("SLURM_JOB_ID"):
            return False  # our own job, which Slurm started again after its node was lost
        try:
            asked = ["squeue", "--noheader", "--jobs", self.slurm, "--format", "%T"]
            states = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if states.returncode != 0 and "Invalid job id" not in states.stderr:
            return None
        return bool(ACTIVE.intersection(states.stdout.split()))


def current() -> Holder:
    """This process."""
    return Holder(os.getpid(), _started(os.getpid()), socket.gethostname(), os.environ.get("SLURM_JOB_ID", ""))


def parse(text: str) -> Holder | None:
    """The holder that a lock file names; None where it names none."""
    try:
        return Holder(**json.loads(text))
    except (json.JSONDecodeError, TypeError):
        return None


def _started(process: int) -> int:
    """Clock ticks from boot to the start of a process; 0 if there is none, if it has ended, or without /proc."""
    try:
        # the second field is a name in brackets, which may hold blanks; the next is the state
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
