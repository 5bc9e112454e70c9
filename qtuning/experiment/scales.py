"""The YAML files of experiments and their editions. An *edition* is an experiment at a scale (`table1-mini`): its own
settings with the changes of a file of configs/scales laid over them.

An edition remembers which file each setting comes from, so that a message can name the file to mend.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtuning.errors import UserError, raise_problems
from qtuning.experiment.by_type import by_type
from qtuning.experiment.metrics import METRICS
from qtuning.experiment.schema import Alias, Composite, Experiment, MethodEntry, Scale
from qtuning.experiment.strict_yaml import read_yaml
from qtuning.experiment.yaml_files import ConfigEntry, nearest, validate_named


@dataclass(frozen=True)
class Layer:
    """The settings of one file, or of one block in it. where: what a message puts before a key of this layer."""

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Edition:
    """An experiment as written: its own file and, at a scale, the layers over it; the last one is on top."""

    name: str
    base: str
    file: str
    scale: Scale | None
    layers: tuple[Layer, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The settings of all layers: mappings are merged key by key, anything else is replaced."""
        values: dict[str, Any] = {}
        for layer in self.layers:
            values = merge(values, layer.values)
        if self.scale is None:
            return {"name": self.name} | values
        title = f"{values.get('title', '')}, {self.scale.label}"
        own = {key: value for key, value in values.items() if key not in ("label", "controls", "scales")}
        return own | {"name": self.name, "title": title}

    @property
    def where(self) -> str:
        """The file, and the scale if there is one, for messages about the whole."""
        return self.file if self.scale is None else f"{self.file} at scale {self.scale.name}"

    @property
    def suffix(self) -> str:
        """`-mini` at the scale mini; empty without a scale."""
        return "" if self.scale is None else f"-{self.scale.name}"

    def origin(self, *keys: str) -> str:
        """What a message puts before the dotted `keys`: the place of the uppermost layer that has them."""
        having = (layer.where for layer in reversed(self.layers) if find(layer.values, *keys) is not MISSING)
        return next(having, self.layers[0].where)


MISSING = object()
OF_FILES = {
    *("md", "csv", "tex", "html", "partial", "cost", "localisation", "tokens", "efficiency", "instrument", "kinds"),
    *("paper", "signs", *METRICS),
}
"""What follows an experiment's name in the names of its files, so that no experiment may end in it."""


def find(values: Any, *keys: str) -> Any:
    """The value below `keys` of a file that is not validated yet; MISSING if there is none."""
    for key in keys:
        values = values.get(key, MISSING) if isinstance(values, Mapping) else MISSING
    return values


def named_in(raw: Mapping[str, Any]) -> list[str] | None:
    """The experiments that a composite or an alias consists of; None for an experiment with axes of its own."""
    if isinstance(raw.get("alias"), str):
        return [raw["alias"]]
    return strings(raw, "parts") if "parts" in raw or "alias" in raw else None


def strings(values: Any, *keys: str) -> list[str]:
    """The strings in the list below `keys` of a file that is not validated yet."""
    found = find(values, *keys)
    return [entry for entry in found if isinstance(entry, str)] if isinstance(found, list) else []


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: mappings are merged key by key, anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def with_controls(experiment: Experiment) -> Experiment:
    """The experiment with random pruning and the controls, which say what a selection could at best and worst do.

    They select samples; at budgets that keep all samples, tokens.
    """
    of_samples = tuple(budget for budget in experiment.budgets if budget.sample_ratio < 1)
    of_tokens = tuple(budget for budget in experiment.budgets if budget.sample_ratio == 1 > budget.token_ratio)
    added = []
    for names, budgets in (
        (("random+random", "oracle", "adversary"), of_samples),
        (("random+random", "oracle-tokens", "adversary-tokens"), of_tokens),
    ):
        plain = (entry for entry in experiment.methods if not entry.options)
        given = {entry.method for entry in plain if not entry.budgets or set(budgets) <= set(entry.budgets)}
        if given & {"random+random", "random+none", "full+random"}:  # the same where all tokens or all samples stay
            given.add("random+random")
        added += [MethodEntry(method=name, budgets=budgets) for name in names if budgets and name not in given]
    return experiment.model_copy(update={"methods": (*experiment.methods, *added)})


