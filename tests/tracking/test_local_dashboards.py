"""Trackio and TensorBoard: runs read back by their own readers; needs the extras of the same names."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from qtuning.tracking.identity import RunIdentity
from qtuning.tracking.mirror import Mirror

ME = RunIdentity("mini-1", ("mine", "other"), {"method": "q-tuning", "budget": "25x50"})


def write(mode: str, results: Path, start: int = 0) -> None:
    """Updates from `start` on, after those that an earlier attempt made, and what is said of the whole."""
    mirror = Mirror.open(mode, ME, results)
    for update in range(8):
        mirror.log({"update": update, "loss": 2.0 - update / 10 + start, "nothing": None})
    mirror.summary({"status": "done", "score": {"avg": 51.5}})
    mirror.table("scores", pl.DataFrame({"benchmark": ["gsm8k"], "score": [51.5]}))
    mirror.finish("digest")
    assert mirror.failure is None


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write("tensorboard", tmp_path, start=5)
    write("tensorboard", tmp_path)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    read = EventAccumulator(str(folder)).Reload()
    points = {tag: [(e.step, tensor(e)) for e in read.Tensors(tag)] for tag in read.Tags()["tensors"]}
    assert points["loss"] == [(update, pytest.approx(2.0 - update / 10)) for update in range(8)]
    assert points["score/avg"] == [(7, 51.5)]


def tensor(event: Any) -> float:
    from tensorboard.util.tensor_util import make_ndarray

    return float(make_ndarray(event.tensor_proto))


@pytest.fixture
def in_trackio(tmp_path: Path) -> Path:
    """Written twice, each time by a process of its own, since Trackio reads its folder once."""
    pytest.importorskip("trackio")
    here = Path(__file__).parent
    for start in (5, 0):
        program = f"from pathlib import Path; import test_local_dashboards as t; t.write('trackio', Path(), {start})"
        path = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return tmp_path


def test_trackio(in_trackio: Path) -> None:
    program = (
        "import json, trackio; from trackio.sqlite_storage import SQLiteStorage as s;"
        "print(json.dumps([[r.name for r in trackio.Api().runs('qtuning')], s.get_run_config('qtuning', 'mini-1'),"
        " s.get_logs('qtuning', 'mini-1')]))"
    )
    import json

    folder = {"TRACKIO_DIR": str(in_trackio / "trackio")}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | folder, capture_output=True, text=True)
    runs, config, logs = json.loads(done.stdout.splitlines()[-1])
    assert runs == ["mini-1"], "written twice, there once"
    assert (config["method"], config["budget"], config["_Group"]) == ("q-tuning", "25x50", "mine")
    assert [(log["step"], log["loss"]) for log in logs[:-1]] == [(u, pytest.approx(2.0 - u / 10)) for u in range(8)]
    assert (logs[-1]["step"], logs[-1]["score/avg"]) == (7, 51.5)
    assert logs[-1]["scores"]["_value"] == [{"benchmark": "gsm8k", "score": 51.5}]


@pytest.mark.slow
def test_trackio_in_a_browser(in_trackio: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    environment = os.environ | {"TRACKIO_DIR": str(in_trackio / "trackio"), "GRADIO_SERVER_PORT": "7861"}
    command = [sys.executable, "-m", "trackio.cli", "show", "--project", "qtuning"]
    log = in_trackio / "log"
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as server:
        try:
            url = address(log)
            options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
            page = subprocess.run([browser, *options, url], capture_output=True, text=True, timeout=120).stdout
        finally:
            server.kill()
    for text in ("mini-1", "loss", "avg"):
        assert text in page


def address(log: Path) -> str:
    """Where the server answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for word in log.read_text().replace("\x1b", " ").split():
            if word.startswith("http://127.0.0.1"):
                url = word.partition("&")[0].partition("[")[0]
                with urllib.request.urlopen(url, timeout=10) as answer:
                    assert answer.status == 200
                return url
        time.sleep(0.2)
    raise AssertionError(log.read_text())
