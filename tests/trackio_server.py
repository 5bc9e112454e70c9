"""Trackio's dashboard on a port of its own, with no network behind it."""

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ports import free_port


@contextmanager
def trackio_server(results: Path) -> Iterator[str]:
    """The address, ending in a slash, at which the runs below `results` are shown."""
    environment = os.environ | {
        "TRACKIO_DIR": str(results / "trackio"),
        "GRADIO_SERVER_PORT": str(free_port()),
        "GRADIO_NUM_PORTS": "1",
        "HF_HUB_OFFLINE": "1",
        "BROWSER": "true",  # it opens one
    }
    command = [sys.executable, "-u", "-m", "trackio.cli", "show", "--project", "qtuning"]
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            yield _address(server, Path(log.name))
        finally:
            server.kill()


def _address(server: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text()):
            with urllib.request.urlopen(found[0], timeout=60) as answer:
                assert answer.status == 200
            return found[0]
        time.sleep(0.2)
    raise AssertionError(log.read_text())
