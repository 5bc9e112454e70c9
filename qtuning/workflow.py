"""What the rules of the workflow ask for: which configuration and which files a path stands for. No Snakemake here."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from qtuning.data.contamination import Check, checks
from qtuning.data.items import items_file
from qtuning.data.sources import locate
from qtuning.errors import UserError
from qtuning.experiment.grid import RESERVED, Grid, Library
from qtuning.experiment.layout import HELPERS, Layout
from qtuning.experiment.names import canonical, cell_id, cell_json, evaluation_id, evaluation_json, model_id, pair_id
from qtuning.experiment.schema import Cell, Evaluation, FileSource, HubSource, Pruning, Seeds, Training
from qtuning.experiment.yaml_files import nearest
from qtuning.files import canonical_json
from qtuning.gpus import visible
from qtuning.train.tracking import MODES
from qtuning.warm.client import VARIABLE

SETTINGS = ("results", "data_dir", "tracking", "accelerate", "threads", "checkpoint_seconds", "warm")


class Plan:
    """All experiments of a `configs` folder, indexed by the names that stand in paths.

    problems: the experiments that cannot be expanded, and why; only who asks for one of them is told.
    """

    def __init__(
        self,
        grids: Iterable[Grid],
        layout: Layout,
        data_dir: Path | None,
        problems: Mapping[str, str] | None = None,
    ) -> None:
        self.layout, self.data_dir = layout, data_dir
        self.grids = {grid.experiment.name: grid for grid in grids}
        self.problems = dict(problems or {})
        self.cells: dict[str, Cell] = {}
        self.evaluations: dict[str, Evaluation] = {}
        self.kept: set[str] = set()
        self.checks: dict[str, Check] = {}
        self._groups: dict[str, list[str]] = {}
        self._configurations: dict[str, str] = {}
        for name, grid in self.grids.items():
            if grid.evaluation is not None:
                identity = evaluation_id(grid.evaluation)
                self.evaluations[identity] = grid.evaluation
                self._configurations[identity] = evaluation_json(grid.evaluation)
            for cell in grid.cells:
                self._add(name, grid, cell)

    def _add(self, name: str, grid: Grid, cell: Cell) -> None:
        identity = cell_id(cell)
        self.cells[identity] = cell
        self._groups.setdefault(identity, []).append(name)
        self._configurations[identity] = cell_json(cell)
        self._configurations[model_id(cell.model)] = cell_json(Cell(model=cell.model))
        if cell.training is None:
            return
        self._configurations[pair_id(cell)] = _dump(_representative(cell))
        for helper in (getattr(cell.pruning, role) for role in HELPERS):
            if helper is not None:
                self._configurations[model_id(helper)] = cell_json(Cell(model=helper))
        if cell.training.tuning == "lora" or grid.experiment.keep_weights:
            self.kept.add(identity)

    def configuration(self, identity: str) -> str:
        """Canonical JSON of the cell, model, pair or evaluation of that name."""
        if identity not in self._configurations:
            raise UserError(
                f"{identity}: no experiment of configs/experiments has this cell (has a configuration changed?)"
            )
        return self._configurations[identity]

    def groups(self, cell: str) -> str:
        """`--group A --group B`: the experiments that a cell belongs to."""
        return " ".join(f"--group {name}" for name in self._groups[cell])

    def processes(self, cell: str) -> int:
        """Processes of a training."""
        training = self.cells[cell].training
        return 1 if training is None else training.processes

    def gpus(self, cell: str, evaluation: bool = False) -> int:
        """GPUs a job takes; 0 on a machine without any, so that jobs are limited by cores alone there."""
        return min(1 if evaluation else self.processes(cell), len(visible()))

    def temporary(self) -> str:
        """Regular expression of the cells whose full weights go after evaluation.

        Of their digits alone, since Snakemake reads it anew for every file of every job.
        """
        digits = sorted({identity.rpartition("-")[2] for identity in self.cells.keys() - self.kept})
        return f"[^/]+-(?:{'|'.join(digits)})" if digits else "(?!)"

    def lasting(self) -> str:
        """Regular expression of the cells whose weights stay: adapters, and experiments that ask for it."""
        return f"(?!{self.temporary()}(?:/|$))[^/]+"

    def model(self, cell: str) -> Path:
        """Marker of the cell's base model."""
        return self.layout.model(self.cells[cell]) / "model.json"

    def helpers(self, cell: str) -> list[Path]:
        """Markers of the other models that a cell needs: reference, proxy."""
        folders = (self.layout.helper(self.cells[cell], role) for role in HELPERS)
        return [folder / "model.json" for folder in folders if folder is not None]

    def samples(self, cell: str) -> Path:
        """Marker of the cell's tokenised train set."""
        return self.layout.samples(self.cells[cell]) / "report.json"

    def model_of_pair(self, pair: str) -> Path:
        """Marker of the base model whose tokenizer a pair uses."""
        return self.layout.model(Cell.model_validate_json(self.configuration(pair))) / "model.json"

    def sources_of_pair(self, pair: str) -> list[Path]:
        """The user's files that a train set is read from."""
        train_set = Cell.model_validate_json(self.configuration(pair)).train_set
        assert train_set is not None
        return self._train_set_files(train_set.source)

    def questions(self, evaluation: str) -> list[Path]:
        """The user's files that an evaluation reads."""
        config = self.evaluations[evaluation]
        return self._benchmark_files(config.source, config.benchmarks)

    def _train_set_files(self, source: FileSource | HubSource) -> list[Path]:
        """None for the hub, and none for the mini world, which changes only with the package."""
        if isinstance(source, HubSource) or source.kind == "mini-world":
            return []
        return [locate(source, data_dir=self.data_dir)]

    def _benchmark_files(self, source: str, benchmarks: Iterable[str]) -> list[Path]:
        if source != "data-dir" or self.data_dir is None:
            return []
        files = [items_file(self.data_dir, name) for name in benchmarks]
        for file in files:
            if not file.exists():
                raise UserError(f"{file}: no such file; data_dir must hold the benchmarks as docs/data.md says")
        return files

    def weights(self, cell: str) -> list[Path]:
        """What must be trained before a cell can be evaluated; nothing for zero-shot."""
        if self.cells[cell].zero_shot:
            return []
        folder = self.layout.cell(self.cells[cell])
        return [folder / "weights"]

    def digest(self, cell: str) -> list[Path]:
        """Digest of those weights: it stays the same when training is repeated, and so does the evaluation."""
        return [path.with_suffix(".sha256") for path in self.weights(cell)]

    @property
    def experiments(self) -> list[str]:
        """Names that can be asked for: valid experiments, and invalid ones, which then say what is wrong."""
        return [name for name in [*self.grids, *self.problems] if name not in RESERVED]

    def grid(self, experiment: str) -> Grid:
        """An experiment, expanded; UserError with all that is wrong with it."""
        if experiment in self.problems:
            raise UserError(self.problems[experiment])
        if experiment not in self.grids:
            raise UserError(f"experiment = {experiment!r}: unknown{nearest(experiment, self.experiments)}")
        return self.grids[experiment]

    def targets(self, experiment: str) -> list[Path]:
        """What an experiment is for: its table (with benchmarks), that of planted errors, the folder of its figures."""
        grid = self.grid(experiment)
        names = [] if grid.evaluation is None else [experiment]
        if grid.experiment.localisation:
            names.append(f"{experiment}.localisation")
        tables = [self.layout.root / "tables" / f"{name}.md" for name in names]
        return [*tables, self.layout.root / "figures" / experiment]

    def cells_of(self, experiment: str) -> list[Path]:
        """What the cells of an experiment leave behind for tables and figures."""
        grid = self.grid(experiment)
        if grid.evaluation is not None:
            files = [self.layout.evaluation(cell, grid.evaluation) / "scores.json" for cell in grid.cells]
        else:
            files = [self.layout.cell(cell) / "train.json" for cell in grid.cells]
        if grid.experiment.localisation:
            files += [self.layout.cell(cell) / "localisation.json" for cell in grid.cells if not cell.zero_shot]
        return files

    def overlaps(self, experiment: str) -> list[Path]:
        """Reports of the overlap of an experiment's train sets with its benchmarks."""
        found = checks([self.grid(experiment)]).values()
        for check in found:
            self.checks[check.name] = check
        return [check.path(self.layout.root) for check in found]

    def sources_of_check(self, name: str) -> list[Path]:
        """The user's files that an overlap is counted in."""
        check = self.checks[name]
        questions = self._benchmark_files(check.source, check.benchmarks)
        return list(dict.fromkeys([*self._train_set_files(check.train_set.source), *questions]))

    def check(self, targets: Iterable[str]) -> None:
        """UserError with all that is wrong with what was asked for: a misspelt name, a bad file, data that are missing.

        The rules' input functions would find the same, but one at a time, and Snakemake wraps what they raise.
        """
        problems: list[str] = []
        for target in targets:
            experiment = self._asked(target)
            try:
                if experiment is not None:
                    problems += self._missing(experiment)
                elif "/" not in target and not Path(target).suffix and target not in RESERVED:
                    raise UserError(f"target = {target!r}: unknown{nearest(target, ['all', *self.experiments])}")
            except UserError as error:
                problems += str(error).splitlines()
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))

    def _asked(self, target: str) -> str | None:
        """The experiment that a target is, or whose table or figures it is."""
        path, names = Path(target), self.experiments
        if path.parent == self.layout.root / "tables":
            return max((name for name in names if path.name.startswith(f"{name}.")), key=len, default=None)
        name = path.name if path.parent == self.layout.root / "figures" else target
        return name if name in names else None

    def _missing(self, experiment: str) -> list[str]:
        """What is wrong with the local files that an experiment is made from, each told once."""
        grid = self.grid(experiment)
        pairs = dict.fromkeys(pair_id(cell) for cell in grid.cells if cell.training is not None)
        asked: list[tuple[Callable[[str], list[Path]], str]] = [(self.sources_of_pair, pair) for pair in pairs]
        if grid.evaluation is not None:
            self.overlaps(experiment)
            asked.append((self.questions, evaluation_id(grid.evaluation)))
            asked += [(self.sources_of_check, name) for name in checks([grid])]
        problems: list[str] = []
        for sources, name in asked:
            try:
                sources(name)
            except UserError as error:
                problems += str(error).splitlines()
        return problems

    def scores(self, experiment: str) -> list[Path]:
        """What a table is made of; UserError for an experiment without one."""
        if self.grid(experiment).evaluation is None:
            raise UserError(f"experiment = {experiment!r}: has no `evaluation`, and therefore no table")
        return self.cells_of(experiment) + self.overlaps(experiment)


