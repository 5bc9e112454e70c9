"""Experiments (YAML) -> cells and evaluations. All errors of all files are reported at once."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from qtuning.config import (
    Cell,
    Evaluation,
    Experiment,
    FileSource,
    Lora,
    Method,
    MethodEntry,
    Model,
    Pruning,
    Ratios,
    TrainSet,
)
from qtuning.errors import UserError
from qtuning.files import canonical_json, short_hash
from qtuning.pruners.registry import NAMED_METHODS, SAMPLE_PRUNERS, TOKEN_PRUNERS, PrunerInfo

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
BENCHMARKS = ("arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa", "math")


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


def slug(*parts: str) -> str:
    """Readable, safe in paths and shells."""
    return "-".join(parts).lower()


def canonical(cell: Cell) -> Cell:
    """The same cell, with everything that cannot change its weights at its default.

    Labels, parameter counts, the share of bad rows allowed; LoRA settings in full fine-tuning; all but the source of a
    model that is not trained. Equal weights must be one cell, and editing a label must not train anything again.
    """
    defaults = {"label": cell.model.name, "parameters": None}
    if cell.training is None or cell.train_set is None:
        return Cell(semantics=cell.semantics, model=Model(name=cell.model.name, source=cell.model.source))
    training = cell.training.model_copy(update={"dtype": cell.dtype})
    if training.tuning == "full":
        training = training.model_copy(update={"lora": Lora()})
        defaults["lora_targets"] = "all-linear"
    train_set = cell.train_set.model_copy(update={"label": cell.train_set.name, "local": None, "bad_rows": 0.01})
    model = cell.model.model_copy(update=defaults | {"dtype": "float32"})
    return cell.model_copy(update={"model": model, "train_set": train_set, "training": training})


def cell_id(cell: Cell) -> str:
    """Folder name of a cell: readable slug and 8 hex digits of its canonical configuration."""
    digest = short_hash(canonical(cell).model_dump(mode="json", by_alias=True))
    if cell.zero_shot:
        return slug(cell.model.name, "zero-shot", digest)
    assert cell.pruning and cell.train_set and cell.seeds
    parts = [cell.model.name, cell.train_set.name, cell.pruning.method]
    if cell.pruning.budget != "100x100":
        parts.append(cell.pruning.budget)
    return slug(*parts, f"s{cell.seeds.data}", digest)


def cell_json(cell: Cell) -> str:
    """The canonical configuration, as stored in the cell's folder."""
    return canonical_json(canonical(cell).model_dump(mode="json", by_alias=True))


def evaluation_json(evaluation: Evaluation) -> str:
    """The canonical configuration of an evaluation."""
    return canonical_json(evaluation.model_dump(mode="json"))


def evaluation_id(evaluation: Evaluation) -> str:
    """Folder name of an evaluation inside a cell."""
    return f"evaluation-{short_hash(evaluation.model_dump(mode='json'))}"


def model_id(model: Model) -> str:
    """Folder name of a base model made ready: only where it comes from matters."""
    return slug(model.name, short_hash(model.source.model_dump(mode="json")))


