"""Where a method lies between random pruning (0) and the oracle (1), and whether these controls are apart at all.

The oracle knows which samples are good, the adversary does the opposite. An experiment in which neither differs from
random pruning cannot rank methods that choose samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, get_args

import polars as pl

from qtuning.statistics.answers import AnswerSet
from qtuning.statistics.summary import Summary
from qtuning.store.lines import RANDOM, Control, Line, control_at_budget


@dataclass(frozen=True)
class Gap:
    """How far a control is from random pruning, in the direction in which it should be.

    difference: in the metric's unit, positive where the oracle is better than random pruning, or the adversary worse.
    errors: the same in standard errors. significant: p < 5%, uncorrected, with two seeds or more, in that direction.
    """

    difference: float
    errors: float
    significant: bool


@dataclass(frozen=True)
class Controls:
    """The controls at one budget. columns: what identifies it: model, train_set, training, sample_ratio, token_ratio.

    oracle, adversary: their gaps from random pruning; None where there is no such comparison. There is one at least.
    """

    columns: dict[str, Any]
    oracle: Gap | None
    adversary: Gap | None

    @property
    def apart(self) -> bool:
        """Whether the experiment could rank methods here: every control that there is differs from random pruning."""
        return all(gap.significant for gap in (self.oracle, self.adversary) if gap is not None)


def controls_apart(summary: Summary, comparisons: pl.DataFrame) -> list[Controls]:
    """The controls of each budget of an experiment, on the average of the benchmarks; empty if it has none.

    comparisons: of `compare`, by any metric.
    """
    place = ["model", "train_set", "training", "sample_ratio", "token_ratio"]
    rows = comparisons.filter((pl.col("benchmark") == summary.overall) & (pl.col("against") == RANDOM))
    found: dict[tuple[Any, ...], dict[str, Gap]] = {}
    for row in rows.filter(pl.col("control").is_not_null() & pl.col("difference").is_not_null()).to_dicts():
        upwards = 1 if summary.metric.higher_is_better else -1
        difference = row["difference"] * (upwards if row["control"] == "oracle" else -upwards)
        error = standard_error(row)
        told = row["n_seeds"] > 1 and row["p"] < 0.05 and difference > 0
        gap = Gap(difference, difference / error if error else inf, told)
        found.setdefault(tuple(row[name] for name in place), {})[row["control"]] = gap
    return [
        Controls(dict(zip(place, key, strict=True)), gaps.get("oracle"), gaps.get("adversary"))
        for key, gaps in found.items()
    ]


def standard_error(row: Mapping[str, Any]) -> float:
    """Over seeds and items, of a row of `compare` that has a difference; with one seed over items alone."""
    return sqrt((row["seed_sd"] or 0.0) ** 2 / row["n_seeds"] + row["item_se"] ** 2)


def control_column(line: Line, lines: Sequence[Line]) -> Control | None:
    """Which control of its budget a line is."""
    names: tuple[Control, ...] = get_args(Control)
    return next((name for name in names if line == control_at_budget(line, lines, name)), None)


def position_columns(known: AnswerSet, line: Line, rival: Line, benchmark: str) -> dict[str, Any]:
    """The columns `position*` of a comparison with random pruning; none without an oracle at its budget."""
    oracle = control_at_budget(line, known.lines, "oracle")
    if oracle is None or line == oracle:
        return {}
    if (reason := known.unpaired(oracle, rival, benchmark)) is not None:
        return {"position_note": f"no position: the oracle: {reason}"}
    found = known.ratio(line, rival, oracle, benchmark)
    if found is None or (known.difference(oracle, rival, benchmark).mean > 0) != known.summary.metric.higher_is_better:
        return {"position_note": "no position: the oracle is not shown to be better than random pruning here"}
    position, low, high = found
    note = _towards_the_adversary(known, line, rival, benchmark) if position < 0 else None
    return {"position": position, "position_low": low, "position_high": high, "position_note": note}


def _towards_the_adversary(known: AnswerSet, line: Line, rival: Line, benchmark: str) -> str | None:
    """`37% of the way from random pruning to the adversary, 95% interval 10% to 66%`; None where that is not known."""
    adversary = control_at_budget(line, known.lines, "adversary")
    if adversary is None or adversary == line or known.unpaired(adversary, rival, benchmark) is not None:
        return None
    if (found := known.ratio(line, rival, adversary, benchmark)) is None:
        return None
    share, low, high = (f"{100 * value:.0f}%" for value in found)
    return f"{share} of the way from random pruning to the adversary, 95% interval {low} to {high}"
