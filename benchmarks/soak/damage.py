"""Faults of single files: a bit that flipped, an end that is missing, in every kind of file, with its old date."""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from benchmarks.soak.micro import Run, checkout, differences, finish, quiet
from benchmarks.soak.strikes import KILLED, strike

STOPPED, TRAINED, FINISHED = "in training", "trained", "finished"
KINDS: Mapping[str, tuple[str, ...]] = {
    STOPPED: (
        "configurations/*.json",
        "models/*/model.json",
        "train_sets/*/samples.parquet",
        "train_sets/*/tokens.int32",
        "train_sets/*/report.json",
        "state/*/checkpoint-*/tensors.safetensors",
        "state/*/checkpoint-*/state.json",
        "state/*/metrics.jsonl",
        "state/*/trace-*.parquet",
    ),
    TRAINED: ("cells/*/weights/model.safetensors", "cells/*/weights/tokenizer.json", "cells/*/weights.sha256"),
    FINISHED: (
        "cells/*/cell.json",
        "cells/*/train.json",
        "cells/*/metrics.jsonl",
        "cells/*/trace.parquet",
        "cells/*/*/scores.json",
        "cells/*/*/items.parquet",
        "contamination/*.json",
        "scores.parquet",
        "items.parquet",
        ".collected.json",
    ),
}
"""Files below results/, by how far the run had come."""
SUMMARIES = ("tables", "figures")
ATTEMPTS = 4


def flip(file: Path, random: Random) -> None:
    """Turn one bit over."""
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(data)


def cut(file: Path, random: Random) -> None:
    """Leave out the end, or everything."""
    os.truncate(file, random.randrange(file.stat().st_size))


WAYS: Mapping[str, Callable[[Path, Random], None]] = {"a bit flipped": flip, "cut short": cut}


def snapshots(folder: Path, finished: Path, random: Random, life: Mapping[str, float]) -> dict[str, Path]:
    """Folders of runs that had come so far. finished: one to its end."""
    stopped, trained = checkout(folder / "stopped"), checkout(folder / "trained")
    while not list(stopped.glob("results/state/*/checkpoint-*/state.json")):
        strike(run := Run(stopped), ["training"], KILLED, random, life)
        run.wait()
        quiet(stopped)
    finish(Run(trained, options=("--until", "train", "--notemp")))
    return {STOPPED: stopped, TRAINED: trained, FINISHED: finished}


def damage(folder: Path, snapshot: Path, pattern: str, way: str, random: Random, expected: Mapping[str, str]) -> str:
    """Copy a snapshot, damage a file of this kind, and type the command until it succeeds; what became of it.

    What the command asks to delete is deleted in between. "" where all is as expected.
    """
    shutil.copytree(snapshot, folder, symlinks=True)
    for name in SUMMARIES:  # so that the command reads again
        shutil.rmtree(folder / "results" / name, ignore_errors=True)
    for store in folder.glob("results/*.parquet") if pattern.startswith("cells/") else ():
        store.unlink()
    file = random.choice(sorted(folder.glob(f"results/{pattern}")))
    before, shown = file.stat(), str(file.relative_to(folder))
    WAYS[way](file, random)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(ATTEMPTS):
        run = Run(folder)
        ended = run.wait()
        quiet(folder)
        if ended:
            differ = differences(folder, expected)
            return f"{shown} {way}: succeeds, with other {differ}" if differ else ""
        if (asked := _asked(run.said(), folder)) is None:
            return f"{shown} {way}: fails and asks for nothing to be deleted: {run.said()[-1500:]}"
        shutil.rmtree(asked) if asked.is_dir() else asked.unlink()
    return f"{shown} {way}: fails {ATTEMPTS} times"


def _asked(said: str, folder: Path) -> Path | None:
    """What an error asks to delete: by name, or as `it`, the file that it is about, or as `the folder` of that file."""
    for line in said.splitlines():
        for found in re.findall(r"delete (\S+?)[:;,.)]*(?=\s|$)", line) if "error:" in line.lower() else ():
            path = folder / found
            if path.exists() and path != folder:
                return path
        if (named := re.search(r"error: (\S+): .*delete (it|the folder)\b", line)) is not None:
            return folder / named[1] if named[2] == "it" else (folder / named[1]).parent
    return None
