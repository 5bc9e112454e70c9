"""Checks the values of YAML files. Messages name the file, the user's own key, the value, and what is allowed."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from qtuning.errors import UserError, raise_problems
from qtuning.experiment.by_type import Wrong, by_type
from qtuning.experiment.places import belongs

MOST_LINES, MOST_NAMES = 30, 40
"""Problems that a message lists, and valid names; of more names, it lists those that are most alike."""
IN_WORDS = {
    "string_pattern_mismatch": "may hold letters, digits and . _ + - only, and begins with a letter or digit",
    "model_attributes_type": "must be keys with values, as in {kind: ...}",
    "model_type": "must be keys with values",
    "dict_type": "must be keys with values",
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list, in square brackets"),
}
"""What pydantic says in the words of programmers."""
ConfigEntry = TypeVar("ConfigEntry", bound=BaseModel)


def validate(schema: type[ConfigEntry], values: Any, where: str) -> ConfigEntry:
    """`values` in the form of `schema`; bytes are JSON text. UserError with a line for each problem, after `where`."""
    wrong: list[Wrong] = []
    try:
        if isinstance(values, bytes):
            return schema.model_validate_json(values)
        entry = schema.model_validate(by_type(schema, values, wrong))
        lines = []
    except ValidationError as error:
        lines = explain(error, where, schema)
    said = [f"{where}: {_key(each.keys)} = " for each in wrong]
    others = [line for line in lines if not line.startswith(tuple(said))]
    raise_problems(
        [f"{start}{_shown(each.value)}: {each.what}" for start, each in zip(said, wrong, strict=True)] + others
    )
    return entry


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
        keys, valid, kinds = _follow(schema, problem["loc"])
        key = _key(keys)
        said = IN_WORDS.get(problem["type"], problem["msg"])
        message = said.removeprefix("Value error, ").replace("Tuple", "List").replace("tuple", "list")
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: unknown key{belongs(keys[-1], schema) or nearest(keys[-1], valid)}")
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"{where}: {key}.kind: required, but not given ({', '.join(kinds)}; docs/data.md)")
        elif problem["type"] == "union_tag_invalid":
            given = problem["ctx"]
            lines.append(f"{where}: {key}.kind = {_shown(given['tag'])}: must be one of {given['expected_tags']}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: {key}: required, but not given")
        else:
            lines.append(f"{where}: {key} = {_shown(problem['input'])}: {message[0].lower()}{_cut(message[1:])}")
    more = [f"{where}: and {len(lines) - MOST_LINES} problems more"] if len(lines) > MOST_LINES else []
    return lines[:MOST_LINES] + more


def _key(keys: Iterable[str]) -> str:
    return ".".join(_cut(key, 60) for key in keys) or "(top level)"


def _shown(value: Any) -> str:
    """A value as a message shows it: on one line, and not the whole of a long one."""
    return _cut(repr(value))


def _cut(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _follow(schema: type[BaseModel], location: Iterable[str | int]) -> tuple[list[str], list[str], list[str]]:
    """(the user's own keys in a pydantic error location, the keys that are valid beside the last of them, the kinds
    that are valid for its value).

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
    tags = [get_args(m.model_fields["kind"].annotation) for m in _models_in(current) if "kind" in m.model_fields]
    return keys, valid, [kind for group in tags for kind in group]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that an annotation allows: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for member in get_args(annotation) for m in _models_in(member)]


def nearest(name: str, valid: Iterable[str]) -> str:
    """What a message about an unknown name ends with: `; did you mean gsm8k? (valid: gsm8k, math)`."""
    choices = list(valid)
    spelled = {choice.lower(): choice for choice in reversed(choices)}
    initials = {"".join(word[:1] for word in choice.split("_")): choice for choice in choices if "_" in choice}
    close = [spelled[each] for each in difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)]
    close = [initials[name.lower()]] if name.lower() in initials else close
    hint = f"; did you mean {close[0]}?" if close else ""
    shown = choices
    if len(choices) > MOST_NAMES:
        alike = difflib.get_close_matches(name.lower(), spelled, n=MOST_NAMES // 2, cutoff=0.3)
        shown = [*(spelled[each] for each in alike), "..."]
    return hint + (f" (valid: {', '.join(shown)})" if choices else "")
