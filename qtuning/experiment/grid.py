"""Experiments (YAML) -> cells: every combination of an experiment's axes.

All problems of all files are reported at once, so a user mends them in one go.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from qtuning.errors import UserError, raise_problems
from qtuning.experiment import apart
from qtuning.experiment.benchmarks import BENCHMARKS, averaged
from qtuning.experiment.cell import Cell, Evaluation, FileSource, Model, Pruning, Training, TrainSet
from qtuning.experiment.ids import cell_json
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.needs import missing_truth, needs_of
from qtuning.experiment.scales import (
    Edition,
    ExperimentFiles,
    find,
    merge,
    named_in,
    strings,
    type_problems,
    with_controls,
)
from qtuning.experiment.schema import Experiment, MethodEntry, MethodItem, Primary, Ratios
from qtuning.experiment.yaml_files import ConfigEntry, nearest, validate

ConfigSection = Literal["models", "train_sets", "experiments"]

METHOD: TypeAdapter[MethodEntry] = TypeAdapter(MethodItem)
AXES = ("models", "train_sets", "methods", "budgets", "seeds", "trainings")


@dataclass(frozen=True)
class Grid:
    """An experiment, expanded.

    cells: in table order (zero-shot first), each once. parts: names of the experiments that a composite consists of,
    else empty. The `experiment` of a composite has the axes of all its parts, but not every combination is a cell.
    """

    experiment: Experiment
    cells: tuple[Cell, ...]
    parts: tuple[str, ...] = ()

    @property
    def evaluation(self) -> Evaluation | None:
        """How every cell of this experiment is evaluated; None: not at all."""
        return self.experiment.evaluation

    @property
    def measures_only(self) -> bool:
        """Whether the experiment wants nothing of its cells but their time and memory."""
        asked = self.experiment
        return asked.measure and not (asked.observe or asked.localisation or asked.evaluation is not None)

    @cached_property
    def _varied(self) -> list[str]:
        trainings = [cell.training.model_dump() for cell in self.cells if cell.training is not None]
        return [key for key in Training.model_fields if any(t.get(key) != trainings[0].get(key) for t in trainings)]

    def variant(self, cell: Cell) -> dict[str, Any]:
        """The settings of training that differ between cells of this experiment, with the values of this cell.

        Example: `{"batch_size": 16, "learning_rate": 2e-4}`. Empty if all cells are trained alike, and for zero-shot.
        """
        training = {} if cell.training is None else cell.training.model_dump(mode="json")
        fields = Training.model_fields  # of keys that are left out at their defaults
        return {key: training.get(key, fields[key].default) for key in self._varied if training}


class ConfigFolder:
    """The YAML files below a `configs` folder: models, train sets, experiments, scales.

    data_dir: folder of local copies, which then replace train sets and benchmarks of the hub.
    """

    def __init__(self, configs: Path, data_dir: Path | None = None) -> None:
        self.files = ExperimentFiles(configs)
        self.configs = self.files.configs
        self.data_dir = data_dir

    def names(self, section: ConfigSection) -> list[str]:
        """Names of the files in a section. Each experiment is followed by its editions; their files may be invalid."""
        return self.files.names() if section == "experiments" else self.files.stems(section)

    def expand(self, names: Iterable[str]) -> list[Grid]:
        """Read and expand experiments; UserError lists every problem of every file involved."""
        grids, problems = self.expand_valid(names)
        # experiments share files, and with them their problems: each is told once
        raise_problems(list(dict.fromkeys(line for message in problems.values() for line in message.splitlines())))
        return grids

    def expand_valid(self, names: Iterable[str]) -> tuple[list[Grid], dict[str, str]]:
        """The experiments that can be expanded, and by name what is wrong with each of the others."""
        grids, problems = [], {}
        for name in names:
            try:
                with apart.listing():
                    grids.append(self._expand(name))
            except UserError as error:
                problems[name] = str(error)
        return grids, problems

    def model(self, name: str) -> Model:
        """configs/models/NAME.yaml."""
        return self.files.entry(Model, "models", name)

    def train_set(self, name: str) -> TrainSet:
        """configs/train_sets/NAME.yaml; with a `data_dir`, its local copy replaces the hub."""
        train_set = self.files.entry(TrainSet, "train_sets", name)
        if self.data_dir is None or train_set.local is None:
            return train_set
        return train_set.model_copy(update={"source": FileSource(kind="data-dir", file=train_set.local)})

    def _expand(self, name: str, within: tuple[str, ...] = ()) -> Grid:
        edition = self.files.edition(name)
        raw = edition.layers[0].values
        if named_in(raw) is not None:
            raise_problems(type_problems(raw, edition.file, edition.base))
            return (self._alias if "alias" in raw else self._composite)(edition, (*within, name))
        # names are looked up in the raw file, so that a wrong type elsewhere does not hide an unknown name
        values = edition.values
        problems: list[str] = []
        models = self._look_up("models", strings(values, "models"), self.model, edition.origin("models"), problems)
        origin = edition.origin("train_sets")
        train_sets = self._look_up("train_sets", strings(values, "train_sets"), self.train_set, origin, problems)
        origin = f"{edition.origin('evaluation', 'benchmarks')}evaluation.benchmarks"
        for benchmark in strings(values, "evaluation", "benchmarks"):
            if benchmark not in BENCHMARKS:
                problems.append(f"{origin} = {benchmark!r}: unknown{nearest(benchmark, BENCHMARKS)}")
        problems += _method_problems(values.get("methods"), edition.origin("methods"))
        known, named = self.files.stems("scales"), edition.layers[0].values.get("scales")
        for scale in named if isinstance(named, Mapping) else ():
            if scale not in known:
                problems.append(f"{edition.file}: scales.{scale}: unknown scale{nearest(str(scale), known)}")
        raise_problems([*type_problems(values, edition.where, name), *problems])
        experiment = self._with_evaluation(edition, validate(Experiment, values, edition.where), models)
        if edition.scale is not None and edition.scale.controls and experiment.evaluation is not None:
            experiment = with_controls(experiment)
        return self._cells(edition, experiment, models, train_sets)

    def _with_evaluation(self, edition: Edition, experiment: Experiment, models: Iterable[Model]) -> Experiment:
        """The experiment with its evaluation checked; questions of the hub come from `data_dir` if that is given."""
        evaluation = experiment.evaluation
        if evaluation is None:
            return experiment.model_copy(update={"zero_shot": False})
        for model in models:
            if model.source.kind == "shipped" and evaluation.source != "mini-world":
                raise UserError(
                    f"{edition.origin('evaluation', 'source')}evaluation.source = {evaluation.source!r}: {model.name} "
                    "knows the mini world only; write source: mini-world"
                )
        if evaluation.source != "hub":
            return experiment
        if self.data_dir is None:
            if local := [name for name in evaluation.benchmarks if BENCHMARKS[name].hub_id is None]:
                raise UserError(
                    f"{edition.origin('evaluation', 'benchmarks')}evaluation.benchmarks = {local[0]!r}: is not on the "
                    "hub; write source: mini-world, or give --config data_dir=DIR"
                )
            return experiment
        return experiment.model_copy(update={"evaluation": evaluation.model_copy(update={"source": "data-dir"})})

    def _cells(
        self, edition: Edition, experiment: Experiment, models: Iterable[Model], train_sets: Iterable[TrainSet]
    ) -> Grid:
        """Every combination of the axes, equal ones once."""
        of_methods = self._prunings(edition, experiment)
        prunings = [
            (pruning, entry)
            for at_budget in zip(*of_methods, strict=True)
            for pruning, entry in zip(at_budget, experiment.methods, strict=True)
            if pruning is not None
        ]
        common = experiment.training.model_dump(exclude_unset=True)
        trainings = [
            validate(Training, merge(common, entry.model_dump(exclude_unset=True)), f"{edition.where}: trainings")
            for entry in experiment.trainings
        ]
        for training in trainings:
            try:
                training.accumulation(1)
            except UserError as error:
                raise UserError(f"{edition.where}: {error}") from None
        axes: dict[str, Sequence[Any]] = {axis: getattr(experiment, axis) for axis in AXES}
        # compared over all budgets: at 100% of the tokens, methods that differ in the token pruner are one
        axes |= {"methods": of_methods, "trainings": trainings}
        if experiment.evaluation is not None:
            axes["evaluation.benchmarks"] = experiment.evaluation.benchmarks
        raise_problems([*_repeats(edition, axes), *_labels_given_twice(edition, experiment)])
        cells = []
        for model in models:
            if experiment.zero_shot:
                cells.append(Cell(model=model))
            for train_set, training, (chosen, entry), seeds in product(
                train_sets, trainings, prunings, experiment.seeds
            ):
                if training.batches == 1:
                    # A9 makes no difference if an update is one batch: the selection is then that of the device
                    chosen = chosen.model_copy(update={"selection": "device"})
                if "ratings" in needs_of(chosen.replay or chosen).all and not train_set.rated:
                    raise UserError(
                        f"{edition.where}: methods: {chosen.method}: needs ratings, and train set {train_set.name} has "
                        "none; write `ratings: FILE` in its YAML, or name their columns (docs/data.md)"
                    )
                if (lacking := missing_truth(chosen.replay or chosen, train_set)) is not None:
                    raise UserError(f"{edition.where}: methods: {chosen.method}: {lacking}")
                limit = experiment.limit_train
                cells.append(
                    Cell(
                        model=model,
                        train_set=train_set.drawn(seeds.data),
                        limit_train=limit,
                        pruning=chosen,
                        training=training,
                        seeds=seeds,
                        label=entry.label,
                        colour=entry.colour,
                    )
                )
        return _checked(edition, Grid(experiment, _distinct(cells)))

    def _prunings(self, edition: Edition, experiment: Experiment) -> list[list[Pruning | None]]:
        """For each method, its prunings at the budgets of the experiment; None where it does not have the budget."""
        problems: list[str] = []
        known: dict[str, Model] = {}
        for key in ("reference", "proxy"):
            asked = (entry.options.get(key) for entry in experiment.methods)
            names = sorted({name for name in asked if isinstance(name, str)})
            origin = f"{edition.origin('methods')}methods: options.{key}: "
            known |= {model.name: model for model in self._look_up("models", names, self.model, origin, problems)}
        raise_problems(problems)
        for place, entry in enumerate(experiment.methods):
            stray = [budget for budget in entry.budgets if budget not in experiment.budgets]
            if stray:
                shown = ", ".join(f"{100 * b.sample_ratio:g}x{100 * b.token_ratio:g}" for b in stray)
                raise UserError(
                    f"{edition.origin('methods')}methods.{place}.budgets: {shown}: not among the experiment's budgets"
                )
        return [
            [
                _with_targets(edition, experiment, make_pruning(entry, budget, experiment.readings, known))
                if budget in (entry.budgets or experiment.budgets)
                else None
                for budget in experiment.budgets
            ]
            for entry in experiment.methods
        ]

    def _alias(self, edition: Edition, within: tuple[str, ...]) -> Grid:
        """The experiment that has another name now."""
        now, known = edition.layers[0].values["alias"], self.files.stems("experiments")
        if now not in known or now + edition.suffix in within:
            what = "is an alias of itself" if now in known else f"unknown{nearest(now, known)}"
            raise UserError(f"{edition.file}: alias = {now!r}: {what}")
        grid = self._expand(now + edition.suffix, within)
        title = f"{grid.experiment.title} ({edition.base} is called {now} now)"
        return replace(grid, experiment=grid.experiment.model_copy(update={"name": edition.name, "title": title}))

    def _composite(self, edition: Edition, within: tuple[str, ...]) -> Grid:
        names = [part + edition.suffix for part in edition.layers[0].values["parts"]]
        parts, problems = list[Grid](), list[str]()
        for name in names:
            if name in within:
                raise UserError(f"{edition.file}: parts = {name!r}: is a part of itself")
            try:
                parts.append(self._expand(name, within))
            except UserError as error:
                problems += [f"{edition.file}: parts: {line}" for line in str(error).splitlines()]
        raise_problems(problems)
        for name, part in zip(names, parts, strict=True):
            if part.evaluation != parts[0].evaluation:
                raise UserError(
                    f"{edition.file}: parts = {name!r}: is evaluated otherwise than {names[0]}; a table has "
                    "one evaluation"
                )
        cells = _distinct(cell for part in parts for cell in part.cells)
        return _checked(edition, Grid(_union(edition, [part.experiment for part in parts]), cells, tuple(names)))

    def _look_up(
        self,
        section: ConfigSection,
        names: Iterable[str],
        read: Callable[[str], ConfigEntry],
        origin: str,
        problems: list[str],
    ) -> list[ConfigEntry]:
        """The entries of these names. Unknown and invalid ones become lines of `problems` that begin with `origin`."""
        known, entries = self.names(section), []
        for name in names:
            try:
                if name not in known and section == "train_sets" and _is_file(name):
                    stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(name).name.split(".")[0]).strip("-._") or "mine"
                    raise UserError(
                        f"{origin}train_sets = {name!r}: is a file; write {self.configs}/train_sets/{stem}.yaml with "
                        f"the line `source: {{kind: path, file: {json.dumps(name)}}}`, and its name here: train_sets: "
                        f"[{stem}] (docs/data.md says what else it can say)"
                    )
                if name not in known:
                    raise UserError(f"{origin}{section} = {name!r}: unknown{nearest(name, known)}")
                entries.append(read(name))
            except UserError as error:
                problems += str(error).splitlines()
        return entries


def _is_file(name: str) -> bool:
    """Whether a user who wrote this meant a file of rows, or a folder or a pattern of such."""
    return "/" in name or "*" in name or bool(re.search(r"\.(jsonl?|parquet|csv|tsv|arrow|ya?ml)(\.(gz|zst))?$", name))


def _with_targets(edition: Edition, experiment: Experiment, pruning: Pruning) -> Pruning:
    """The same method; where it needs influence, on the benchmarks that the experiment asks unless it names others."""
    influence, evaluation = pruning.influence, experiment.evaluation
    if influence is None:
        return pruning
    targets = influence.targets or (() if evaluation is None else averaged(evaluation.benchmarks))
    source = influence.source or (None if evaluation is None else evaluation.source)
    if not targets or source is None:
        raise UserError(
            f"{edition.where}: methods: {pruning.method}: options.influence: targets and source: required, since the "
            "experiment has no `evaluation` to take them from"
        )
    filled = influence.model_copy(update={"targets": targets, "source": source})
    return pruning.model_copy(update={"influence": filled})


def _checked(edition: Edition, grid: Grid) -> Grid:
    """The grid, whose primary comparisons are of methods that it has."""
    known = list(dict.fromkeys("zero-shot" if cell.pruning is None else cell.pruning.method for cell in grid.cells))
    origin = edition.origin("primary", "comparisons")
    raise_problems(
        [
            f"{origin}primary.comparisons.{place} = {name!r}: no method of this experiment{nearest(name, known)}"
            for place, pair in enumerate(grid.experiment.primary.comparisons)
            for name in pair
            if name not in known
        ]
    )
    return grid


def _distinct(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Of equal cells the first, whose labels count."""
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell_json(cell), cell)
    return tuple(found.values())


