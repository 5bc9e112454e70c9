"""Presets of Q-Tuning: sets of readings under one name, so that a table says what it ran (method.md, Ambiguities).

A preset is used wherever a method name is: `methods: [q-tuning-budget]`. Options that stand with it override it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """A set of readings. label: how tables call it. readings: those that are not the default, by their keys."""

    label: str
    readings: Mapping[str, str] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    # every default: Algorithm 1; where that is silent, the paper's text and figures, then the repository's history
    "q-tuning": Preset("Q-Tuning"),
    # meets the budget, except where Q4 alone holds more tokens, and is what this project ran before the second version
    # of the paper: A6, A7, A17
    "q-tuning-budget": Preset("Q-Tuning, budget", {"surplus": "trim", "counted": "response", "search": "tolerance"}),
    # the history of the authors' repository: A4, A7, A17; A6 is the default. Its A12 is of baselines: an experiment's
    # `readings: {passes: twice}` sets it for them
    "q-tuning-history": Preset(
        "Q-Tuning, history", {"entropy": "sequence", "counted": "sequence", "search": "tolerance"}
    ),
    # an implementation by others: A3, A5, A8, A10; A6 and A7 are the defaults
    "q-tuning-third-party": Preset(
        "Q-Tuning, third party",
        {"neighbours": "mean", "thresholds": "lean", "pruned_tokens": "remove", "supplement": "none"},
    ),
}


def preset_of(chosen: Mapping[str, object]) -> str:
    """The preset that a Q-Tuning with these options and readings is: of those it contains, the one of most readings."""
    fitting = (name for name, preset in PRESETS.items() if preset.readings.items() <= chosen.items())
    return max(fitting, key=lambda name: len(PRESETS[name].readings))
