"""A cell of two processes, killed and started again: bit for bit what it would have been, and like that of one.

Run as a script (`test_two_processes_killed.py FOLDER`) it trains the cells of `CELLS`, in processes that it forks.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_cell import a_cell, command, environment, ground, records, same, wait_for_updates
from transformers import AutoModelForCausalLM

from qtuning.experiment.cell import Cell
from qtuning.train.__main__ import main as train_cell
from qtuning.train.__main__ import run_as_worker
from qtuning.train.launch import Launch

__all__ = ["ground"]  # a fixture
UPDATES = {"update_samples": 16}  # 60 samples in batches of 8: four updates an epoch, the last of them uneven
OFTEN = ("--checkpoint-seconds", "0")
SHARD = {"fsdp": ("--shard",), "ddp": ()}
CELLS = {
    "fsdp": ("fsdp", "full", "q-tuning"),  # these with gradient checkpointing, whose forwards come back in backward
    "fsdp-lora-reuse": ("fsdp", "lora", "q-tuning with reused graphs"),
    "ddp-lora-reuse": ("ddp", "lora", "q-tuning with reused graphs"),
    "ddp": ("ddp", "full", "q-tuning"),
}


def cell_of(root: Path, parallel: str, tuning: str, method: str) -> Cell:
    return a_cell(root, method, tuning=tuning, gradient_checkpointing=parallel == "fsdp", **UPDATES)


def arguments_of(root: Path, cell: Cell, out: Path, *more: str) -> list[str]:
    arguments = command(root, cell, out, *more)
    return arguments[arguments.index("qtuning.train") + 1 :]


def start(count: int, arguments: Sequence[str], log: Path) -> list[int]:
    """The processes of a training, as a launcher starts them; their numbers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        if child := os.fork():
            children.append(child)
            continue
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if count > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        try:
            run_as_worker(lambda: train_cell(arguments))
        finally:
            os._exit(1)
    return children


def finish(children: Sequence[int], log: Path) -> None:
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert not any(codes), f"{codes}: {log.read_text()[-3000:]}"


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    (file,) = (out / "weights").glob("*.safetensors")
    return load_file(file)


@pytest.mark.slow
def test_killed_trainings_go_on_together_and_alone(ground: Path, tmp_path: Path) -> None:
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, __file__, str(ground), str(tmp_path)],
        env=environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    for name, (parallel, tuning, _) in CELLS.items():
        whole, cut, alone, moved = (tmp_path / name / place / "out" for place in ("whole", "cut", "alone", "moved"))
        for out in (cut, moved):
            assert "resumed             at update" in (out.parent / "log").read_text(), name
        left, right = weights_of(whole), weights_of(cut)
        assert left.keys() == right.keys() and all(left[key].equal(right[key]) for key in left), name
        assert records(whole) == records(cut)
        if tuning == "full":
            same(whole, cut)
            loaded: Any = AutoModelForCausalLM.from_pretrained(whole / "weights", output_loading_info=True)
            assert not any(loaded[1].values()), "nothing is missing, nothing is left over"
        assert (tmp_path / name / "sharded").exists() == (parallel == "fsdp")
        assert not (cut.parent / "state" / "x").exists(), "a finished cell leaves no state"
        # like one process, which may even go on where two have stopped
        for out in (alone, moved):
            other = weights_of(out)
            assert other.keys() == left.keys()
            for key, weight in other.items():
                torch.testing.assert_close(left[key], weight, rtol=0, atol=2e-3)
            counts = ("samples", "samples_kept", "tokens_kept", "tokens_asked", "learning_rate")
            ours, theirs = ([[record[key] for key in counts] for record in records(each)] for each in (whole, out))
            assert ours == theirs, name


def main(root: Path, folder: Path) -> None:
    """Train each cell together, together with a kill, alone, and alone from where the killed ones had come."""
    for name, what in CELLS.items():
        cell, here, shard = cell_of(root, *what), folder / name, SHARD[what[0]]
        for place in ("whole", "cut", "alone"):
            (here / place).mkdir(parents=True)
        finish(start(2, arguments_of(root, cell, here / "whole", *shard), here / "whole" / "log"), here / "whole/log")
        arguments, log = arguments_of(root, cell, here / "cut", *shard, *OFTEN), here / "cut" / "log"
        children = start(2, arguments, log)
        wait_for_updates(here / "cut" / "state" / "x" / "metrics.jsonl", 3)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        shutil.copytree(here / "cut", here / "moved")
        if any(here.glob("cut/state/x/checkpoint-*/shards/*.safetensors")):
            (here / "sharded").touch()
        finish(start(2, arguments, log), log)
        for place in ("alone", "moved"):
            log = here / place / "log"
            finish(start(1, arguments_of(root, cell, here / place), log), log)


@pytest.mark.slow
def test_the_launcher_hands_on_what_asks_it_to_stop(ground: Path, tmp_path: Path) -> None:
    cell = a_cell(ground, "q-tuning", **UPDATES)
    arguments = Launch(2, parallel="fsdp").command(arguments_of(ground, cell, tmp_path, "--shard"))
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(arguments, env=environment(), **pipes) as process:
        wait_for_updates(tmp_path / "state" / "x" / "metrics.jsonl", 2)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "the same command goes on from here" in said
    again = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "resumed             at update" in again.stdout


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
