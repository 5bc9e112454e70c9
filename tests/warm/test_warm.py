"""Jobs of the warm server against the same commands by themselves: results, exit status, signals, deaths."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths, cell_id, cell_json, pair_id
from qtuning.files import write_text
from qtuning.model.load import make_ready
from qtuning.warm import client
from qtuning.workflow.inputs import WorkflowInputs

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the warm server is for Linux")


@pytest.fixture(scope="module")
def owner() -> Iterator["subprocess.Popen[bytes]"]:
    """What stands for the workflow that wants its jobs warm."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[ResultPaths, Cell]:
    """The mini world and its model, and a short Q-Tuning cell whose train set is not prepared yet."""
    (grid,) = ConfigFolder(REPOSITORY / "configs").expand(["mini"])
    usual = next(cell for cell in grid.cells if cell.pruning is not None and cell.pruning.method == "q-tuning")
    assert usual.training is not None
    cell = usual.model_copy(update={"limit_train": 96, "training": usual.training.model_copy(update={"epochs": 6})})
    paths = ResultPaths(tmp_path_factory.mktemp("warm"))
    make_ready(cell.model, paths.model(cell))
    write_text(paths.configuration(cell_id(cell)), cell_json(cell) + "\n")
    inputs = WorkflowInputs([type(grid)(grid.experiment, (cell,))], paths, None)
    write_text(paths.configuration(pair_id(cell)), inputs.configuration(pair_id(cell)) + "\n")
    return paths, cell


def command(paths: ResultPaths, name: str, identity: str, *more: str) -> list[str]:
    arguments = [name, str(paths.configuration(identity)), "--results", str(paths.root), *more]
    return [sys.executable, "-m", "qtuning", *arguments]


def train(paths: ResultPaths, cell: Cell, *more: str) -> list[str]:
    return command(paths, "train", cell_id(cell), "--tracking", "disabled", *more)


def environment(owner: "subprocess.Popen[bytes] | None") -> dict[str, str]:
    asked = {} if owner is None else {client.VARIABLE: str(owner.pid)}
    return os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"} | asked


def server_of(owner: "subprocess.Popen[bytes]") -> psutil.Process:
    """The one whose parent is no server; the others are its jobs."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if words[1:4] == ["-m", "qtuning", client.SERVE] and words[-1] == str(owner.pid):
                found[process.pid] = process, process.ppid()
    (server,) = [process for process, parent in found.values() if parent not in found]
    return server


def has_ended(process: psutil.Process) -> bool:
    """Whether it does nothing any more; what has adopted it need not have asked yet how it ended."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(true: object, what: str, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    assert callable(true)
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_warm_job_makes_the_same_bytes_and_its_deaths_lose_nothing(
    owner: "subprocess.Popen[bytes]", ground: tuple[ResultPaths, Cell], tmp_path: Path
) -> None:
    paths, cell = ground
    warm, cold = environment(owner), environment(None)
    done = subprocess.run(command(paths, "prepare", pair_id(cell)), env=warm, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    server = server_of(owner)
    metrics, digest = paths.state(cell) / "metrics.jsonl", paths.cell(cell) / "weights.sha256"

    # asked to stop, the job stops after its update, with a checkpoint
    with subprocess.Popen(train(paths, cell), env=warm, stderr=subprocess.PIPE, text=True) as job:
        wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, "an update")
        job.send_signal(signal.SIGTERM)
        _, printed = job.communicate()
    assert job.returncode == 128 + signal.SIGTERM, printed
    assert "as asked; the same command goes on from here" in printed

    # a client that dies without a word takes its job with it
    with subprocess.Popen(train(paths, cell), env=warm, stderr=subprocess.DEVNULL) as killed:
        wait_until(lambda: server.children(), "a job")
        killed.kill()
    wait_until(lambda: not server.children(), "the end of the job")

    # and so does a server; the next command starts another
    with subprocess.Popen(train(paths, cell), env=warm, stderr=subprocess.PIPE, text=True) as job:
        wait_until(lambda: server.children(), "a job")
        (child,) = server.children()
        server.kill()
        _, printed = job.communicate()
    assert job.returncode == 1
    assert "the warm server died" in printed
    wait_until(lambda: has_ended(child), "the end of the job")

    done = subprocess.run(train(paths, cell), env=warm, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert server_of(owner).pid != server.pid
    warm_digest = digest.read_text()
    digest.unlink()
    done = subprocess.run(train(paths, cell), env=cold, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert digest.read_text() == warm_digest != ""


def test_failures_read_as_without_a_server_and_the_server_ends_with_its_owner(tmp_path: Path) -> None:
    paths = ResultPaths(tmp_path)
    with subprocess.Popen(["sleep", "600"]) as owner:
        try:
            results = [
                subprocess.run(command(paths, "train", "nothing"), env=env, capture_output=True, text=True)
                for env in (environment(owner), environment(None))
            ]
            server = server_of(owner)
            server_words = server.cmdline()
        finally:
            owner.kill()
    warm, cold = ((result.returncode, result.stdout, result.stderr) for result in results)
    assert warm == cold
    assert warm[0] == 2
    assert "nothing.json: no such file" in warm[2]
    wait_until(lambda: has_ended(server), "the end of the server")
    assert not Path(server_words[4]).exists(), "its socket goes with it"


def test_only_the_workflow_makes_commands_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(client.VARIABLE, raising=False)
    assert not client.wanted(["train", "x"])
    monkeypatch.setenv(client.VARIABLE, "1")
    assert client.wanted(["train", "x"])
    assert not client.wanted(["tables", "x"])
    assert not client.wanted([])


def test_another_environment_is_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    here = client.address()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert client.address() == here, "what each job sets for itself does not count"
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    assert client.address() != here


def test_a_folder_of_others_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = client.address().parent
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="must be a folder that is ours alone"):
        client.address()


def test_an_interrupt_while_the_server_starts_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qtuning.warm.client._connect", interrupted)
    assert client.run(["train", "x"]) == 130
    assert capsys.readouterr().err == "stopped as asked, before the job began\n"
