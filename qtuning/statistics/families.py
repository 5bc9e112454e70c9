"""Which comparisons an experiment is made for, and the corrections for their number.

The primary ones are one family an experiment, over all its models and train sets: Holm's correction bounds the
probability of any false mark among them. All others are exploratory, another family: Benjamini and Hochberg's bounds
the share of false ones among those that are marked.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from qtuning.experiment.registry import NAMED_METHODS
from qtuning.experiment.schema import Primary
from qtuning.statistics.estimate import Array
from qtuning.store.lines import RANDOM, Line

PRIMARY, EXPLORATORY = "primary", "exploratory"
ERROR = 0.05
"""Of a family: the family-wise error rate of primary comparisons, the false discovery rate of exploratory ones."""


def primary_pairs(lines: Sequence[Line], primary: Primary) -> list[tuple[Line, str]]:
    """The primary comparisons among all lines of an experiment: (line, method that it is compared with).

    Where the experiment names no pairs: every line whose method has a name of its own, such as `q-tuning`, with random
    pruning; without such a line, every pruned one. Controls are never primary then.
    """
    if primary.comparisons:
        return [(line, rival) for method, rival in primary.comparisons for line in lines if line.method == method]
    pruned = [line for line in lines if not line.reference and not line.control]
    named = [line for line in pruned if line.method in NAMED_METHODS]
    return [(line, RANDOM) for line in named or pruned]


def correct_families(rows: Sequence[dict[str, Any]]) -> None:
    """Adds `p_adjusted` and `significant` to the rows that have a `p`, by their `family`.

    A comparison that cannot be made counts in its family as one that shows nothing, so that filling a hole never takes
    a mark away from the others. With one seed nothing is significant.
    """
    from scipy.stats import false_discovery_control

    for family in (PRIMARY, EXPLORATORY):
        members = [row for row in rows if row.get("family") == family]
        p = np.array([row.get("p", 1.0) for row in members])
        adjusted = holm(p) if family == PRIMARY or not len(p) else false_discovery_control(p)
        for row, corrected in zip(members, adjusted, strict=True):
            if "p" in row:
                row["p_adjusted"] = float(corrected)
                row["significant"] = bool(corrected < ERROR) if row["n_seeds"] > 1 else None


def holm(p: Array) -> Array:
    """Holm's step-down adjustment (Holm 1979): p values that may be compared with the family-wise error rate."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]), 1.0)
    return adjusted