def pair_id(cell: Cell) -> str:
    """Folder name of the tokenised train set of a cell: shared by all cells of one model and train set."""
    assert cell.train_set is not None and cell.training is not None
    identity = {
        "train_set": cell.train_set.model_dump(mode="json", exclude={"label", "local", "bad_rows"}),
        "model": cell.model.source.model_dump(mode="json"),
        "template": cell.model.template,
        "cutoff": cell.training.cutoff,
        "limit": cell.limit_train,
    }
    return slug(cell.train_set.name, cell.model.name, short_hash(identity))


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, which YAML would silently overwrite."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: list[Any] = []
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", key_node.start_mark)
        seen.append(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; UserError with file and line where it is none."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise UserError(f"{path}: {line}not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected keys and values at the top level, found {type(value).__name__}")
    return value


def explain(error: ValidationError, where: str, schema: type[BaseModel]) -> list[str]:
    """One line per problem: file, key, value, what is allowed."""
    lines = []
    for problem in error.errors():
        if problem["type"] == "too_short" and problem["input"]:
            continue  # pydantic's echo of list entries that are reported themselves
        keys, valid = _follow(schema, problem["loc"])
        key = ".".join(keys) or "(top level)"
        message = problem["msg"].removeprefix("Value error, ").replace("Tuple", "List").replace("tuple", "list")
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: unknown key{nearest(keys[-1], valid)}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: {key}: required, but not given")
        else:
            lines.append(f"{where}: {key} = {problem['input']!r}: {message[0].lower()}{message[1:]}")
    return lines


def _follow(schema: type[BaseModel], location: Iterable[str | int]) -> tuple[list[str], list[str]]:
    """Down a pydantic error location: the user's own keys on the way, and all that are valid beside the last one.

    pydantic adds the tag of a chosen union member (`hub` in source.hub.revison); users know only their own keys.
    """
    keys: list[str] = []
    valid: list[str] = []
    current: Any = schema
    for part in location:
        models = _models_in(current)
        tagged = [m for m in models if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)]
        if len(models) > 1 and tagged:
            current = tagged[0]
            continue
        if str(part).startswith("function-"):
            continue
        keys.append(str(part))
        fields = {f.alias or name: f.annotation for m in models[:1] for name, f in m.model_fields.items()}
        valid = list(fields)
        current = get_args(current)[0] if isinstance(part, int) and get_args(current) else fields.get(str(part))
    return keys, valid


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation allows: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for member in get_args(annotation) for m in _models_in(member)]


def _option_names(info: PrunerInfo) -> list[str]:
    return [field.alias or name for name, field in info.options.model_fields.items()]


def nearest(name: str, valid: Iterable[str]) -> str:
    """` (did you mean ...? valid: ...)`."""
    choices = list(valid)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    listing = f" (valid: {', '.join(choices)})" if choices else ""
    return f"{hint}{listing}"


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
        prunings = [pruning(entry, budget) for budget in experiment.budgets for entry in experiment.methods]
        if self.data_dir is not None and experiment.evaluation.source == "hub":
            evaluation = experiment.evaluation.model_copy(update={"source": "data-dir"})
            experiment = experiment.model_copy(update={"evaluation": evaluation})
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


def pruning(entry: MethodEntry, budget: Ratios) -> Pruning:
    """A method at a budget. A pruner that prunes nothing has ratio 1, so that equal cells are equal."""
    names = NAMED_METHODS.get(entry.method, tuple(entry.method.split("+")))
    if len(names) != 2:
        valid = [*NAMED_METHODS, "SAMPLE+TOKEN with SAMPLE one of " + ", ".join(SAMPLE_PRUNERS)]
        raise UserError(f"{entry.method!r}: unknown method{nearest(entry.method, valid)}")
    asked = (("sample", names[0], SAMPLE_PRUNERS), ("token", names[1], TOKEN_PRUNERS))
    unknown = [f"{n!r}: unknown {what} pruner{nearest(n, known)}" for what, n, known in asked if n not in known]
    if unknown:
        raise UserError("\n".join(unknown))
    sample, token = SAMPLE_PRUNERS[names[0]], TOKEN_PRUNERS[names[1]]
    taken = sorted({*_option_names(sample), *_option_names(token)})
    stray = sorted(set(entry.options) - set(taken))
    if stray:
        raise UserError("\n".join(f"{entry.method}: options.{key}: unknown key{nearest(key, taken)}" for key in stray))
    return Pruning(
        sample_pruner=sample.name,
        token_pruner=token.name,
        sample_ratio=1.0 if sample.scope == "none" else budget.sample_ratio,
        token_ratio=1.0 if token.scope == "none" else budget.token_ratio,
        sample_options=_options(sample, entry),
        token_options=_options(token, entry),
    )


def _options(info: PrunerInfo, entry: MethodEntry) -> dict[str, Any]:
    """The options this pruner knows, validated, defaults filled in."""
    mine = {key: value for key, value in entry.options.items() if key in _option_names(info)}
    try:
        return info.options.model_validate(mine).model_dump(mode="json", by_alias=True)
    except ValidationError as error:
        raise UserError("\n".join(explain(error, f"{entry.method}: options", info.options))) from None
