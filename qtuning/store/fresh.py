"""Whether a store already holds what it would collect: several commands of one workflow collect the same cells."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qtuning.errors import UserError
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import ResultPaths, evaluation_id
from qtuning.files import canonical_json
from qtuning.manifest import digests_of, read_sealed, write_sealed
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
        found[grid.experiment.name] = _digest([code, configuration_of(grid), list(_cells(grid, paths))])
    return found


def configuration_of(grid: Grid) -> str:
    """A digest of all that an experiment asks for: its cells and what they are called, its evaluation, its title."""
    return _digest([grid.experiment.model_dump(mode="json"), [cell.model_dump(mode="json") for cell in grid.cells]])


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def is_collected(states: States, results: Path) -> bool:
    """Whether the store below `results` was made in these states, and is what was written then."""
    return states.items() <= collected(results).items()


def collected(results: Path) -> dict[str, str]:
    """The states in which the store was made; nothing if it is not what was written then."""
    known = _known(results)
    if not known or known["store"] != digests_of(results, _files_of_store(results)):
        return {}
    return dict(known["states"])


def mark_collected(states: States, results: Path, grids: Iterable[Grid] = ()) -> None:
    """Note the states in which the store was made, the digests of its files, and what these experiments ask for."""
    digests = digests_of(results, _files_of_store(results))
    asked = _known(results).get("asked", {}) | {grid.experiment.name: configuration_of(grid) for grid in grids}
    write_sealed(results / MARKER, {"states": dict(states), "store": digests, "asked": asked})


def asked_for(results: Path) -> dict[str, str]:
    """Experiment -> `configuration_of` it when it was collected last, of those of which that is known."""
    return dict(_known(results).get("asked", {}))


def digest_in_store(results: Path, name: str) -> str | None:
    """The SHA-256 with which a file of the store was collected; None where that is not known."""
    found = _known(results).get("store", {}).get(f"{name}.parquet")
    return found if isinstance(found, str) else None


def _known(results: Path) -> dict[str, Any]:
    try:
        known = read_sealed(results / MARKER, "it is made again")
    except (OSError, UserError):
        return {}
    return known if isinstance(known.get("store"), dict) else {}  # an older version had a list of times


def _cells(grid: Grid, paths: ResultPaths) -> Iterator[list[Any]]:
    """The stamps of each cell's folders."""
    for cell in grid.cells:
        folders = [paths.cell(cell)]
        if grid.evaluation is not None:
            folders.append(folders[0] / evaluation_id(grid.evaluation))
        if not cell.zero_shot:
            folders.append(paths.samples(cell))
        yield [_stamps(folder) for folder in folders]


def _stamps(folder: Path) -> list[list[Any]]:
    """[name, time of change in nanoseconds, size] of each file in a folder."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a temporary file of a job that is at work
                if entry.is_file():
                    found.append([entry.name, entry.stat().st_mtime_ns, entry.stat().st_size])
    return sorted(found)


def _files_of_store(results: Path) -> list[Path]:
    return [path for name in SCHEMAS if (path := results / f"{name}.parquet").is_file()]
