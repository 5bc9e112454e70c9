"""What a row says of its options: those that differ from the defaults, and those that its experiment varies."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

from qtuning.errors import UserError
from qtuning.experiment.lookup import find_pruner
from qtuning.experiment.schema import Readings

Part = Literal["sample", "token", "method"]
"""Whose option it is: the sample pruner's, the token pruner's, or a reading that concerns both."""

PARTS: tuple[Part, ...] = ("sample", "token", "method")
NAMED = 2
"""An experiment that varies more options of one method than these has them named only where they differ."""

Options = dict[Part, dict[str, Any]]


def changed(sample_pruner: str, token_pruner: str, options: str) -> Options:
    """The options and readings (`options` of a row of the store) that differ from their defaults, by whose they are."""
    chosen, defaults = (
        json.loads(options),
        {
            "sample": _defaults(sample_pruner, "sample"),
            "token": _defaults(token_pruner, "token"),
            "method": _readings(),
        },
    )
    return {
        part: {
            key: value
            for key, value in chosen[part].items()
            if key not in defaults[part] or defaults[part][key] != value
        }
        for part in PARTS
    }


def variant(sample_pruner: str, token_pruner: str, options: str) -> str:
    """The same in one text: `lambda=0.3`, or empty."""
    return option_text(changed(sample_pruner, token_pruner, options).values())


def varied(lines: Iterable[tuple[str, str, str]]) -> tuple[tuple[Part, str], ...]:
    """What rows of one method, (sample pruner, token pruner, options) each, set differently from the defaults; nothing
    where that is more than `NAMED` options, which would drown the name of a row."""
    found = dict.fromkeys((part, key) for line in lines for part, values in changed(*line).items() for key in values)
    return tuple(found) if len(found) <= NAMED else ()


def shown(sample_pruner: str, token_pruner: str, options: str, named: Iterable[tuple[Part, str]] = ()) -> Options:
    """What differs from the defaults, and what is `named`, at whatever value."""
    found, chosen = changed(sample_pruner, token_pruner, options), json.loads(options)
    for part, key in named:
        if key in chosen[part]:
            found[part][key] = chosen[part][key]
    return found


def option_text(parts: Iterable[Mapping[str, Any]]) -> str:
    """`lambda=0.3, selection=global`, by name; options of two pruners may have one name."""
    pairs = sorted((key, _plain(value)) for values in parts for key, value in values.items())
    return ", ".join(f"{key}={value}" for key, value in pairs)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@cache
def _defaults(name: str, kind: Literal["sample", "token"]) -> dict[str, Any]:
    """Default values by the names a configuration uses; none of a plug-in that is not at hand where a store is drawn:
    what is not known to be a default is shown."""
    try:
        found: dict[str, Any] = find_pruner(name, kind).options().model_dump(mode="json", by_alias=True)
    except UserError:
        return {}
    return found


@cache
def _readings() -> dict[str, Any]:
    found: dict[str, Any] = Readings().model_dump(mode="json", by_alias=True)
    return found