def _repeats(edition: Edition, axes: Mapping[str, Sequence[Any]]) -> list[str]:
    """A line for each entry of an axis that equals an earlier one: the user most likely meant something else.

    axes: by dotted key, the entries after parsing, so that two spellings of one thing are equal.
    """
    problems = []
    for key, entries in axes.items():
        keys = key.split(".")
        written, origin = find(edition.values, *keys), edition.origin(*keys)
        for place, entry in enumerate(entries):
            if (first := entries.index(entry)) < place:
                what = f"{key}.{place} = {written[place]!r}"
                problems.append(f"{origin}{what}: is the same as {key}.{first}; leave it out")
    return problems


def _labels_given_twice(edition: Edition, experiment: Experiment) -> list[str]:
    """A line for each label of a method that an earlier one has: nobody could tell the two apart."""
    labels = [entry.label for entry in experiment.methods]
    return [
        f"{edition.origin('methods')}methods.{place}.label = {label!r}: is the label of methods.{labels.index(label)}"
        for place, label in enumerate(labels)
        if label is not None and labels.index(label) < place
    ]


def _union(edition: Edition, experiments: list[Experiment]) -> Experiment:
    """The experiment of a composite: the first of its parts, with the axes of all."""
    changes: dict[str, Any] = {"name": edition.name, "title": edition.values["title"], "scales": {}}
    for axis in AXES:
        values = [value for experiment in experiments for value in getattr(experiment, axis)]
        changes[axis] = tuple(value for place, value in enumerate(values) if value not in values[:place])
    for switch in ("zero_shot", "keep_weights", "localisation", "observe", "measure"):
        changes[switch] = any(getattr(experiment, switch) for experiment in experiments)
    if (written := edition.values.get("primary")) is not None:
        changes["primary"] = Primary.model_validate(written)
    elif any(experiment.primary != experiments[0].primary for experiment in experiments):
        raise UserError(f"{edition.file}: primary: its parts have different ones; write one for the whole")
    return experiments[0].model_copy(update=changes)


def _method_problems(methods: Any, origin: str) -> list[str]:
    """What is wrong with the methods of an experiment; ill-formed ones are reported with the types of the file."""
    problems: list[str] = []
    for value in methods if isinstance(methods, list) else []:
        try:
            make_pruning(METHOD.validate_python(value), Ratios(sample_ratio=1.0, token_ratio=1.0))
        except ValidationError:
            continue
        except UserError as error:
            problems += [f"{origin}methods: {line}" for line in str(error).splitlines()]
    return problems
