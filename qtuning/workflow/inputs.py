"""What the rules of the workflow need: the files and the configuration that a name in a path stands for.

The Snakefile calls `load_inputs` once. The rules ask the `WorkflowInputs` that it returns, by the names of cells, pairs
(a model and its tokenised train set) and experiments.
"""

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from qtuning.data.contamination import OverlapCheck, checks_of
from qtuning.data.items import local_files
from qtuning.data.sources import locate
from qtuning.data.targets import train_file
from qtuning.errors import UserError, raise_problems
from qtuning.experiment.auxiliary import TrainedReference
from qtuning.experiment.cell import Cell, Evaluation, FileSource, HubSource, Model, Pruning, Seeds, Training, TrainSet
from qtuning.experiment.grid import ConfigFolder, Grid
from qtuning.experiment.ids import (
    AUXILIARY,
    ResultPaths,
    canonical,
    cell_id,
    cell_json,
    evaluation_id,
    evaluation_json,
    model_id,
    pair_id,
    used_train_set,
)
from qtuning.experiment.influence import Measurement, measurement_of
from qtuning.experiment.metrics import EDITIONS
from qtuning.experiment.references import references_of, with_references
from qtuning.experiment.yaml_files import nearest
from qtuning.files import canonical_json, short_hash
from qtuning.gpus import visible
from qtuning.store.fresh import configuration_of
from qtuning.train.launch import Launch
from qtuning.warm import client, owner
from qtuning.workflow.settings import check_settings

# variables that mean nothing on another machine: which devices are for us, whose end is the end of jobs
OF_THIS_MACHINE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
                   owner.VARIABLE)  # fmt: skip
# Every experiment is a rule of its own name, so none may be called like one of these rules.
RULES = frozenset({
    *("all", "configure", "prefetch", "base_model", "prepare", "train", "train_and_observe"),
    *("measure", "influence", "evaluate", "ask", "mark", "localise", "token_kinds", "contamination", "tables"),
    *("tables_beside_the_paper", "localisation_table", "tokens_table", "efficiency_table", "kinds_table", "instrument"),
    *("figures", "likelihood_tables"),
})  # fmt: skip


