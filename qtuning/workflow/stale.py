"""Which finished work is of other data than there is now, by digests; and which jobs have yet to read weights.

Snakemake goes by times, which `touch`, `cp -r` and clocks that differ change. So a stale output has one more input, a
file that is made in this moment; and what an output was made from, to the byte, is dated back, lest it look newer. Jobs
that are started in vain, since a workflow was killed or another one was faster, find the same digests themselves.
"""

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from qtuning.data.contamination import is_of_present_files
from qtuning.data.present import is_of_present_data
from qtuning.errors import UserError
from qtuning.evaluation import inputs as evaluated
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import AUXILIARY, cell_id, evaluation_id, pair_id
from qtuning.experiment.influence import measurement_of
from qtuning.experiment.references import references_of
from qtuning.files import file_digest, read_json
from qtuning.store.fresh import asked_for
from qtuning.train import wanted
from qtuning.train.inputs import read_inputs, read_measured_inputs
from qtuning.workflow.inputs import WorkflowInputs

LONG_AGO = 946_684_800.0  # 2000-01-01


class Stale:
    """What is stale, by the names in the rules: [] if it is not, else [a file that is newer than it].

    What is not there, or cannot be read, is not stale: the jobs see to it. What is made from stale things is stale.
    """

    def __init__(self, inputs: WorkflowInputs) -> None:
        self._inputs, self._paths, self._data_dir = inputs, inputs.paths, inputs.data_dir
        # files may be large, and many cells share them: each is read once
        self._digest: Callable[[Path], str] = cache(file_digest)
        self._data_changed = cache(self._compare_data)
        self._training_changed = cache(self._compare_training)
        self._influence_changed = cache(self._compare_influence)
        self._shown_changed = cache(self._compare_shown)

    def train_set(self, pair: str) -> list[Path]:
        """Of a prepared train set."""
        made = (self._paths.root / "train_sets" / pair / "report.json").is_file()
        return self._told(pair, self._data_changed(pair), made, [self._inputs.model(pair)], [pair])

    def training(self, cell: str, marker: str = "train.json") -> list[Path]:
        """Of a trained cell, or of one whose time and memory was measured (`marker` measured.json)."""
        inputs = [self._inputs.model(cell), self._inputs.samples(cell)]
        inputs += [*self._inputs.auxiliary_models(cell), *self._inputs.influence(cell)]
        told = _tells(self._paths.root / "cells" / cell / marker)
        return self._told(f"{cell}-{marker}", self._training_changed(cell, marker), told, inputs, [cell])

    def scores(self, cell: str, evaluation: str) -> list[Path]:
        """Of an evaluated cell."""
        inputs = [self._inputs.model(cell), *self._inputs.digest(cell)]
        told = _tells(self._paths.root / "cells" / cell / evaluation / "scores.json")
        stale = self._scores_changed(cell, evaluation)
        return self._told(f"{cell}-{evaluation}", stale, told, inputs, [cell, evaluation])

    def replies(self, cell: str, evaluation: str) -> list[Path]:
        """Of the file that says that a cell was asked: without scores and without replies, it is to be asked again."""
        places = self._inputs.cells[cell], self._inputs.evaluations[evaluation]
        asked, scores = self._paths.asked(*places), self._paths.evaluation(*places) / "scores.json"
        # in this order: replies go when there are scores
        if asked.is_file() and not scores.is_file() and not self._paths.replies(*places).is_file():
            return self._mark(f"{cell}-{evaluation}-replies")
        return self.scores(cell, evaluation)

    def localisation(self, cell: str) -> list[Path]:
        """Of a cell whose planted errors were looked for."""
        inputs = [self._inputs.model(cell), self._inputs.samples(cell), *self._inputs.digest(cell)]
        told = _tells(self._paths.root / "cells" / cell / "localisation.json")
        return self._told(f"{cell}-localisation", self._localisation_changed(cell), told, inputs, [cell])

    def influence(self, measurement: str) -> list[Path]:
        """Of a measurement of influence."""
        warmup = self._inputs.warmup(measurement)
        inputs = [self._inputs.model(warmup), self._inputs.samples(warmup), *self._inputs.digest(warmup)]
        told = _tells(self._paths.influence(measurement) / "influence.json")
        return self._told(measurement, self._influence_changed(measurement), told, inputs, [measurement])

    def overlap(self, name: str) -> list[Path]:
        """Of the report of an overlap."""
        check = self._inputs.checks[name]
        report = _read(check.path(self._paths.root))
        same = report is None or _sure(lambda: is_of_present_files(report, check, self._data_dir))
        return self._told(name, not same, False, [], [])

    def shown(self, experiment: str) -> list[Path]:
        """Of tables and figures: what they are made from is missing, or the experiment asked for other things then.

        Snakemake makes no missing input for an output that is there, and forgets why it made that with `.snakemake`.
        """
        return self._mark(f"{experiment}-shown") if self._shown_changed(experiment) else []

    def _compare_shown(self, experiment: str) -> bool:
        inputs = self._inputs
        asked = self._asked_for.get(experiment, inputs.configured(experiment))  # earlier versions do not say
        return asked != inputs.configured(experiment) or not all(map(Path.exists, inputs.shown_by(experiment)))

    @cached_property
    def _asked_for(self) -> dict[str, str]:
        return asked_for(self._paths.root)

    def _told(self, name: str, stale: bool, known: bool, inputs: list[Path], configurations: list[str]) -> list[Path]:
        """The answer on an output. known: whether its marker tells what it was made from. If so, and it is not stale,
        its inputs and the configurations of these names are dated back, and those that models were made from."""
        if stale:
            return self._mark(name)
        models = [path.parent.name for path in inputs if path.name == "model.json"]
        made_from = [*inputs, *map(self._paths.configuration, [*configurations, *models])]
        for path in made_from if known else ():
            with contextlib.suppress(OSError):  # not there, or not ours: then its time counts
                if path.stat().st_mtime > LONG_AGO:
                    os.utime(path, (LONG_AGO, LONG_AGO))
        return []

    @cached_property
    def _folder(self) -> Path:
        """Of the files that are newer; this process removes it, unless it is of the workflow that started it."""
        name = os.environ.get(wanted.VARIABLE)
        folder = Path(tempfile.mkdtemp()) if name is None else self._paths.root / "state" / "stale" / name
        if not folder.exists() or name is None:
            folder.mkdir(parents=True, exist_ok=True)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _mark(self, name: str) -> list[Path]:
        mark = self._folder / name
        if not mark.exists():  # another process of this workflow may have made it, on another node
            mark.touch()
        return [mark]

    def wanted(self, experiments: Iterable[str | None]) -> dict[str, list[str]]:
        """Cell -> the files in which those jobs end that have yet to read its weights; of cells whose weights go."""
        asked, cells = self._of(experiments)
        found: dict[str, list[str]] = {name: [] for name in cells if self._inputs.goes(name)}
        for grid in asked:
            for cell in grid.cells:
                if (name := cell_id(cell)) not in found:
                    continue
                if (evaluation := grid.evaluation) is not None:
                    marker = self._paths.evaluation(cell, evaluation) / "scores.json"
                    if self._to_do(name, marker) or self._scores_changed(name, evaluation_id(evaluation)):
                        found[name].append(self._below(marker))
                marker = self._paths.cell(cell) / "localisation.json"
                if grid.experiment.localisation and (self._to_do(name, marker) or self._localisation_changed(name)):
                    found[name].append(self._below(marker))
        measured = {cell_id(cell) for grid in asked if grid.experiment.measure for cell in grid.cells}
        for name in cells:
            for reference in map(cell_id, references_of(self._inputs.cells[name])):
                for file in ("train.json", *["measured.json"] * (name in measured)):
                    marker = self._paths.root / "cells" / name / file
                    if reference in found and (self._to_do(name, marker) or self._to_do(reference, marker)):
                        found[reference].append(self._below(marker))
        return {name: jobs for name, jobs in found.items() if jobs}

    def going(self, experiments: Iterable[str | None]) -> list[str]:
        """The cells of these experiments whose weights go after the last job that reads them."""
        return [name for name in self._of(experiments)[1] if self._inputs.goes(name)]

    def _of(self, experiments: Iterable[str | None]) -> tuple[list[Grid], list[str]]:
        names = set(experiments)
        grids = [grid for name, grid in self._inputs.grids.items() if name in names]
        return grids, [name for name, used in self._inputs.experiments_of.items() if names.intersection(used)]

    def _to_do(self, cell: str, marker: Path) -> bool:
        """Whether a job is to be done that is made from a cell: its marker is missing, or the cell is trained anew."""
        trained = (self._paths.root / "cells" / cell / "train.json").is_file()
        return not (marker.is_file() and trained) or self._training_changed(cell)

    def _below(self, path: Path) -> str:
        return path.relative_to(self._paths.root).as_posix()

    def _compare_data(self, pair: str) -> bool:
        cell, report = self._inputs.cell(pair), _read(self._paths.root / "train_sets" / pair / "report.json")
        return report is not None and not _sure(lambda: is_of_present_data(report, cell, self._data_dir))

    def _compare_training(self, name: str, marker: str = "train.json") -> bool:
        cell, paths = self._inputs.cells[name], self._paths
        references, measurement = references_of(cell), measurement_of(cell)
        if (
            self._data_changed(pair_id(cell))
            or any(self._training_changed(cell_id(reference)) for reference in references)
            or (measurement is not None and self._influence_changed(measurement.identity))
        ):
            return True
        auxiliary = {role: folder for role in AUXILIARY if (folder := paths.auxiliary(cell, role)) is not None}
        folders = [paths.cell(reference) for reference in references]
        influence = None if measurement is None else paths.influence(measurement.identity)
        return _differs(
            paths.cell(cell) / marker,
            lambda: read_inputs(paths.model(cell), paths.samples(cell), auxiliary, folders, influence),
        )

    def _compare_influence(self, measurement: str) -> bool:
        asked, marker = self._inputs.measurements[measurement], self._paths.influence(measurement) / "influence.json"
        return self._training_changed(cell_id(asked.warmup)) or _differs(
            marker, lambda: read_measured_inputs(asked, self._paths, self._data_dir)
        )

    def _scores_changed(self, name: str, evaluation: str) -> bool:
        cell, asked = self._inputs.cells[name], self._inputs.evaluations[evaluation]
        # who deletes a damaged marker, as its reader asks, wants the cell trained anew; Snakemake would ask for nothing
        trained = cell.zero_shot or (self._paths.cell(cell) / "train.json").is_file()
        return (
            not trained
            or (not cell.zero_shot and self._training_changed(name))
            or _differs(
                self._paths.evaluation(cell, asked) / "scores.json",
                lambda: evaluated.read_inputs(cell, asked, self._paths, self._data_dir, self._digest),
            )
        )

    def _localisation_changed(self, name: str) -> bool:
        folder = self._paths.root / "cells" / name
        return self._training_changed(name) or _differs(
            folder / "localisation.json", lambda: {"weights": file_digest(folder / "weights.sha256")}
        )


def want_weights(inputs: WorkflowInputs, targets: Iterable[str], grouped: Callable[[str], object] | None) -> None:
    """Keep the weights that jobs of this workflow have yet to read, until the last of them has (train/wanted.py).

    grouped: whether the jobs of a cell are one job of a cluster; None: no jobs are submitted.
    """
    names = [inputs.experiment_of(target) for target in targets]
    going = Stale(inputs).going(names)
    together = [cell for cell in going if grouped is not None and grouped(cell)]
    wanted.want_weights(inputs.paths.root, lambda: Stale(inputs).wanted(names), going, together)


def _differs(marker: Path, present: Callable[[], dict[str, Any]]) -> bool:
    """Whether a marker tells of other inputs than the present ones. Results of earlier versions may not tell."""
    told = (_read(marker) or {}).get("inputs")
    return told is not None and not _sure(lambda: bool(told == present()))


def _tells(marker: Path) -> bool:
    return "inputs" in (_read(marker) or {})


def _read(marker: Path) -> dict[str, Any] | None:
    """What a marker says; None if it is not there, or no JSON object."""
    try:
        found = read_json(marker)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _sure(same: Callable[[], bool]) -> bool:
    """`same`, or True where that cannot be told because something is missing."""
    try:
        return same()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return True
