"""A Slurm cluster of one node on this machine, from the installed packages: its own munge key, ports and folders.

Everything listens on the loopback interface, writes below one folder and ends with the test. Nothing is read from or
written to /etc/slurm, so that a Slurm which the machine already has is left alone.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from ports import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr")
SYSTEM = "/usr/sbin:/sbin"  # Debian's daemons; not on every user's PATH
PATIENCE = 180.0
FAKE_GPUS = ("/dev/null", "/dev/zero")  # Slurm hands out any device file as a GPU

SLURM_CONF = """
ClusterName=qtuning
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_interval=2
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=20
MinJobAge=3600
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs={cores} RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes=node Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that are needed and not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:{SYSTEM}") is None]


class Cluster:
    """The running cluster. environment: of a user of it, whose `sbatch` and `squeue` reach this one."""

    def __init__(self, folder: Path, cores: int) -> None:
        folder.chmod(0o755)  # munged wants its socket to be within everyone's reach
        self.folder, self.environment = folder, dict(os.environ)
        self.environment["PATH"] = f"{folder}/bin:{os.environ['PATH']}:{SYSTEM}"
        user = psutil.Process().username()
        settings = {"folder": folder, "user": user, "cores": cores, "host": socket.gethostname().partition(".")[0]}
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir()
        conf = SLURM_CONF.format(**settings, controller_port=free_port(), node_port=free_port())
        (folder / "slurm.conf").write_text(conf)
        (folder / "gres.conf").write_text("".join(f"NodeName=node Name=gpu File={device}\n" for device in FAKE_GPUS))
        for name in CLIENTS:
            # the plugin removes SLURM_* from the environment of jobs, SLURM_CONF with them
            program = folder / "bin" / name
            program.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which(name)} "$@"\n')
            program.chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.munged = self._start(
            "munged", "--foreground", f"--key-file={key}", f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
        )  # fmt: skip
        self._wait(lambda: (folder / "munge.socket").exists(), "munged listens")
        self.controller = self._start("slurmctld", "-D", "-f", f"{folder}/slurm.conf")
        self.node = self.start_node()

    def _start(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        path = shutil.which(program, path=f"{os.environ['PATH']}:{SYSTEM}")
        environment = {**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf"}
        with (self.folder / f"{program}.out").open("ab") as output:
            return subprocess.Popen(
                [path, *arguments],
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def start_node(self) -> "subprocess.Popen[bytes]":
        """Start slurmd, and wait until its node takes jobs."""
        self.node = self._start("slurmd", "-D", "-N", "node", "-f", f"{self.folder}/slurm.conf")
        self._wait(lambda: self.ask("sinfo", "-h", "-o", "%T") in ("idle", "mixed", "allocated"), "the node is up")
        return self.node

    def kill_node(self) -> None:
        """Kill slurmd and every process of every job, as if the machine had lost power."""
        self.node.kill()
        steps = [
            step for step in psutil.process_iter(["name"]) if step.info["name"] == "slurmstepd" and self._ours(step)
        ]
        for step in steps:  # before their jobs, whose end they would report
            processes = step.children(recursive=True)
            step.kill()
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.node.wait()

    def _ours(self, step: psutil.Process) -> bool:
        return any(opened.path.startswith(f"{self.folder}/") for opened in step.open_files())

    def wait_until_down(self) -> None:
        """Until the controller has noticed that the node is gone, and what becomes of its jobs."""
        self._wait(lambda: self.ask("sinfo", "-h", "-o", "%T").startswith("down"), "the node counts as down")

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout.strip()

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.log"))
            assert time.monotonic() < deadline, f"waited in vain until {what}\n{logs}"
            time.sleep(0.2)

    def stop(self) -> None:
        """End all jobs and daemons."""
        self.kill_node()
        for daemon in (self.controller, self.munged):
            daemon.terminate()
            daemon.wait()


def end_with_parent() -> None:
    """For a process that must not outlive a killed test."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def cluster(folder: Path, cores: int) -> Iterator[Cluster]:
    """A running cluster with its files in `folder`, which must be empty."""
    running = Cluster(folder, cores)
    try:
        yield running
    finally:
        running.stop()
