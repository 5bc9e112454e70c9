"""Columns that say which quadrants lose samples and tokens, where lines of an experiment differ in that.

Tables 4 and 15 of the paper have such columns (method.md, Stage 1). In labels of methods the two options would drown
the rest.
"""

import json
from collections.abc import Iterable
from dataclasses import replace

from qtuning.store.lines import Line, changed_options
from qtuning.tables.page import Column

DROPS, PRUNES = ("sample", "drop_in"), ("token", "prune_in")
HEADERS = ("Samples lost in", "Tokens lost in")


def quadrant_columns(lines: Iterable[Line]) -> list[Column]:
    """The two columns; none where every line loses samples and tokens where Q-Tuning by default does."""
    changed = (
        changed_options(line.method, line.sample_pruner, line.token_pruner, line.options)
        for line in lines
        if line.options
    )
    if any(key in options[part] for options in changed for part, key in (DROPS, PRUNES)):  # type: ignore[index]
        return [Column(header, words=True) for header in HEADERS]
    return []


def quadrant_fields(line: Line) -> tuple[str, str]:
    """`Q1, Q3` and `Q2`; `none` where nothing is lost; a dash for pruners that know no quadrants."""
    chosen = json.loads(line.options) if line.options else {"sample": {}, "token": {}}
    samples, tokens = (chosen[part].get(key) for part, key in (DROPS, PRUNES))
    if samples is not None and (line.token_pruner == "none" or line.token_ratio == 1):
        tokens = "none"
    return tuple("–" if found is None else found.replace("+", ", ") for found in (samples, tokens))  # type: ignore[return-value]


def without_quadrants(line: Line) -> Line:
    """The line without the two options, which have columns of their own."""
    if not line.options:
        return line
    chosen = json.loads(line.options)
    for part, key in (DROPS, PRUNES):
        chosen[part].pop(key, None)
    return replace(line, options=json.dumps(chosen))