class WorkflowInputs:
    """All experiments of a `configs` folder, and what the jobs of each are made from.

    problems: what is wrong with experiments that cannot be expanded, by name. A user who asks for one of them is told;
    all others can still be run. launch: of every training.
    """

    def __init__(
        self,
        grids: Iterable[Grid],
        paths: ResultPaths,
        data_dir: Path | None,
        problems: Mapping[str, str] | None = None,
        launch: Launch | None = None,
    ) -> None:
        self.paths, self.data_dir, self.launch = paths, data_dir, launch or Launch()
        self.grids = {grid.experiment.name: grid for grid in grids}
        self.problems = dict(problems or {})
        self.checks = checks_of(self.grids.values())
        self.cells: dict[str, Cell] = {}
        self.measurements: dict[str, Measurement] = {}
        self.evaluations: dict[str, Evaluation] = {}
        self._shared: dict[str, Cell] = {}  # models and pairs: the cell that stands for all that share them
        self._kept: set[str] = set()
        self._observed: set[str] = set()
        self._configured: dict[str, str] = {}
        self.experiments_of: dict[str, list[str]] = {}
        self.asked: set[str] = set()  # experiments, once targets are checked
        for name, grid in self.grids.items():
            if grid.evaluation is not None:
                self.evaluations[evaluation_id(grid.evaluation)] = grid.evaluation
            for cell in grid.cells:
                self._add(name, cell, grid.experiment.keep_weights)
                if grid.experiment.observe and not cell.zero_shot:
                    self._observed.add(cell_id(cell))
                for reference in with_references(references_of(cell)):
                    self._add(name, reference, grid.experiment.keep_weights)
                if (measurement := measurement_of(cell)) is not None:
                    self.measurements[measurement.identity] = measurement
                    self._add(name, measurement.warmup, grid.experiment.keep_weights)

    def _add(self, experiment: str, cell: Cell, keep_weights: bool) -> None:
        identity = cell_id(cell)
        self.cells[identity] = cell
        groups = self.experiments_of.setdefault(identity, [])
        if experiment not in groups:
            groups.append(experiment)
        self._add_model(cell.model)
        if cell.training is None:
            return
        if (pair := pair_id(cell)) not in self._shared:
            self._shared[pair] = _representative(cell)
        for role in AUXILIARY:
            self._add_model(getattr(cell.pruning, role))
        if cell.training.tuning == "lora" or keep_weights:
            self._kept.add(identity)

    def _add_model(self, model: Model | TrainedReference | None) -> None:
        if isinstance(model, Model) and (identity := model_id(model)) not in self._shared:
            self._shared[identity] = canonical(Cell(model=model))

    def configuration(self, identity: str) -> str:
        """Canonical JSON of the cell, model, pair, evaluation or measurement of that name."""
        if identity in self.measurements:
            return canonical_json(self.measurements[identity].model_dump(mode="json", by_alias=True))
        if identity in self.evaluations:
            return evaluation_json(self.evaluations[identity])
        if identity in self.cells:
            return cell_json(self.cells[identity])
        return canonical_json(self.cell(identity).model_dump(mode="json", by_alias=True))

    def cell(self, identity: str) -> Cell:
        """The cell of that name, or the one that stands for a pair or a model of that name."""
        if identity in self.cells:
            return self.cells[identity]
        if identity not in self._shared:
            raise UserError(
                f"{identity}: no experiment of configs/experiments has this cell (has a configuration changed?)"
            )
        return self._shared[identity]

    def evaluations_by(self, backend: str) -> str:
        """Regular expression of the evaluations that a backend computes."""
        return "|".join(sorted(name for name, asked in self.evaluations.items() if asked.backend == backend)) or "(?!)"

    def group_options(self, cell: str) -> str:
        """`--group A --group B`: the experiments that a cell belongs to."""
        return " ".join(f"--group {name}" for name in self.experiments_of[cell])

    def goes(self, cell: str) -> bool:
        """Whether the weights of a cell go after the last job that reads them (train/wanted.py)."""
        return self.cells[cell].training is not None and cell not in self._kept | self._observed

    def plain_cells(self) -> str:
        """Regular expression of the cells that are trained without being observed."""
        return f"(?!{self.observed_cells()}(?:/|$))[^/]+"

    def observed_cells(self) -> str:
        """Regular expression of the cells that are observed while they train. Their weights stay, too."""
        return _by_digits(self._observed)

    def observe_option(self, cell: str) -> str:
        """`--observe` for those cells, else nothing."""
        return "--observe" if cell in self._observed else ""

    def model(self, identity: str) -> Path:
        """Marker of the base model of a cell, or of the model whose tokenizer a pair uses."""
        return self.paths.model(self.cell(identity)) / "model.json"

    def auxiliary_models(self, cell: str) -> list[Path]:
        """What says whether the other models that a cell needs have changed.

        Markers of a reference and a proxy of configs/models, digests of references that the workflow trains.
        """
        folders = (self.paths.auxiliary(self.cells[cell], role) for role in AUXILIARY)
        trained = [self.paths.cell(reference) / "weights.sha256" for reference in references_of(self.cells[cell])]
        return [folder / "model.json" for folder in folders if folder is not None] + trained

    def references(self, cell: str) -> list[Path]:
        """What a cell reads of cells that are trained before it: weights of references, or the trace that it replays.

        Full weights go when all users are trained.
        """
        pruning, needed = self.cells[cell].pruning, references_of(self.cells[cell])
        if pruning is not None and pruning.replay is not None:
            return [self.paths.cell(reference) / "trace.parquet" for reference in needed]
        return [path for reference in needed for path in self.weights(cell_id(reference))]

    @property
    def rows(self) -> list[str]:
        """Names of the cells that experiments ask for: all but references and warm-ups."""
        return [name for name, cell in self.cells.items() if cell.part is None]

    def samples(self, cell: str) -> Path:
        """Marker of the cell's tokenised train set."""
        return self.paths.samples(self.cells[cell]) / "report.json"

    def influence(self, cell: str) -> list[Path]:
        """What the cell's method needs to know of the influence of its samples, if anything."""
        measurement = measurement_of(self.cells[cell])
        return [] if measurement is None else [self.paths.influence(measurement.identity) / "influence.json"]

    def warmup(self, measurement: str) -> str:
        """Name of the cell whose epochs give the checkpoints of a measurement."""
        return cell_id(self.measurements[measurement].warmup)

    def sources_of_measurement(self, measurement: str) -> list[Path]:
        """The user's files that target examples are read from."""
        asked = self.measurements[measurement].influence
        local = self.data_dir if asked.source == "data-dir" else None
        return [] if local is None else [train_file(local, name) for name in asked.targets]

    def weights(self, cell: str) -> list[Path]:
        """What says that the weights are there that an evaluation of the cell loads; none for zero-shot."""
        folder = self.paths.cell(self.cells[cell])
        return [] if self.cells[cell].zero_shot else [folder / "weights/generation_config.json"]

    def digest(self, cell: str) -> list[Path]:
        """Digest of those weights, which stays the same when training is repeated, and then so do the scores; and the
        marker of the training, which may have been deleted so that the cell is trained anew."""
        folder = self.paths.cell(self.cells[cell])
        return [] if self.cells[cell].zero_shot else [folder / "weights.sha256", folder / "train.json"]

    def sources_of_pair(self, pair: str) -> list[Path]:
        """The user's files that a train set is read from."""
        train_set = self.cell(pair).train_set
        assert train_set is not None
        # ratings that are not there are told by `prepare`, so that a plan can be made before they are
        ratings = [] if self._missing_ratings(train_set) else self._train_set_files(train_set.ratings)
        return [*self._train_set_files(train_set.source), *ratings]

    def _missing_ratings(self, train_set: TrainSet) -> list[str]:
        """What is wrong with the file of ratings that a train set names."""
        try:
            self._train_set_files(train_set.ratings)
        except UserError as error:
            shared = train_set.ratings is not None and train_set.ratings.kind == "data-dir"
            own = ", or name a file of yours in its YAML: `ratings: FILE`" if shared else ""
            return [f"train set {train_set.name}: ratings: {line}{own}" for line in str(error).splitlines()]
        return []

    def sources_of_evaluation(self, evaluation: str) -> list[Path]:
        """The user's files that an evaluation reads."""
        return self._benchmark_files(self.evaluations[evaluation])

    def sources_of_check(self, name: str) -> list[Path]:
        """The user's files that an overlap is counted in."""
        check = self.checks[name]
        return list(dict.fromkeys([*self._train_set_files(check.train_set.source), *self._benchmark_files(check)]))

    def _train_set_files(self, source: HubSource | FileSource | None) -> list[Path]:
        # the mini world changes only with the package
        if source is None or isinstance(source, HubSource) or source.kind == "mini-world":
            return []
        return locate(source, data_dir=self.data_dir)

    def _benchmark_files(self, asked: Evaluation | OverlapCheck) -> list[Path]:
        folder = self.data_dir if asked.source == "data-dir" else None
        files = [*local_files(folder, asked.benchmarks, asked.protocol).values()]
        for file in files:
            if not file.exists():
                raise UserError(f"{file}: no such file; data_dir must hold the benchmarks as docs/data.md says")
        return files

    @property
    def experiments(self) -> list[str]:
        """Names that can be asked for: valid experiments, and invalid ones, which then say what is wrong."""
        return [name for name in [*self.grids, *self.problems] if name not in RULES]

    def grid(self, experiment: str) -> Grid:
        """An experiment, expanded; UserError with all that is wrong with it."""
        if experiment in self.problems:
            raise UserError(self.problems[experiment])
        if experiment not in self.grids:
            raise UserError(f"experiment = {experiment!r}: unknown{nearest(experiment, self.experiments)}")
        return self.grids[experiment]

    def targets(self, experiment: str) -> list[Path]:
        """What an experiment makes: its tables, and the folder of figures unless it only measures time and memory."""
        grid = self.grid(experiment)
        asked = grid.experiment
        names = [] if grid.evaluation is None else [experiment]
        several = grid.evaluation is not None and len(asked.seeds) > 1
        switches = {"localisation": asked.localisation, "tokens": asked.observe, "efficiency": asked.measure}
        switches |= {"instrument": several, "kinds": _knows_kinds(grid)}
        switches |= dict.fromkeys(EDITIONS, grid.evaluation is not None and grid.evaluation.likelihoods)
        names += [f"{experiment}.{name}" for name, wanted in switches.items() if wanted]
        tables = [self.paths.root / "tables" / f"{name}.md" for name in names]
        return tables if grid.measures_only else [*tables, self.paths.root / "figures" / experiment]

    def cells_of(self, experiment: str) -> list[Path]:
        """What the cells of an experiment leave behind for tables and figures."""
        grid = self.grid(experiment)
        if grid.evaluation is not None:
            files = [self.paths.evaluation(cell, grid.evaluation) / "scores.json" for cell in grid.cells]
        else:
            files = [] if grid.measures_only else [self.paths.cell(cell) / "train.json" for cell in grid.cells]
        asked = grid.experiment
        names = ["localisation.json"] * asked.localisation + ["measured.json"] * asked.measure
        names += ["watch.jsonl", "token_kinds.json"] * asked.observe
        return files + [self.paths.cell(cell) / name for name in names for cell in grid.cells if not cell.zero_shot]

    def scores(self, experiment: str) -> list[Path]:
        """What a table of scores is made from; UserError for an experiment without one."""
        if self.grid(experiment).evaluation is None:
            raise UserError(f"experiment = {experiment!r}: has no `evaluation`, and therefore no table")
        return self.cells_of(experiment) + self.overlaps(experiment)

    def made_of(self, experiment: str) -> str:
        """A name for what tables and figures are made from and show: other cells, or other labels, make others."""
        files = sorted(map(str, self.shown_by(experiment)))
        return short_hash([files, self.configured(experiment)])

    def shown_by(self, experiment: str) -> list[Path]:
        """The files that tables and figures of an experiment are made from."""
        return self.cells_of(experiment) + self.overlaps(experiment)

    def configured(self, experiment: str) -> str:
        """Digest of all that an experiment asks for."""
        if experiment not in self._configured:
            self._configured[experiment] = configuration_of(self.grid(experiment))
        return self._configured[experiment]

    def overlaps(self, experiment: str) -> list[Path]:
        """Reports of the overlap of an experiment's train sets with its benchmarks."""
        return [check.path(self.paths.root) for check in checks_of([self.grid(experiment)]).values()]

    def check_targets(self, targets: Iterable[str], dry: bool = False) -> None:
        """UserError with all that is wrong with the targets: misspelt names, bad files, missing data.

        dry: the run is only planned, for which nobody needs ratings yet.
        The rules' input functions find the same, but one problem at a time, and Snakemake wraps what they raise.
        """
        problems: list[str] = []
        for target in targets:
            experiment = self.experiment_of(target)
            try:
                if experiment is not None:
                    self.asked |= {experiment} & self.grids.keys()
                    problems += self._missing_files(experiment) + self._unlaunchable(experiment)
                    rated = [] if dry else [used_train_set(c) for c in self.grid(experiment).cells if c.training]
                    problems += [line for train_set in rated for line in self._missing_ratings(train_set)]
                elif target.endswith((".yaml", ".yml")):
                    raise UserError(f"target = {target!r}: name the experiment, not its file: {Path(target).stem}")
                elif "/" not in target and not Path(target).suffix and target not in RULES:
                    raise UserError(f"target = {target!r}: unknown{nearest(target, ['all', *self.experiments])}")
            except UserError as error:
                problems += str(error).splitlines()
        raise_problems(list(dict.fromkeys(problems)))

    def experiment_of(self, target: str) -> str | None:
        """The experiment that a target is, or whose table or figures it is."""
        path, names = Path(target), [*self.grids, *self.problems]
        if path.parent == self.paths.root / "tables":
            return max((name for name in names if path.name.startswith(f"{name}.")), key=len, default=None)
        name = path.name if path.parent == self.paths.root / "figures" else target
        return name if name in names else None

    def _unlaunchable(self, experiment: str) -> list[str]:
        """Why trainings of an experiment cannot be shared by these processes."""
        problems = []
        for cell in self.grid(experiment).cells:
            try:
                if cell.training is not None:
                    cell.training.accumulation(self.launch.processes)
                    self.launch.shards(cell)
            except UserError as error:
                problems.append(f"{experiment}: {error}")
        return list(dict.fromkeys(problems))

    def _missing_files(self, experiment: str) -> list[str]:
        """What is wrong with the local files that an experiment is made from."""
        grid = self.grid(experiment)
        asked: dict[str, Callable[[str], list[Path]]]
        asked = {pair_id(cell): self.sources_of_pair for cell in grid.cells if cell.training is not None}
        found = (measurement_of(cell) for cell in grid.cells)
        asked |= {each.identity: self.sources_of_measurement for each in found if each is not None}
        if grid.evaluation is not None:
            asked[evaluation_id(grid.evaluation)] = self.sources_of_evaluation
            asked |= dict.fromkeys(checks_of([grid]), self.sources_of_check)
        problems: list[str] = []
        for name, sources in asked.items():
            try:
                sources(name)
            except UserError as error:
                problems += str(error).splitlines()
        return problems


