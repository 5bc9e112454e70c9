"""A command handed to the warm server: same arguments, environment, folder and files, same exit status.

It imports little beyond the standard library, so that it starts fast. A server lives as long as the workflow that asked
for it (QTUNING_WARM holds the workflow's process number). It serves one environment and one version of the code; any
other job starts another server.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from qtuning.owners import check_private

VARIABLE = "QTUNING_WARM"
SERVE = "serve-warm"  # the word by which `python -m qtuning` becomes the server
COMMANDS = frozenset({"train", "evaluate", "prepare", "base-model"})
# set by shells and job runners for each command, and of no consequence for imports
OWN = frozenset({"_", "PWD", "OLDPWD", "SHLVL", "OMP_NUM_THREADS"})
PATIENCE = 180.0  # seconds a server may take to import everything


def wanted(arguments: Sequence[str]) -> bool:
    """Whether these are the arguments of a command that the workflow wants warm."""
    return VARIABLE in os.environ and bool(arguments) and arguments[0] in COMMANDS and hasattr(os, "pidfd_open")


def run(arguments: Sequence[str]) -> int | None:
    """Exit status of the command, run by the warm server; None if there is no server and none can be started.

    SIGTERM and SIGINT are handed on to the job; if this process dies, the server asks the job to stop.
    """
    try:
        connection = _connect()
    except OSError as error:
        print(f"no warm start ({error}); starting by itself", file=sys.stderr)
        return None
    except KeyboardInterrupt:
        print("stopped as asked, before the job began", file=sys.stderr)
        return 128 + signal.SIGINT
    request = {"arguments": list(arguments), "environment": dict(os.environ), "folder": os.getcwd()}
    with connection:
        socket.send_fds(connection, [b"\0"], [0, 1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
        status = connection.recv(1)
    if not status:
        print("the warm server died; the same command goes on from the last checkpoint", file=sys.stderr)
        return 1
    return status[0]


def address() -> Path:
    """Socket of the server for this environment and this code, in a folder that is ours alone."""
    folder = Path(tempfile.gettempdir()) / f"qtuning-warm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    check_private(folder)
    package = Path(__file__).resolve().parent.parent
    code = sorted((str(path), path.stat().st_mtime_ns) for path in package.rglob("*.py"))
    environment = sorted(pair for pair in os.environ.items() if pair[0] not in OWN)
    digest = hashlib.sha256(json.dumps([sys.executable, code, environment]).encode()).hexdigest()
    return folder / f"{digest[:20]}.sock"


def _connect() -> socket.socket:
    """A connection to the server, which is started if there is none; one client at a time starts it."""
    path = address()
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        return _try(path)
    with _locked(path.with_suffix(".lock")):
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return _try(path)
        _start(path)
        return _try(path)


def _try(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _start(path: Path) -> None:
    """Start a server and wait until it listens."""
    log = path.with_suffix(".log")
    # One thread a library: threads do not survive a fork, and each job sets its own number.
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    ready, writer = os.pipe()
    with log.open("w") as output, os.fdopen(ready, "rb") as reader:
        try:
            server = subprocess.Popen(
                [sys.executable, "-m", "qtuning", SERVE, str(path), str(writer), os.environ[VARIABLE]],
                env={**os.environ, **single, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[writer],
                start_new_session=True,
            )
        finally:
            os.close(writer)
        import select

        heard, _, _ = select.select([reader], [], [], PATIENCE)
        if not heard or reader.read(1) != b"+":
            server.kill()
            lines = log.read_text(errors="replace").strip().splitlines()
            raise OSError(f"the server did not start: {lines[-1] if lines else 'no word from it'}")
