"""Where a known key belongs, for messages about keys that are written at another level or in another file."""

from collections.abc import Iterator
from functools import cache
from typing import get_args, get_origin

from pydantic import BaseModel

from qtuning.experiment.auxiliary import Influence
from qtuning.experiment.cell import Model, Readings, Scoring, TrainSet
from qtuning.experiment.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS
from qtuning.experiment.schema import Experiment

FILES: dict[type[BaseModel], str] = {
    Experiment: "configs/experiments",
    Model: "configs/models",
    TrainSet: "configs/train_sets",
}
"""Where the files of each kind are."""


def belongs(key: str, schema: type[BaseModel], *, in_options: bool = False) -> str:
    """What a message about an unknown key says of where it is known: `; write training.learning_rate`, or nothing.

    schema: of what the user wrote. in_options: the key stands among the options of a method, where it is unknown.
    Options of pruners of one's own are not known here.
    """
    found = [path if "." in path else f"{path} at the top level" for path in _known(key, schema)]
    takes_options = not in_options and {"methods", "options"} & schema.model_fields.keys()
    for option in _options().get(key, ()) if takes_options else ():
        found.append(f"it among the options of a method, {{method: NAME, options: {option}}}")
    if not found and schema in FILES:
        found = [f"{path} in a file of {folder}" for other, folder in FILES.items() for path in _known(key, other)]
    return f"; write {' or '.join(dict.fromkeys(found))}" if found else ""


def _known(key: str, schema: type[BaseModel]) -> list[str]:
    return [path for path in _paths(schema) if path.rpartition(".")[2] == key]


@cache
def _paths(schema: type[BaseModel]) -> list[str]:
    """The dotted keys of a file at every level, but for entries of lists and of mappings with keys of the user's."""
    return list(_walk(schema, ""))


def _walk(schema: type[BaseModel], before: str) -> Iterator[str]:
    for name, field in schema.model_fields.items():
        key = f"{before}{field.alias or name}"
        yield key
        if get_origin(field.annotation) not in (tuple, list, dict):
            for inner in _models(field.annotation):
                yield from _walk(inner, f"{key}.")


def _models(annotation: object) -> list[type[BaseModel]]:
    """The pydantic models that an annotation allows: itself, or the members of a union."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for member in get_args(annotation) for model in _models(member)]


@cache
def _options() -> dict[str, list[str]]:
    """key -> how it is written among the options of a method."""
    pruners = (*SAMPLE_PRUNERS.values(), *TOKEN_PRUNERS.values())
    own = [field.alias or name for info in pruners for name, field in info.options.model_fields.items()]
    plain = [*own, *Readings.model_fields, "reference", "proxy", "scoring", "influence", "of"]
    found = {key: [f"{{{key}: ...}}"] for key in plain}
    for option, schema in (("scoring", Scoring), ("influence", Influence)):
        for key in schema.model_fields:
            found.setdefault(key, []).append(f"{{{option}: {{{key}: ...}}}}")
    return found