def _knows_kinds(grid: Grid) -> bool:
    """Whether training records what becomes of samples whose kinds a train set says."""
    sets = [cell.train_set for cell in grid.cells if cell.train_set is not None]
    return not grid.measures_only and any("kind" in each.columns or each.planted is not None for each in sets)


def _by_digits(cells: Collection[str]) -> str:
    """Regular expression of some cells.

    It lists the digits of their names alone, to be short: Snakemake compiles it for every file of every job.
    """
    digits = sorted({identity.rpartition("-")[2] for identity in cells})
    return f"[^/]+-(?:{'|'.join(digits)})" if digits else "(?!)"


def _representative(cell: Cell) -> Cell:
    """The same cell for every cell that shares a tokenised train set, so that preparing it has one configuration."""
    assert cell.training is not None and cell.train_set is not None
    rated = used_train_set(cell).rated  # ratings are prepared for methods that need them
    method = (
        {"sample_pruner": "alpagasus", "sample_ratio": 0.5} if rated else {"sample_pruner": "full", "sample_ratio": 1}
    )
    pruning = Pruning(**method, token_pruner="none", token_ratio=1)
    training = Training(cutoff=cell.training.cutoff)
    seeds = Seeds(data=0, pruner=0, init=0)
    shared = canonical(cell.model_copy(update={"pruning": pruning, "training": training, "seeds": seeds}))
    # `canonical` drops what preparation, and only preparation, reads of a train set; its label nobody reads
    train_set = used_train_set(cell).model_copy(update={"label": cell.train_set.name})
    return shared.model_copy(update={"train_set": train_set, "semantics": 1})


