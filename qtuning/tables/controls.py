"""Controls in tables: the first line of a page, and the column that says where methods lie between them.

The oracle knows which samples are good, the adversary does the opposite (docs/pruners.md). Where they do not differ
from random pruning, no table can rank methods that choose samples.
"""

import json
from collections.abc import Sequence
from math import isinf
from typing import Any

import polars as pl

from qtuning.statistics.position import Controls, control_column, controls_apart
from qtuning.statistics.summary import Summary
from qtuning.store.lines import RANDOM, Line, control_at_budget, random_at_budget
from qtuning.tables.labels import percent
from qtuning.tables.page import Footnotes

NONE = "No controls: nothing shows whether this experiment could rank methods; add oracle and adversary to its methods."
UNKNOWN = "It is not known whether this experiment can rank methods: oracle, adversary or random pruning is missing."
POSITION = (
    "Position of the average: 0% is random + random pruning at the same budget, 100% the oracle there, which knows "
    "which samples are good; below 0%: worse than random pruning. In brackets its 95% interval over seeds and items "
    "(docs/statistics.md)."
)
LINE_KEY = ("train_set", "model", "method", "options", "training", "sample_ratio", "token_ratio")
"""Columns that identify a line with a model among comparisons."""


def controls_line(summary: Summary, comparisons: pl.DataFrame | None) -> str:
    """Whether the controls of an experiment are apart, at every budget that has them, on the average of the benchmarks.

    They are where the oracle is better than random pruning and the adversary worse, each with an interval that leaves
    out zero. Empty without comparisons, and for an experiment that asks no questions of the mini world and names no
    controls. comparisons: rows of `statistics.compare.compare`.
    """
    if comparisons is None:
        return ""
    if not any(control_column(line, summary.lines) for line in summary.lines if not line.reference):
        configs = summary.scores["evaluation_config"].drop_nulls().unique()
        in_mini_world = any(json.loads(text).get("source") == "mini-world" for text in configs)
        return NONE if in_mini_world and any(not line.reference for line in summary.lines) else ""
    found = controls_apart(summary, comparisons)
    if not found:
        return UNKNOWN
    apart = [_told(controls, summary, comparisons) for controls in found if controls.apart]
    mixed = [_told(controls, summary, comparisons) for controls in found if not controls.apart]
    if not mixed:
        return f"Controls are apart: {'; '.join(apart)}."
    seeds = summary.scores["seed"].drop_nulls().n_unique()
    which = " at every budget" if apart else ""
    why = ", and one seed cannot show it" if seeds == 1 else ""
    found_good = all(controls.oracle is not None and controls.oracle.significant for controls in found)
    subject = "cannot rank methods"
    if found_good and seeds > 1:  # then only the adversary is not told from random pruning
        subject = "can see a better selection than a random one, but cannot rank methods below it"
    text = f"This experiment {subject}{which}: its controls are not apart{why} ({'; '.join(mixed)})."
    return f"{text} They are apart {'; '.join(apart)}." if apart else text


def _told(controls: Controls, summary: Summary, comparisons: pl.DataFrame) -> str:
    """`at 25x50 oracle - random +12.0 [9.8, 14.2], random - adversary +9.5 [7.1, 11.9]`; better is positive."""
    place = controls.columns
    here = pl.all_horizontal(pl.col(name) == value for name, value in place.items())
    rows = comparisons.filter(here & (pl.col("benchmark") == summary.overall) & (pl.col("against") == RANDOM))
    points = summary.metric.scale == 100
    form, unit = ("+.1f", "") if points else (f"+.{summary.metric.decimals}f", f" {summary.metric.unit}")
    parts = []
    for name in ("oracle", "adversary"):
        row = next(iter(rows.filter(pl.col("control") == name).to_dicts()), None)
        if row is None or row["difference"] is None:
            parts.append(f"no {name}")
            continue
        ahead = (name == "oracle") == summary.metric.higher_is_better
        low, high = (row["low"], row["high"]) if ahead else (-row["high"], -row["low"])
        pair = f"{name} - random" if ahead else f"random - {name}"
        difference = row["difference"] if ahead else -row["difference"]
        parts.append(f"{pair} {difference:{form}} [{low:{form[1:]}}, {high:{form[1:]}}]{unit}")
    names = [summary.models[place["model"]]] if len(summary.models) > 1 else []
    names += [summary.train_sets[place["train_set"]]] if len(summary.train_sets) > 1 else []
    names += [place["training"]] if place["training"] else []
    budget = f"{percent(place['sample_ratio'])[:-1]}x{percent(place['token_ratio'])[:-1]}"
    return f"at {budget}{f' ({chr(44).join(names)})' if names else ''} {', '.join(parts)}"


class Positions:
    """The column of positions, by model; absent where no budget has a position."""

    def __init__(self, summary: Summary, comparisons: pl.DataFrame | None) -> None:
        self.lines: Sequence[Line] = summary.lines
        self.rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        if comparisons is not None:
            chosen = comparisons.filter((pl.col("against") == RANDOM) & (pl.col("benchmark") == summary.overall))
            for row in chosen.to_dicts():
                self.rows[tuple(row[name] for name in LINE_KEY)] = row
        self.models = {row["model"] for row in self.rows.values() if row["position"] is not None}

    def of(self, line: Line, model: str, footnotes: Footnotes) -> str:
        """`45% [20%, 71%]`, or why there is none; empty at a budget without an oracle."""
        oracle = control_at_budget(line, self.lines, "oracle")
        if oracle is None:
            return ""
        if line in (oracle, random_at_budget(line, self.lines)):
            return "100%" if line == oracle else "0%"
        columns = line.columns() | {"model": model}
        row = self.rows.get(tuple(columns[name] for name in LINE_KEY))
        if row is None:
            return "–"
        note = footnotes.mark(_sentence(row["position_note"])) if row["position_note"] else ""
        if row["position"] is None:
            return f"–{note}"
        low, high = (_share(row[name]) for name in ("position_low", "position_high"))
        return f"{_share(row['position'])} [{low}, {high}]{note}"


def _share(value: float) -> str:
    if isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{100 * value + 0:.0f}%".replace("-0%", "0%")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
