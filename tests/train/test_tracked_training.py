"""A training that was killed and went on is one run, and holds all updates."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from offline_runs import offline_runs
from test_cell import a_cell, command, environment, ground, slowly, wait_for_updates

from qtuning.experiment.ids import cell_id

__all__ = ["ground"]  # a fixture
OFFLINE = ("--tracking", "offline", "--group", "mine", "--group", "other", "--variant", "lambda=0.3")


@pytest.mark.slow
def test_killed_and_resumed_is_one_run(ground: Path, tmp_path: Path) -> None:
    cell = a_cell(ground, "q-tuning")
    every_update = command(ground, cell, tmp_path, *OFFLINE, "--checkpoint-seconds", "0")
    with subprocess.Popen(slowly(every_update, 7), env=environment(), stderr=subprocess.DEVNULL) as process:
        wait_for_updates(tmp_path / "state" / "x" / "metrics.jsonl", 7)
        process.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.glob("wandb/wandb/offline-run-*"))) == 1
    done = subprocess.run(
        command(ground, cell, tmp_path, *OFFLINE), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "resumed" in done.stdout, done.stderr
    (run,) = offline_runs(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [item["update"] for item in run.history] == [line["update"] for line in lines] == list(range(24))
    assert [item["loss"] for item in run.history] == [line["loss"] for line in lines]
    assert (run.name, run.group, run.tags) == (cell_id(cell), "mine", ["mine", "other"])
    assert run.config["variant"] == "lambda=0.3"
    train = json.loads((tmp_path / "out" / "train.json").read_text())
    for key in ("q1_share", "q4_share", "converged", "supplemented", "from_thresholds"):
        assert run.summary[f"mean/{key}"] == pytest.approx(train["selection"][key])
    assert run.summary["cost/tokens_kept"] == train["cost"]["tokens_kept"]
    texts = run.table("plane")
    assert texts and all(row["prompt"] and "the sum is" in row["response"] for row in texts)
    assert run.artifacts == {"trace": [(tmp_path / "out" / "trace.parquet").resolve()]}
