"""The warm server: imports what training and evaluation need, computes nothing, and forks once for each job.

A fork copies only the thread that forks, and a job could miss the others. So the server refuses to serve if an import
has started a thread that is not known to be harmless. It ends when the workflow that wanted it has ended
and no job is running.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# what a training and an evaluation import; the rest is found by each job itself
MODULES = (
    "qtuning.cli.app",
    "qtuning.train.__main__",
    "qtuning.evaluation.run",
    "qtuning.evaluation.model",
    "qtuning.data.prepare",
    "transformers.models.llama.modeling_llama",
    "transformers.generation.utils",
    "lm_eval.evaluator",
    "lm_eval.tasks",
    "datasets",
    "peft",
    "safetensors.torch",
    "wandb",
)
# jemalloc (in polars and pyarrow) does without its purging thread after a fork; polars' cleaner looks after spilled
# files, which only its streaming engine makes. The kernel cuts names at 15 characters.
HARMLESS = frozenset({"jemalloc_bg_thd", "polars-ooc-clea"})
POLL = 2.0  # seconds between looks at whether the workflow is still there
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


@dataclass
class Client:
    """Someone who asked for a job: what was received of the request so far, then the running job."""

    connection: socket.socket
    files: list[int] = field(default_factory=list)
    received: bytes = b""
    process: int | None = None

    def signal(self, number: int) -> None:
        """Hand a signal on to the job, if it still runs."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)


@dataclass(frozen=True)
class Job:
    """What a forked process is to do."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str


class Server:
    """Listens at `path` while the process `owner` lives."""

    def __init__(self, path: Path, owner: int) -> None:
        self.path, self.owner = path, owner
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.clients: set[int] = set()  # descriptors of connections
        self.jobs: set[int] = set()  # process numbers; a job may outlive its client while it checkpoints

    def serve(self) -> Job | None:
        """Serve until the owner has ended (None). In each forked process: return what it is to do."""
        while True:
            for key, _ in self.selector.select(POLL):
                if key.data is None:
                    self._accept()
                elif isinstance(key.data, Client):
                    job = self._hear(key.data)
                    if job is not None:
                        return job
                else:
                    self._finished(key.fd, *key.data)
            if not self.clients and not self.jobs and not Path(f"/proc/{self.owner}").exists():
                for suffix in (".sock", ".lock", ".log"):
                    self.path.with_suffix(suffix).unlink(missing_ok=True)
                return None

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.getuid():
            connection.close()
            return
        self.selector.register(connection, selectors.EVENT_READ, Client(connection))
        self.clients.add(connection.fileno())

    def _hear(self, client: Client) -> Job | None:
        """A part of the request, a signal for the job, or the end of the client.

        What a client sends: a byte with its three files, the request, a line feed, then a byte for each signal.
        """
        if client.connection.fileno() < 0:  # its job ended, and it was told, in the same round
            return None
        try:
            data, files, _, _ = socket.recv_fds(client.connection, 65536, 3)
        except OSError:
            data, files = b"", []
        client.files += files
        if not data:
            self._forget(client)
            if client.process is not None:
                client.signal(signal.SIGTERM)
            return None
        if client.process is None:
            client.received += data
            request, end, data = client.received.partition(b"\n")
            if not end:
                return None
            job = self._fork(client, request[1:])
            if job is not None:
                return job
        if client.process is not None:
            for number in data:
                client.signal(number)
        return None

    def _fork(self, client: Client, request: bytes) -> Job | None:
        try:
            job = Job(**json.loads(request))
            process = os.fork()
        except (ValueError, TypeError, OSError) as error:  # of one request; the others' jobs go on
            print(f"no job for a request: {error}", file=sys.stderr)
            self._forget(client)
            return None
        if process:
            client.process = process
            self.jobs.add(process)
            for descriptor in client.files:
                os.close(descriptor)
            pidfd = os.pidfd_open(process)
            self.selector.register(pidfd, selectors.EVENT_READ, (process, client))
            return None
        kernel = ctypes.CDLL(None)
        kernel.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # whoever makes the server die wants its jobs to stop as well
        kernel.prctl(PR_SET_NAME, f"qtuning-{job.arguments[0]}".encode())
        for target, descriptor in enumerate(client.files):
            os.dup2(descriptor, target)
            os.close(descriptor)
        for key in list(self.selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self.selector.close()
        return job

    def _finished(self, pidfd: int, process: int, client: Client) -> None:
        """Tell the client how its job ended."""
        self.selector.unregister(pidfd)
        os.close(pidfd)
        self.jobs.discard(process)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with contextlib.suppress(OSError):
            client.connection.sendall(bytes([status if status >= 0 else 128 - status]))
        self._forget(client)

    def _forget(self, client: Client) -> None:
        descriptor = client.connection.fileno()
        if descriptor in self.clients:
            self.clients.discard(descriptor)
            self.selector.unregister(client.connection)
            client.connection.close()


def preload() -> None:
    """Import everything; RuntimeError if that left a thread that a job could miss."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in MODULES:
            importlib.import_module(name)
    others = [task for task in Path("/proc/self/task").iterdir() if int(task.name) != os.getpid()]
    lost = {(task / "comm").read_text().strip() for task in others} - HARMLESS
    if lost:
        raise RuntimeError(f"imports started threads that a fork would lose: {', '.join(sorted(lost))}")
    gc.collect()
    gc.freeze()  # what is there now is never collected, so that jobs share its memory


def become(job: Job) -> None:
    """Make this process as if it had been started with the job's arguments in its folder and environment."""
    os.chdir(job.folder)
    os.environ.clear()
    os.environ.update(job.environment)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    random.seed()
    sys.argv = ["qtuning", *job.arguments]


def run(path: str, ready: str, owner: str) -> bool:
    """Preload, say so on the descriptor `ready`, serve. In each forked process: become the job, and return True."""
    preload()
    server = Server(Path(path), int(owner))
    os.write(int(ready), b"+")
    os.close(int(ready))
    job = server.serve()
    if job is not None:
        become(job)
    return job is not None