def _dump(cell: Cell) -> str:
    return canonical_json(cell.model_dump(mode="json", by_alias=True))


def _representative(cell: Cell) -> Cell:
    """The same cell for every cell that shares a tokenised train set, so that the shared work has one configuration."""
    assert cell.training is not None
    pruning = Pruning(sample_pruner="full", token_pruner="none", sample_ratio=1, token_ratio=1)
    training = Training(cutoff=cell.training.cutoff)
    shared = canonical(
        cell.model_copy(update={"pruning": pruning, "training": training, "seeds": Seeds(data=0, pruner=0, init=0)})
    )
    # what preparation, and only preparation, asks for
    return shared.model_copy(update={"train_set": cell.train_set, "semantics": 1})


def load(config: Mapping[str, Any], configs: Path = Path("configs")) -> Plan:
    """Read every experiment below `configs`; UserError for unknown settings.

    An experiment that cannot be expanded stands in nobody's way: the plan knows why (`problems`).

    Puts this interpreter's folder first on PATH: jobs find `qtuning` even where its environment is not activated.
    Without GPUs, where a start-up can take as long as a cell, jobs share one (warm/).
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for key in config:
        if key not in SETTINGS:
            raise UserError(f"--config {key}: unknown setting{nearest(key, SETTINGS)}")
    if not isinstance(config["threads"], int) or config["threads"] < 1:
        raise UserError(f"threads = {config['threads']!r}: must be a whole number above 0")
    if not isinstance(config["checkpoint_seconds"], int | float) or config["checkpoint_seconds"] < 0:
        raise UserError(f"checkpoint_seconds = {config['checkpoint_seconds']!r}: must be a number of seconds")
    launchers = sorted(path.stem for path in (configs / "accelerate").glob("*.yaml"))
    for key, valid in (("tracking", MODES), ("accelerate", launchers)):
        if config[key] not in valid:
            raise UserError(f"{key} = {config[key]!r}: unknown{nearest(str(config[key]), valid)}")
    if not isinstance(config["warm"], bool):
        raise UserError(f"warm = {config['warm']!r}: must be true or false")
    if config["warm"] and not visible():
        os.environ[VARIABLE] = str(os.getpid())
    data_dir = None if config["data_dir"] is None else Path(config["data_dir"]).resolve()
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"data_dir = {config['data_dir']!r}: no such folder")
    library = Library(configs, data_dir)
    grids, problems = library.attempt(library.names("experiments"))
    return Plan(grids, Layout(Path(config["results"])), data_dir, problems)
