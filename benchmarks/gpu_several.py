"""Two GPUs together: the same cell by one process, by DDP and by FSDP, through the command that trains cells."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_setting import Setting
from benchmarks.mini import Mini, mini_world
from benchmarks.report import Checked, Table, Value
from qtuning.data.prepare import prepare
from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import cell_id, cell_json
from qtuning.files import read_json, write_text
from qtuning.model.load import model_path
from qtuning.train.launch import Launch

WAYS: dict[str, Launch] = {
    "one process": Launch(),
    "DDP, two": Launch(2, 1, "ddp"),
    "FSDP, two": Launch(2, 1, "fsdp"),
}
TOLERANCE = 0.01  # nats; sums in another order may turn a decision between equals
SECONDS = 90  # that one training may take, with its start


def several(setting: Setting, devices: int, samples: int = 512) -> list[Table]:
    """Last loss and seconds of the mini cell, float32, full fine-tuning, Q-Tuning at fresh scores."""
    if devices < 2:
        setting.left_out.append("DDP and FSDP: need two GPUs, and one is here")
        return []
    rows: list[dict[str, Value]] = []
    with mini_world() as mini:
        cell = _prepared(mini, samples)
        for name, launch in WAYS.items():
            if not setting.affords(name, SECONDS):
                continue
            marker, wall = _trained(mini, cell, launch)
            alone = rows[0]["loss"] if rows else marker["loss"]
            assert isinstance(alone, float)
            difference = abs(marker["loss"] - alone)
            rows.append(
                {
                    "training": name,
                    "updates": marker["updates"],
                    "loss": marker["loss"],
                    "difference from one": Checked(difference if math.isfinite(difference) else 1e9, TOLERANCE),
                    "s an update": (marker["cost"]["seconds_scoring"] + marker["cost"]["seconds_training"])
                    / marker["updates"],
                    "s in all": wall,
                }
            )
    note = (
        f"Mini model, {samples} samples, two batches of 8 an update. It is small: the seconds say what waiting costs."
    )
    return [Table("DDP and FSDP", rows, (note,))] if rows else []


def _trained(mini: Mini, cell: Cell, launch: Launch) -> tuple[dict[str, Any], float]:
    """(train.json, seconds of the command)."""
    folder = mini.paths.root / launch.parallel
    configuration, out = folder / "cell.json", folder / "cells" / cell_id(cell)
    write_text(configuration, cell_json(cell) + "\n")
    options = ["--cell", configuration, "--model", mini.paths.model(cell), "--samples", mini.paths.samples(cell)]
    options += ["--out", out, "--state", folder / "state", "--tracking", "disabled"]
    words = [str(word) for word in options] + ["--shard"] * (launch.parallel == "fsdp")
    one = [sys.executable, "-m", "qtuning.train", *words]
    command = launch.command(words) if launch.processes > 1 else one
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{launch.parallel}: exit status {done.returncode}: {done.stderr[-2000:]}")
    return read_json(out / "train.json"), time.perf_counter() - started


def _prepared(mini: Mini, samples: int) -> Cell:
    """The Q-Tuning cell of the mini experiment on some samples, two batches an update, its train set ready."""
    assert mini.cell.training is not None
    training = mini.cell.training.model_copy(update={"batch_size": 8, "update_samples": 16, "epochs": 1})
    cell = mini.cell.model_copy(update={"training": training, "limit_train": samples})
    prepare(cell, model_path(mini.paths.model(cell)), mini.paths.samples(cell))
    return cell
