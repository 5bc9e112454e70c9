"""Trackio and TensorBoard: runs read back by their own readers; needs the extras of the same names."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from browser import open_page
from test_workflow import checkout, snakemake
from trackio_server import trackio_server

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
        path = os.pathsep.join([str(here), str(here.parent), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
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
    folder = {"TRACKIO_DIR": str(in_trackio / "trackio")}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | folder, capture_output=True, text=True)
    runs, config, logs = json.loads(done.stdout.splitlines()[-1])
    assert runs == ["mini-1"], "written twice, there once"
    assert (config["method"], config["budget"], config["_Group"]) == ("q-tuning", "25x50", "mine")
    assert [(log["step"], log["loss"]) for log in logs[:-1]] == [(u, pytest.approx(2.0 - u / 10)) for u in range(8)]
    assert (logs[-1]["step"], logs[-1]["score/avg"]) == (7, 51.5)
    assert logs[-1]["scores"]["_value"] == [{"benchmark": "gsm8k", "score": 51.5}]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the micro experiment, run by the workflow with `tracking: trackio`."""
    pytest.importorskip("trackio")
    folder = checkout(tmp_path_factory.mktemp("trackio"), tracking="trackio")
    snakemake(folder)
    return folder / "results"


def _pointed_at(page: Any, plot: Any) -> dict[str, str]:
    """What is said of the point in the middle of a plot. A plot that is drawn again meanwhile forgets the mouse."""
    canvas, tip = plot.locator("canvas"), page.locator("#vg-tooltip-element.visible")
    for attempt in range(60):
        box = canvas.bounding_box()
        canvas.hover(position={"x": box["width"] / 2 + attempt % 2, "y": box["height"] / 2})
        page.wait_for_timeout(500)
        keys, values = (tip.locator(part).all_inner_texts() for part in (".key", ".value"))
        if keys and len(keys) == len(values):
            return dict(zip(keys, values, strict=True))
    raise AssertionError("nothing is said of the points")


@pytest.mark.slow
def test_trackio_in_a_browser(browser: Any, tracked: Path) -> None:
    """Runs, a curve, a point of it, the configuration and the table of scores, as they were logged."""
    (cell,) = tracked.glob("cells/mini-mini-q-tuning-*")
    lines = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
    (scores,) = cell.glob("evaluation-*/scores.json")
    with trackio_server(tracked) as url:
        page, wrong = open_page(browser, f"{url}?project=qtuning&smoothing=0&runs={cell.name}")
        page.set_default_timeout(120_000)
        for run in (*(path.name for path in tracked.glob("cells/*")), "experiment-micro"):
            page.get_by_text(run, exact=True).first.wait_for()
        plot = page.locator("[data-metric=loss]").first
        plot.scroll_into_view_if_needed()
        told = _pointed_at(page, plot)
        assert told["series_key"] == cell.name
        assert float(told["loss"]) == pytest.approx(lines[int(told["step"])]["loss"])
        with page.expect_download() as download:
            plot.get_by_title("CSV").click()
        drawn = pl.read_csv(download.value.path()).sort("step")
        assert drawn["loss"].to_list() == pytest.approx([line["loss"] for line in lines])
        page.locator(".nav-link", has_text="Tables").click()
        page.locator("table").first.wait_for()
        rows = [row.split("\t") for row in page.locator("tr", has_text="gsm8k").all_inner_texts()]
        gsm8k = json.loads(scores.read_text())["benchmarks"]["gsm8k"]
        (headline,) = [row for row in rows if row[2] == gsm8k["headline"]]
        assert float(headline[3]) == pytest.approx(100 * gsm8k["metrics"][gsm8k["headline"]])
        page.locator(".nav-link", has_text="Runs").click()
        page.locator(".link-btn", has_text=cell.name).click()
        config = json.loads(page.locator("pre.config-block").inner_text())
        assert (config["method"], config["budget"], config["_Group"]) == ("q-tuning", "25x50", "micro")
    assert wrong == [], "no error, and no request to anywhere else"
