"""Experiments (YAML) -> cells and evaluations. All errors of all files are reported at once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from qtuning.config import (
    Cell,
    Evaluation,
    Experiment,
    FileSource,
    Method,
    MethodEntry,
    Model,
    Ratios,
    TrainSet,
)
from qtuning.errors import UserError
from qtuning.evaluation.headline import LABEL
from qtuning.explain import explain, nearest, read_yaml
from qtuning.identity import cell_json
from qtuning.methods import pruning

Entry = TypeVar("Entry", Model, TrainSet, Experiment)
Section = Literal["models", "train_sets", "experiments"]

METHOD: TypeAdapter[MethodEntry] = TypeAdapter(Method)
# names of the workflow's rules; an experiment is a target of its own name
RESERVED = {
    "all",
    "configure",
    "mini_world",
    "base_model",
    "prepare",
    "train",
    "train_and_keep",
    "evaluate",
    "tables",
    "pretrain-mini",
}
BENCHMARKS = tuple(LABEL)


@dataclass(frozen=True)
class Grid:
    """An experiment, expanded.

    cells: in table order (zero-shot first), without repeats. evaluation: how each of them is measured.
    """

    experiment: Experiment
    cells: tuple[Cell, ...]

    @property
    def evaluation(self) -> Evaluation:
        """How every cell of this experiment is measured."""
        return self.experiment.evaluation


class Library:
    """The YAML files below a `configs` folder: models, train sets, experiments.

    `data_dir` switches train sets and benchmarks to local copies.
    """

    def __init__(self, configs: Path, data_dir: Path | None = None) -> None:
        self.configs = Path(configs)
        self.data_dir = data_dir

    def names(self, section: Section) -> list[str]:
        """Names of the entries in a section."""
        return sorted(path.stem for path in (self.configs / section).glob("*.yaml"))

    def experiments(self, names: Iterable[str]) -> list[Grid]:
        """Read and expand experiments; UserError lists every problem of every file involved."""
        problems: list[str] = []
        grids = []
        for name in names:
            try:
                grids.append(self._expand(name))
            except UserError as error:
                problems += str(error).splitlines()
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))
        return grids

    def _entry(self, section: Section, name: str, schema: type[Entry]) -> Entry:
        path = self.configs / section / f"{name}.yaml"
        value = {"name": name} | read_yaml(path)
        try:
            entry = schema.model_validate(value)
        except ValidationError as error:
            raise UserError("\n".join(explain(error, str(path), schema))) from None
        if entry.name != name:
            raise UserError(f"{path}: name = {entry.name!r}: must equal the file's name, {name!r}")
        return entry

    def _expand(self, name: str) -> Grid:
        if name not in self.names("experiments"):
            raise UserError(f"experiment = {name!r}: unknown{nearest(name, self.names('experiments'))}")
        if name in RESERVED:
            raise UserError(
                f"{self.configs}/experiments/{name}.yaml: name = {name!r}: is the name of a rule; rename the file"
            )
        path = self.configs / "experiments" / f"{name}.yaml"
        # names are looked up in the raw file, so that a wrong type elsewhere does not hide an unknown name
        raw, where = read_yaml(path), str(path)
        problems: list[str] = []
        models = self._resolve("models", _strings(raw, "models"), Model, where, problems)
        train_sets = self._resolve("train_sets", _strings(raw, "train_sets"), TrainSet, where, problems)
        for benchmark in _strings(raw, "evaluation", "benchmarks"):
            if benchmark not in BENCHMARKS:
                problems.append(
                    f"{where}: evaluation.benchmarks = {benchmark!r}: unknown{nearest(benchmark, BENCHMARKS)}"
                )
        problems += _method_problems(raw.get("methods"), where)
        try:
            experiment = self._entry("experiments", name, Experiment)
        except UserError as error:
            problems = [*str(error).splitlines(), *problems]
        if problems:
            raise UserError("\n".join(problems))
        for model in models:
            if model.source.kind == "shipped" and experiment.evaluation.source != "mini-world":
                raise UserError(
                    f"{where}: evaluation.source = {experiment.evaluation.source!r}: {model.name} knows the mini world "
                    "only; write source: mini-world"
                )
        asked = (entry.options.get(key) for entry in experiment.methods for key in ("reference", "proxy"))
        references = {name for name in asked if isinstance(name, str)}
        known = {
            model.name: model
            for model in self._resolve("models", sorted(references), Model, f"{where}: methods", problems)
        }
        if problems:
            raise UserError("\n".join(problems))
        prunings = [
            pruning(entry, budget, experiment.readings, known)
            for budget in experiment.budgets
            for entry in experiment.methods
        ]
        if self.data_dir is not None and experiment.evaluation.source == "hub":
            evaluation = experiment.evaluation.model_copy(update={"source": "data-dir"})
            experiment = experiment.model_copy(update={"evaluation": evaluation})
        if experiment.training.processes * experiment.training.accumulation == 1:
            # a window is one batch: A9 makes no difference, and a row must not claim one
            prunings = [chosen.model_copy(update={"selection": "device"}) for chosen in prunings]
        cells: dict[str, Cell] = {}
        for model in models:
            if experiment.zero_shot:
                cell = Cell(model=model)
                cells.setdefault(cell_json(cell), cell)
            for train_set in map(self._localise, train_sets):
                for chosen in prunings:
                    for seeds in experiment.seeds:
                        cell = Cell(
                            model=model,
                            train_set=train_set,
                            limit_train=experiment.limit_train,
                            pruning=chosen,
                            training=experiment.training,
                            seeds=seeds,
                        )
                        cells.setdefault(cell_json(cell), cell)
        return Grid(experiment, tuple(cells.values()))

    def _resolve(
        self,
        section: Section,
        names: Iterable[str],
        schema: type[Entry],
        where: str,
        problems: list[str],
    ) -> list[Entry]:
        entries = []
        for name in names:
            if name not in self.names(section):
                problems.append(f"{where}: {section} = {name!r}: unknown{nearest(name, self.names(section))}")
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


def _strings(raw: Mapping[str, Any], *keys: str) -> list[str]:
    """The strings in the list at `keys`, of a file not validated yet."""
    value: Any = raw
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _method_problems(methods: Any, where: str) -> list[str]:
    """What is wrong with the methods of an experiment, of those that are well formed."""
    problems: list[str] = []
    for value in methods if isinstance(methods, list) else []:
        try:
            pruning(METHOD.validate_python(value), Ratios(sample_ratio=1.0, token_ratio=1.0))
        except ValidationError:
            continue  # reported with the types of the whole file
        except UserError as error:
            problems += [f"{where}: methods: {line}" for line in str(error).splitlines()]
    return problems
