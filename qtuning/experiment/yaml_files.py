"""Reads YAML strictly. Messages name the file, the user's own key, the value, and what is allowed."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from qtuning.errors import UserError

ConfigEntry = TypeVar("ConfigEntry", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key that is written twice; YAML would silently take the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                what = f"key {key!r} is written twice"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. UserError with file and line if it is not valid YAML, or holds anything else."""
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


def validate(schema: type[ConfigEntry], values: Any, where: str) -> ConfigEntry:
    """`values` in the form of `schema`; bytes are JSON text. UserError with a line for each problem, after `where`."""
    try:
        return schema.model_validate_json(values) if isinstance(values, bytes) else schema.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(explain(error, where, schema))) from None


def validate_named(schema: type[ConfigEntry], values: Mapping[str, Any], name: str, where: str) -> ConfigEntry:
    """`validate` for an entry with the name of its file; the file need not repeat the name."""
    entry = validate(schema, {"name": name} | dict(values), where)
    if (found := vars(entry)["name"]) != name:
        raise UserError(f"{where}: name = {found!r}: must equal the file's name, {name!r}")
    return entry


def explain(error: ValidationError, where: str, schema: type[BaseModel]) -> list[str]:
    """A line for each problem: file, key, value, what is allowed."""
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
    """(the user's own keys in a pydantic error location, the keys that are valid beside the last of them).

    pydantic adds the tag of the chosen member of a union (`hub` in source.hub.revison), which is no key of the user's.
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
        if get_origin(current) is dict:  # the keys are names of the user's own
            valid, current = [], get_args(current)[1]
            continue
        fields = {f.alias or name: f.annotation for m in models[:1] for name, f in m.model_fields.items()}
        valid = list(fields)
        current = get_args(current)[0] if isinstance(part, int) and get_args(current) else fields.get(str(part))
    return keys, valid


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that an annotation allows: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for member in get_args(annotation) for m in _models_in(member)]


def nearest(name: str, valid: Iterable[str]) -> str:
    """What a message about an unknown name ends with: `; did you mean gsm8k? (valid: gsm8k, math)`."""
    choices = list(valid)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    listing = f" (valid: {', '.join(choices)})" if choices else ""
    return f"{hint}{listing}"
