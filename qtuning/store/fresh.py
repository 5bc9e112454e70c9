"""Whether a store already holds what it would collect: several commands of one workflow collect the same cells."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import ResultPaths, evaluation_id
from qtuning.files import canonical_json, write_json
from qtuning.store.schema import SCHEMAS

MARKER = ".collected.json"
ROOMS = ("store", "experiment", "data")
"""Rooms of the package that decide what is collected."""

States = Mapping[str, str]
"""Experiment -> a digest of everything that its rows in the store are made from."""


def states_of(grids: Iterable[Grid], results: Path) -> States:
    """Of these experiments: configurations, files that the cells have left, and our own code.

    Files are known by their times and sizes.
    """
    paths, package = ResultPaths(results), Path(__file__).parents[1]
    code = [path.read_text(encoding="utf-8") for room in ROOMS for path in sorted((package / room).glob("*.py"))]
    found = {}
    for grid in grids:
        state = [code, grid.experiment.model_dump(mode="json"), list(_cells(grid, paths))]
        found[grid.experiment.name] = hashlib.sha256(canonical_json(state).encode()).hexdigest()
    return found


def is_collected(states: States, results: Path) -> bool:
    """Whether the store below `results` was made in these states, and nobody else has changed it since."""
    return states.items() <= collected(results).items()


def collected(results: Path) -> dict[str, str]:
    """The states in which the store was made; nothing if somebody else has changed it since."""
    try:
        known = json.loads((results / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(known["states"]) if known["store"] == _stamps_of_store(results) else {}


def mark_collected(states: States, results: Path) -> None:
    """Note the states in which the store was made."""
    write_json(results / MARKER, {"states": dict(states), "store": _stamps_of_store(results)})


def _cells(grid: Grid, paths: ResultPaths) -> Iterator[list[Any]]:
    for cell in grid.cells:
        folders = [paths.cell(cell)]
        if grid.evaluation is not None:
            folders.append(folders[0] / evaluation_id(grid.evaluation))
        if not cell.zero_shot:
            folders.append(paths.samples(cell))
        yield [cell.model_dump(mode="json"), [_stamps(folder) for folder in folders]]


def _stamps(folder: Path) -> list[list[Any]]:
    """[name, time of change in nanoseconds, size] of each file in a folder."""
    if not folder.is_dir():
        return []
    files = [(entry.name, entry.stat()) for entry in os.scandir(folder) if entry.is_file()]
    return sorted([name, found.st_mtime_ns, found.st_size] for name, found in files)


def _stamps_of_store(results: Path) -> list[list[Any]]:
    return [stamp for stamp in _stamps(results) if Path(stamp[0]).stem in SCHEMAS]