def load_inputs(config: Mapping[str, Any], configs: Path = Path("configs"), *, submits: bool = False) -> WorkflowInputs:
    """Check the settings (configs/config.yaml) and expand every experiment below `configs`; UserError for settings.

    Puts this interpreter's folder first on PATH, so that jobs find `qtuning` even if its environment is not active.
    Without GPUs, where starting a process can take as long as a cell, jobs share one start (qtuning/warm). submits:
    jobs run on other machines. They inherit this environment, so what it says of this machine is taken out of it.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    check_settings(config)
    os.environ.pop(client.VARIABLE, None)
    owner.own_jobs()
    if submits:
        for name in OF_THIS_MACHINE:
            os.environ.pop(name, None)
    elif config["warm"] and not visible():
        os.environ[client.VARIABLE] = str(os.getpid())
    data_dir = None if config["data_dir"] is None else Path(config["data_dir"]).resolve()
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"data_dir = {config['data_dir']!r}: no such folder")
    folder = ConfigFolder(configs, data_dir)
    names = folder.names("experiments")
    grids, problems = folder.expand_valid(name for name in names if name not in RULES)
    for name in RULES.intersection(names):
        problems[name] = f"{folder.files.path(name)}: name = {name!r}: is the name of a rule; rename the file"
    launch = Launch(config["processes"], parallel=config["parallel"], recompute=config["recompute"])
    return WorkflowInputs(grids, ResultPaths(Path(config["results"])), data_dir, problems, launch)
