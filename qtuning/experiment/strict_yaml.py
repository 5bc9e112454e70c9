"""Reads YAML as it is meant: plain values of few kinds, each with its spelling, in files of a sensible size.

YAML 1.1, which PyYAML reads, takes `no` for false, `010` for eight, `1:30` for ninety and `2024_11` for 202411. Here
only `true` and `false` are truth values, as in YAML 1.2, and numbers are decimal, if need be in groups (7_241_732_096).
Whether `2024` is a number or a name is decided by the key that has it (by_type.py): numbers remember how they were
written.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from qtuning.errors import UserError, one_line

MOST_BYTES, MOST_NODES, MOST_DEPTH = 2**20, 50_000, 40
"""Of a file, of the values in it with aliases written out, and of values inside values."""


class SpelledInt(int):
    """A whole number, and how the file spells it."""

    text: str


class SpelledFloat(float):
    """A number, and how the file spells it."""

    text: str


class _Loader(yaml.SafeLoader):
    """PyYAML's SafeLoader with other kinds of plain values, with limits, and without tags."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (as in PyYAML)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # of each node, in nodes; 0 while it is being read

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As PyYAML's, but counts."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _problem(f"tags are not read ({event.tag[:40].replace('tag:yaml.org,2002:', '!!')})", event)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _problem(f"more than {MOST_DEPTH} values inside each other", event)
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self._depth -= 1
        known = isinstance(event, yaml.AliasEvent)
        if known and id(node) not in self._sizes:
            raise _problem("an alias stands inside the value that it repeats", event)
        if not known:
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in parts for part in pair]
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in parts)
        if self._sizes[id(node)] > MOST_NODES:
            raise _problem(f"more than {MOST_NODES:,} values, aliases written out", event)
        return node

    def construct_scalar(self, node: Any) -> Any:
        """As PyYAML's, but refuses texts that cannot be stored or shown."""
        text = super().construct_scalar(node)  # type: ignore[no-untyped-call]
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _problem("half a surrogate pair, which is no character", node) from None
        if any(ord(character) < 32 and character not in "\n\t" for character in text):
            raise _problem("control characters", node)
        return text

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML's, but keys are texts as they are spelled, and one that is written twice is refused."""
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)  # type: ignore[no-any-return]
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key that is a list or a mapping", key)
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            key.tag = "tag:yaml.org,2002:str"
            if key.value in seen:
                raise _problem(f"key {key.value[:60]!r} is written twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def _problem(what: str, where: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, what, where.start_mark)


def _whole(loader: _Loader, node: Any) -> SpelledInt:
    text = loader.construct_scalar(node)
    number = SpelledInt(text)
    number.text = text
    return number


def _decimal(loader: _Loader, node: Any) -> SpelledFloat:
    text = loader.construct_scalar(node)
    number = SpelledFloat(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    number.text = text
    return number


_DECIMAL = r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
for _tag, _pattern, _first in (  # the first that fits
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", "~nN"),
    ("int", "[-+]?(?:0|[1-9][0-9]{0,300}|[1-9][0-9]{0,2}(?:_[0-9]{3})+)", "-+0123456789"),
    ("float", rf"{_DECIMAL}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.0123456789"),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), [*_first, ""])
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _decimal)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. UserError with file and line if it is not valid YAML, or holds anything else."""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UserError(f"{path}: has {size:,} bytes, more than any configuration; name the right file")
        value = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise UserError(f"{path}: {line}not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected keys and values at the top level, found {_kind(value)}")
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; yaml.YAMLError or RecursionError if it cannot be read."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()  # type: ignore[no-untyped-call]
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def _kind(value: Any) -> str:
    return {"SpelledInt": "int", "SpelledFloat": "float"}.get(name := type(value).__name__, name)