class ExperimentFiles:
    """The YAML files below a `configs` folder. Each is read once."""

    def __init__(self, configs: Path) -> None:
        self.configs = Path(configs)
        self._read: dict[Path, dict[str, Any]] = {}

    def read(self, path: Path) -> dict[str, Any]:
        """The mapping in a YAML file, with its values as their keys want them; those that they cannot be, as read."""
        if path not in self._read:
            values = read_yaml(path)
            schema = {"experiments": _schema_of(values), "scales": Scale}.get(path.parent.name)
            self._read[path] = values if schema is None else by_type(schema, values, [])
        return self._read[path]

    def entry(self, schema: type[ConfigEntry], section: str, name: str) -> ConfigEntry:
        """The entry in the file of that name, validated."""
        path = self.configs / section / f"{name}.yaml"
        return validate_named(schema, self.read(path), name, str(path))

    def stems(self, section: str) -> list[str]:
        """Names of the files in a section. UserError if `experiments` is missing: every name would then be unknown."""
        if section == "experiments":
            section_folder(self.configs, section)
        return sorted(path.stem for path in (self.configs / section).glob("*.yaml"))

    def path(self, name: str) -> Path:
        """The file of an experiment."""
        return self.configs / "experiments" / f"{name}.yaml"

    def names(self) -> list[str]:
        """Every experiment, followed by its editions. A file that cannot be read has none."""
        names = []
        for name in self.stems("experiments"):
            names.append(name)
            names += [f"{name}-{scale}" for scale in self.scales_of(name)]
        return list(dict.fromkeys(names))

    def scales_of(self, name: str, within: tuple[str, ...] = ()) -> list[str]:
        """The scales at which an experiment has an edition, as far as its file can be read."""
        try:
            raw = self.read(self.path(name))
        except UserError:
            return []
        known = self.stems("scales")
        if (others := named_in(raw)) is None:
            return [scale for scale in known if find(raw, "scales", scale) is not MISSING]
        parts = [part for part in others if part not in within]
        of_parts = [self.scales_of(part, (*within, name)) for part in parts]
        return [scale for scale in known if all(scale in scales for scales in of_parts)] if of_parts else []

    def edition(self, name: str) -> Edition:
        """The experiment of that name, or the edition called EXPERIMENT-SCALE. UserError if there is neither."""
        experiments, scales = self.stems("experiments"), self.stems("scales")
        splits = [(name.removesuffix(f"-{scale}"), scale) for scale in scales if name.endswith(f"-{scale}")]
        splits = [(base, scale) for base, scale in splits if base in experiments]
        if name in experiments:
            before, _, suffix = name.rpartition(".")
            if before and suffix.lower() in OF_FILES:
                raise UserError(
                    f"{self.path(name)}: name = {name!r}: is what files of an experiment {before} are called "
                    f"({name}.md); rename the file"
                )
            for base, scale in splits:
                if scale in self.scales_of(base):
                    raise UserError(
                        f"{self.path(name)}: name = {name!r}: is the name of {base} at scale {scale} "
                        f"({self.path(base)}: scales); rename the file"
                    )
            path = self.path(name)
            return Edition(name, name, str(path), None, (Layer(f"{path}: ", self.read(path)),))
        if splits:
            return self._edition(name, *splits[0])
        if (other := self.path(name).with_suffix(".yml")).is_file():
            raise UserError(f"experiment = {name!r}: {other} must be called {self.path(name).name}")
        raise UserError(f"experiment = {name!r}: unknown{nearest(name, self.names())}")

    def _edition(self, name: str, base: str, scale: str) -> Edition:
        path, scale_path = self.path(base), self.configs / "scales" / f"{scale}.yaml"
        raw = self.read(path)
        raise_problems(type_problems(raw, str(path), base))
        if scale not in (named := self.scales_of(base)):
            key = next((key for key in ("parts", "alias") if key in raw), "scales")
            raise UserError(f"{path}: {key}: no edition at scale {scale!r} (there is: {', '.join(named) or 'none'})")
        layers = [Layer(f"{path}: ", raw)]
        if named_in(raw) is None:
            common = self.read(scale_path)
            if raw.get("evaluation") is None:  # a scale changes an evaluation, but does not give one
                common = {key: value for key, value in common.items() if key != "evaluation"}
            layers += [Layer(f"{scale_path}: ", common), Layer(f"{path}: scales.{scale}.", raw["scales"][scale] or {})]
        return Edition(name, base, str(path), self.entry(Scale, "scales", scale), tuple(layers))


def section_folder(configs: Path, section: str) -> Path:
    """The folder of a section. UserError if there is none: most likely, the command runs outside a clone."""
    folder = configs / section
    if not folder.is_dir():
        missing = folder if configs.is_dir() else configs
        raise UserError(f"{missing}: no such folder; run it in a clone of the repository or give --configs")
    return folder


def _schema_of(values: Mapping[str, Any]) -> type[Alias | Composite | Experiment]:
    """What a file of configs/experiments is, by its keys."""
    if "alias" in values:
        return Alias
    return Composite if "parts" in values else Experiment


def type_problems(values: Mapping[str, Any], where: str, name: str) -> list[str]:
    """What is wrong with the types of an experiment, composite or alias, a line each."""
    try:
        validate_named(_schema_of(values), values, name, where)
    except UserError as error:
        return str(error).splitlines()
    return []
