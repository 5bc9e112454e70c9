"""Experiments (YAML) -> cells and evaluations. All errors of all files are reported at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from qtuning.errors import UserError
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.methods import pruning
from qtuning.experiment.names import cell_json
from qtuning.experiment.repeats import repeats
from qtuning.experiment.scales import Edition, Files, check, merge
from qtuning.experiment.schema import (
    Cell,
    Evaluation,
    Experiment,
    FileSource,
    Method,
    MethodEntry,
    Model,
    Pruning,
    Ratios,
    Training,
    TrainSet,
)
from qtuning.experiment.yaml_files import explain, nearest

Entry = TypeVar("Entry", Model, TrainSet)
Section = Literal["models", "train_sets", "experiments"]

METHOD: TypeAdapter[MethodEntry] = TypeAdapter(Method)
AXES = ("models", "train_sets", "methods", "budgets", "seeds", "trainings")


@dataclass(frozen=True)
class Grid:
    """An experiment, expanded.

    cells: in table order (zero-shot first), without repeats. parts: what a composite is made of, else empty; its
    `experiment` then has the axes of all parts, though not every combination of these is a cell.
    """

    experiment: Experiment
    cells: tuple[Cell, ...]
    parts: tuple[str, ...] = ()

    @property
    def evaluation(self) -> Evaluation | None:
        """How every cell of this experiment is measured; None: not at all."""
        return self.experiment.evaluation

    @cached_property
    def _varied(self) -> tuple[str, ...]:
        trainings = [cell.training.model_dump() for cell in self.cells if cell.training is not None]
        return tuple(key for key in Training.model_fields if any(t[key] != trainings[0][key] for t in trainings))

    def variant(self, cell: Cell) -> dict[str, Any]:
        """The settings of training that differ between cells of this experiment, with their values in this cell.

        `{"batch_size": 16, "learning_rate": 2e-4}`; empty where all cells are trained alike, and for zero-shot.
        """
        training = {} if cell.training is None else cell.training.model_dump(mode="json")
        return {key: training[key] for key in self._varied if training}


class Library:
    """The YAML files below a `configs` folder: models, train sets, experiments, scales.

    `data_dir` switches train sets and benchmarks to local copies.
    """

    def __init__(self, configs: Path, data_dir: Path | None = None) -> None:
        self.files = Files(configs)
        self.configs = self.files.configs
        self.data_dir = data_dir
        self._entries: dict[tuple[str, str], Any] = {}

    def names(self, section: Section) -> list[str]:
        """Names of the entries in a section; of experiments with their editions, valid or not."""
        return self.files.names() if section == "experiments" else self.files.stems(section)

    def experiments(self, names: Iterable[str]) -> list[Grid]:
        """Read and expand experiments; UserError lists every problem of every file involved."""
        grids, problems = self.attempt(names)
        if problems:
            lines = [line for message in problems.values() for line in message.splitlines()]
            raise UserError("\n".join(dict.fromkeys(lines)))
        return grids

    def attempt(self, names: Iterable[str]) -> tuple[list[Grid], dict[str, str]]:
        """The experiments that can be expanded, and for each of the others what is wrong with it."""
        grids, problems = [], {}
        for name in names:
            try:
                grids.append(self._expand(name))
            except UserError as error:
                problems[name] = str(error)
        return grids, problems

    def _entry(self, section: Section, name: str, schema: type[Entry]) -> Entry:
        if (section, name) not in self._entries:
            path = self.configs / section / f"{name}.yaml"
            try:
                entry = schema.model_validate({"name": name} | self.files.read(path))
            except ValidationError as error:
                raise UserError("\n".join(explain(error, str(path), schema))) from None
            if entry.name != name:
                raise UserError(f"{path}: name = {entry.name!r}: must equal the file's name, {name!r}")
            self._entries[section, name] = entry
        found: Entry = self._entries[section, name]
        return found

    def _expand(self, name: str, within: tuple[str, ...] = ()) -> Grid:
        edition = self.files.find(name)
        if "parts" in edition.layers[0].values:
            return self._composite(edition, (*within, name))
        # names are looked up in the raw file, so that a wrong type elsewhere does not hide an unknown name
        values = edition.values
        problems: list[str] = []
        models = self._resolve("models", _strings(values, "models"), Model, edition, problems)
        train_sets = self._resolve("train_sets", _strings(values, "train_sets"), TrainSet, edition, problems)
        for benchmark in _strings(values, "evaluation", "benchmarks"):
            if benchmark not in BENCHMARKS:
                origin = edition.origin("evaluation", "benchmarks")
                problems.append(
                    f"{origin}evaluation.benchmarks = {benchmark!r}: unknown{nearest(benchmark, BENCHMARKS)}"
                )
        problems += _method_problems(values.get("methods"), edition.origin("methods"))
        problems = [*check(values, edition.where, name), *problems, *self._unknown_scales(edition)]
        if problems:
            raise UserError("\n".join(problems))
        experiment = self._measured(edition, Experiment.model_validate(values), models)
        return self._cells(edition, experiment, models, train_sets)

    def _unknown_scales(self, edition: Edition) -> list[str]:
        raw = edition.layers[0].values.get("scales")
        known = self.files.stems("scales")
        stray = [scale for scale in raw if scale not in known] if isinstance(raw, Mapping) else []
        return [f"{edition.file}: scales.{scale}: unknown scale{nearest(str(scale), known)}" for scale in stray]

    def _measured(self, edition: Edition, experiment: Experiment, models: Iterable[Model]) -> Experiment:
        """The experiment with its evaluation checked, and pointed to `data_dir` where there is one."""
        evaluation = experiment.evaluation
        if evaluation is None:
            return experiment.model_copy(update={"zero_shot": False})
        for model in models:
            if model.source.kind == "shipped" and evaluation.source != "mini-world":
                raise UserError(
                    f"{edition.origin('evaluation', 'source')}evaluation.source = {evaluation.source!r}: {model.name} "
                    "knows the mini world only; write source: mini-world"
                )
        if self.data_dir is None or evaluation.source != "hub":
            return experiment
        return experiment.model_copy(update={"evaluation": evaluation.model_copy(update={"source": "data-dir"})})

    def _cells(
        self, edition: Edition, experiment: Experiment, models: Iterable[Model], train_sets: Iterable[TrainSet]
    ) -> Grid:
        """Every combination of the axes, equal ones once."""
        prunings, trainings = self._prunings(edition, experiment), _trainings(edition, experiment)
        methods = len(experiment.methods)
        axes: dict[str, Sequence[Any]] = {axis: getattr(experiment, axis) for axis in AXES}
        # two methods are one only where they are so at every budget: at 100% of the tokens many are
        axes |= {"methods": [prunings[place::methods] for place in range(methods)], "trainings": trainings}
        if experiment.evaluation is not None:
            axes["evaluation.benchmarks"] = experiment.evaluation.benchmarks
        if problems := repeats(edition, axes):
            raise UserError("\n".join(problems))
        train_sets = [self._localise(train_set) for train_set in train_sets]
        cells: dict[str, Cell] = {}
        for model in models:
            if experiment.zero_shot:
                cell = Cell(model=model)
                cells.setdefault(cell_json(cell), cell)
            for train_set, training, chosen, seeds in product(train_sets, trainings, prunings, experiment.seeds):
                cell = Cell(
                    model=model,
                    train_set=train_set,
                    limit_train=experiment.limit_train,
                    pruning=_in_window(chosen, training),
                    training=training,
                    seeds=seeds,
                )
                cells.setdefault(cell_json(cell), cell)
        return Grid(experiment, tuple(cells.values()))

    def _prunings(self, edition: Edition, experiment: Experiment) -> list[Pruning]:
        """Every method at every budget."""
        asked = (entry.options.get(key) for entry in experiment.methods for key in ("reference", "proxy"))
        references = sorted({name for name in asked if isinstance(name, str)})
        problems: list[str] = []
        found = self._resolve("models", references, Model, edition, problems, "methods")
        if problems:
            raise UserError("\n".join(problems))
        known = {model.name: model for model in found}
        return [
            pruning(entry, budget, experiment.readings, known)
            for budget in experiment.budgets
            for entry in experiment.methods
        ]

    def _composite(self, edition: Edition, within: tuple[str, ...]) -> Grid:
        """The union of several experiments, in their order."""
        raw = edition.layers[0].values
        if problems := check(raw, edition.file, edition.base):
            raise UserError("\n".join(problems))
        names = [part if edition.scale is None else f"{part}-{edition.scale.name}" for part in raw["parts"]]
        parts: list[Grid] = []
        for name in names:
            if name in within:
                raise UserError(f"{edition.file}: parts = {name!r}: is a part of itself")
            try:
                parts.append(self._expand(name, within))
            except UserError as error:
                problems += [f"{edition.file}: parts: {line}" for line in str(error).splitlines()]
        if problems:
            raise UserError("\n".join(problems))
        for name, part in zip(names, parts, strict=True):
            if part.evaluation != parts[0].evaluation:
                raise UserError(
                    f"{edition.file}: parts = {name!r}: is evaluated otherwise than {names[0]}; a table has "
                    "one evaluation"
                )
        cells: dict[str, Cell] = {}
        for cell in (cell for part in parts for cell in part.cells):
            cells.setdefault(cell_json(cell), cell)
        return Grid(_union(edition, [part.experiment for part in parts]), tuple(cells.values()), tuple(names))

    def _resolve(
        self,
        section: Section,
        names: Iterable[str],
        schema: type[Entry],
        edition: Edition,
        problems: list[str],
        key: str = "",
    ) -> list[Entry]:
        entries = []
        for name in names:
            if name not in self.names(section):
                origin = f"{edition.origin('methods')}methods: " if key else edition.origin(section)
                problems.append(f"{origin}{section} = {name!r}: unknown{nearest(name, self.names(section))}")
                continue
            try:
                entries.append(self._entry(section, name, schema))
            except UserError as error:
                problems += str(error).splitlines()
        return entries

    def _localise(self, train_set: TrainSet) -> TrainSet:
        """With a data_dir, the local copy replaces the hub."""
        if self.data_dir is None or train_set.local is None:
            return train_set
        source = FileSource(kind="data-dir", file=train_set.local)
        return train_set.model_copy(update={"source": source})


def _trainings(edition: Edition, experiment: Experiment) -> list[Training]:
    """The axis `trainings`: each entry laid over `training`."""
    common = experiment.training.model_dump(exclude_unset=True)
    found = []
    for entry in experiment.trainings:
        try:
            found.append(Training.model_validate(merge(common, entry.model_dump(exclude_unset=True))))
        except ValidationError as error:
            raise UserError("\n".join(explain(error, f"{edition.where}: trainings", Training))) from None
    return found


def _in_window(chosen: Pruning, training: Training) -> Pruning:
    """Where a window is one batch, A9 makes no difference, and a row must not claim one."""
    if training.processes * training.accumulation > 1:
        return chosen
    return chosen.model_copy(update={"selection": "device"})


def _union(edition: Edition, experiments: list[Experiment]) -> Experiment:
    """What stands for a composite: the first of its parts, with the axes of all."""
    axes: dict[str, tuple[Any, ...]] = {}
    for axis in AXES:
        values: list[Any] = []
        for experiment in experiments:
            values += [value for value in getattr(experiment, axis) if value not in values]
        axes[axis] = tuple(values)
    return experiments[0].model_copy(
        update={
            **axes,
            "name": edition.name,
            "title": edition.values["title"],
            "zero_shot": any(experiment.zero_shot for experiment in experiments),
            "keep_weights": any(experiment.keep_weights for experiment in experiments),
            "localisation": any(experiment.localisation for experiment in experiments),
            "scales": {},
        }
    )


def _strings(raw: Mapping[str, Any], *keys: str) -> list[str]:
    """The strings in the list at `keys`, of a file not validated yet."""
    value: Any = raw
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _method_problems(methods: Any, origin: str) -> list[str]:
    """What is wrong with the methods of an experiment, of those that are well formed."""
    problems: list[str] = []
    for value in methods if isinstance(methods, list) else []:
        try:
            pruning(METHOD.validate_python(value), Ratios(sample_ratio=1.0, token_ratio=1.0))
        except ValidationError:
            continue  # reported with the types of the whole file
        except UserError as error:
            problems += [f"{origin}methods: {line}" for line in str(error).splitlines()]
    return problems
