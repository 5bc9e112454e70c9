"""Intervals of our own figures, one at a time: those of `compare` and `score_intervals`, over seeds and items.

A relative change 100 d / b has none of its own there. Its range is that of the quotients of the two intervals, of the
difference d and of the other score b, each at 97.5%: both hold at once in at least 95% of the cases (Bonferroni).
"""

from collections.abc import Callable, Sequence

from qtuning.errors import UserError
from qtuning.statistics.answers import World, worlds
from qtuning.statistics.compare import difference_interval, score_interval
from qtuning.store.store import Store
from qtuning.tables.summary import Line

CONFIDENCE = 0.95
LABEL = "95% interval over seeds and items"

Find = Callable[[], World]
"""Gives the answers of one model on one train set of an experiment. UserError where they cannot be had."""


class Intervals:
    """The answers of a store, item by item; an experiment is read when a figure of it is first asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[tuple[str, tuple[str, ...] | None], dict[tuple[str, str], World]] = {}

    def world(self, experiment: str, model: str, train_set: str, benchmarks: Sequence[str] | None = None) -> World:
        """benchmarks: those that an average is taken over; None: all of the experiment's.

        Raises UserError where the store has no such answers, or its tables could not be drawn.
        """
        key = experiment, None if benchmarks is None else tuple(benchmarks)
        if key not in self._read:
            found = worlds(self._store, experiment, benchmarks)
            self._read[key] = {(world.model, world.train_set): world for world in found}
        if (model, train_set) not in self._read[key]:
            raise UserError(f"{experiment}: no lines of {model} on {train_set}")
        return self._read[key][model, train_set]


def bounds(how: str, world: World, line: Line, benchmark: str, rival: Line | None) -> tuple[float, float] | str:
    """The 95% interval of a line's score, or of its change from `rival` (`relative`: in per cent of its score); or why
    there is none. An interval that is cut off at both ends of what is possible says nothing, and is none."""
    reason = world.hole(line, benchmark) if rival is None else world.unpaired(line, rival, benchmark)
    if reason is not None:
        return reason
    if rival is None:
        low, high = score_interval(world, line, benchmark, CONFIDENCE)
        return "it would be all of 0 to 100" if (low, high) == (0, 100) else (low, high)
    if how != "relative":
        low, high = difference_interval(world, line, rival, benchmark, CONFIDENCE)
        return "it would be all of -100 to 100" if (low, high) == (-100, 100) else (low, high)
    each = (1 + CONFIDENCE) / 2
    difference = difference_interval(world, line, rival, benchmark, each)
    low, high = score_interval(world, rival, benchmark, each)
    if low <= 0:
        return f"the score that it is relative to, {rival.method}, cannot be told from zero"
    quotients = [100 * d / b for d in difference for b in (low, high)]
    return max(min(quotients), -100.0), max(quotients)
