"""Takes the values of a YAML file for what their keys say: a name that looks like a number stays a name.

pydantic would take `true` for the number 1, and the text "010" for the number 10.
"""

import types
from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

TRUTH = {**dict.fromkeys(("yes", "on", "true"), True), **dict.fromkeys(("no", "off", "false"), False)}
NOTHING = ("no", "none")
"""How keys with named values call that there is none of what they name."""


class Wrong:
    """A value that its key cannot have. what: for a message, behind the value."""

    def __init__(self, keys: tuple[str, ...], value: Any, what: str) -> None:
        self.keys, self.value, self.what = keys, value, what


def by_type(annotation: Any, value: Any, wrong: list[Wrong], keys: tuple[str, ...] = ()) -> Any:
    """The value as the annotation of its key wants it. Values that it cannot have stay, and are put into `wrong`."""
    kinds = _kinds(annotation)
    if isinstance(value, Mapping):
        return _mapping(kinds, value, wrong, keys)
    if isinstance(value, list):
        return [by_type(kind, v, wrong, (*keys, str(i))) for i, (kind, v) in enumerate(_entries(kinds, value))]
    literals = [text for kind in kinds if get_origin(kind) is Literal for text in get_args(kind)]
    numeric = bool({int, float} & set(kinds)) or any(type(literal) is int for literal in literals)
    named = str in kinds or any(isinstance(literal, str) for literal in literals)
    plain = _plain(value)
    nothing = next((text for text in literals if text in NOTHING), None)
    word = "none" if value is None else str(value).lower()
    if nothing is not None and (word in NOTHING or TRUTH.get(word) is False):
        return nothing
    if Any in kinds or value is None:
        return plain
    if isinstance(value, bool):
        if bool not in kinds and not named:
            wrong.append(
                Wrong(keys, value, "is a truth value; write " + ("a number" if numeric else "what the key takes"))
            )
    elif isinstance(value, int | float):
        if named and not numeric:
            return getattr(value, "text", plain)
        if bool in kinds and not numeric:
            wrong.append(Wrong(keys, plain, "is a number; write true or false"))
    elif isinstance(value, str) and not named:
        if bool in kinds and not numeric and value.lower() in TRUTH:
            return TRUTH[value.lower()]
        if numeric:
            wrong.append(Wrong(keys, value, f"is no number; {_how_to_write(value)}"))
        elif bool in kinds:
            wrong.append(Wrong(keys, value, "is no truth value; write true or false"))
    return plain


def _entries(kinds: list[Any], values: list[Any]) -> Iterator[tuple[Any, Any]]:
    """The entries of a list, each with its annotation."""
    arguments = next((get_args(kind) for kind in kinds if get_origin(kind) in (tuple, list)), (Any, ...))
    each = Ellipsis in arguments or len(arguments) != len(values)  # tuple[X, ...] and list[X], or tuple[X, Y]
    return zip(repeat(arguments[0]) if each else arguments, values, strict=False)


def _plain(value: Any) -> Any:
    """A value without its spelling."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return int(value) if isinstance(value, int) else float(value)


def _how_to_write(value: str) -> str:
    if value.strip().lstrip("+-")[:1].isdigit():
        return "write plain decimal digits, without quotes, leading zeros or colons"
    return "write one"


def _mapping(kinds: list[Any], value: Mapping[str, Any], wrong: list[Wrong], keys: tuple[str, ...]) -> dict[str, Any]:
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if len(models) > 1:  # told apart by `kind`, where they are written in a file
        of_kind = [m for m in models if "kind" in m.model_fields and value.get("kind") in _tags(m)]
        models = of_kind or [m for m in models if set(value) <= _fields(m).keys()] or models
    containers = [get_args(kind) for kind in kinds if get_origin(kind) in (dict, Mapping)]
    found = {}
    for key, entry in value.items():
        annotation: Any = Any
        if models:
            annotation = _fields(models[0]).get(key, Any)
        elif containers:
            annotation = containers[0][1]
        found[key] = by_type(annotation, entry, wrong, (*keys, str(key)))
    return found


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """key -> annotation, by the names and aliases of the fields."""
    return {name: field.annotation for key, field in model.model_fields.items() for name in (key, field.alias or key)}


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation)


def _kinds(annotation: Any) -> list[Any]:
    """What an annotation allows: members of unions, without what `Annotated` says about them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in _kinds(member)]
    return [annotation]
