"""A job ends with the workflow that started it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

OWNER = """
import subprocess, sys
from qtuning.warm.owner import own_jobs

own_jobs()
# a shell stands between, as in the workflow, and is not killed
subprocess.run(["bash", "-c", 'set -e; "$@"; true', "bash", sys.executable, "-c", sys.argv[1]])
"""
JOB = """
import os, signal, time
from qtuning.warm.owner import end_with_owner

end_with_owner()
signal.signal(signal.SIGTERM, lambda *_: (print("asked to end", flush=True), os._exit(0)))
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_job_is_asked_to_end_when_its_workflow_is_killed() -> None:
    command = [sys.executable, "-c", OWNER, JOB]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None and owner.stderr is not None
        assert owner.stdout.readline().strip().isdecimal()
        owner.send_signal(signal.SIGKILL)
        assert owner.stdout.read() == "asked to end\n"
        assert owner.stderr.read() == "the workflow has ended, and so does this job\n"


@pytest.mark.parametrize(
    "owner", ["", "elsewhere 1", f"{socket.gethostname()} {os.getpid()}"], ids=["none", "elsewhere", "alive"]
)
def test_a_job_without_a_workflow_on_this_machine_goes_on(owner: str) -> None:
    environment = {**os.environ, "QTUNING_OWNER": owner}
    code = "from qtuning.warm.owner import end_with_owner; end_with_owner()"
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_a_job_does_not_begin_after_the_end_of_its_workflow(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    environment = {**os.environ, "QTUNING_OWNER": f"{socket.gethostname()} {ended.pid}"}
    command = [sys.executable, "-m", "qtuning", "prepare", "no.json"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (found.returncode, found.stderr.strip()) == (1, "the workflow that wanted this has ended")
