"""What an experiment lists twice. It would change nothing, so most likely something else was meant."""

from collections.abc import Mapping, Sequence
from typing import Any

from qtuning.experiment.scales import Edition


def repeats(edition: Edition, axes: Mapping[str, Sequence[Any]]) -> list[str]:
    """A line for each entry of an axis that equals an earlier one.

    axes: by dotted key, the entries as they are understood, so that two spellings of one thing are equal.
    """
    problems = []
    for key, entries in axes.items():
        written: Any = edition.values
        for part in key.split("."):
            written = written.get(part) if isinstance(written, Mapping) else None
        origin = edition.origin(*key.split("."))
        for place, entry in enumerate(entries):
            if (first := entries.index(entry)) < place:
                what = f"{key}.{place} = {written[place]!r}"
                problems.append(f"{origin}{what}: is the same as {key}.{first}; leave it out")
    return problems
