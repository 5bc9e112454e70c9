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
    # meets the budget exactly: A6, A7
    "q-tuning-budget": Preset("Q-Tuning, budget", {"surplus": "trim", "counted": "response"}),
    # what the history of the authors' repository does: A4, A7, A12; A6 is the default
    "q-tuning-history": Preset("Q-Tuning, history", {"entropy": "sequence", "counted": "sequence", "passes": "twice"}),
    # what an implementation by others does: A3, A5, A8, A10; A6 and A7 are the defaults
    "q-tuning-third-party": Preset(
        "Q-Tuning, third party",
        {"neighbours": "mean", "thresholds": "lean", "pruned_tokens": "remove", "supplement": "none"},
    ),
}

OF_BASELINES = ("updates", "passes")
"""Readings of pruners that draw by epoch: A11, A12. They have no effect on Q-Tuning; `readings` of an experiment sets
them for its baselines."""


def preset_of(chosen: Mapping[str, object]) -> str:
    """The preset that a Q-Tuning with these options and readings is: of those it contains, the one of most readings."""
    sets = {
        name: {key: reading for key, reading in preset.readings.items() if key not in OF_BASELINES}
        for name, preset in PRESETS.items()
    }
    return max((name for name in sets if sets[name].items() <= chosen.items()), key=lambda name: len(sets[name]))
