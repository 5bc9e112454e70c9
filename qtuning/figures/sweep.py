"""One setting of Q-Tuning varied at several budgets: the two halves of figure 5 share this drawing."""

import re
from collections.abc import Sequence
from typing import Any

import polars as pl

from qtuning.figures import curves
from qtuning.figures.marks import Mark
from qtuning.figures.style import (
    BLUE,
    COLUMN,
    GREEN,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILLION,
    Drawing,
    legend_below,
    letter,
    panels,
)
from qtuning.figures.style import styled as _styled

LOOKS = (
    Mark(VERMILLION, "o", "-", 1.2),
    Mark(BLUE, "s", (0, (4, 1.5)), 1.2),
    Mark(GREEN, "^", (0, (4, 1.2, 1, 1.2)), 1.2),
    Mark(ORANGE, "D", (0, (1, 1.2)), 1.2),
    Mark(PURPLE, "v", (0, (4, 1, 1, 1, 1, 1)), 1.2),
    Mark(SKY, "P", (0, (2, 1)), 1.2),
)
"""Looks of budgets."""

FULL = Mark("#444444", "x", (0, (6, 2)), 0.9)


def plain(frame: pl.DataFrame, but: str = "") -> pl.DataFrame:
    """The points of Q-Tuning whose options are at their defaults, all or all `but` one; however they are trained."""
    options = [
        text.removeprefix(training).removeprefix(", ")
        for text, training in frame.select("variant", "training").iter_rows()
    ]
    default = [re.fullmatch(f"({but}=[^,]+)?" if but else "", text) is not None for text in options]
    return frame.filter(pl.Series(default, dtype=pl.Boolean) & (pl.col("method") == "q-tuning"))


def sweep(frame: pl.DataFrame, everything: pl.DataFrame, column: str, label: str, log: bool = False) -> Drawing:
    """Average score against `column`, a curve per budget, a panel per train set and model.

    frame: the points to draw; everything: all points of the experiment, for the lines of full data and zero-shot.
    log: a logarithmic axis of base 2. The axis has a tick at each value that was run, and at no other.
    """
    facets = curves.facets(frame)
    columns = min(2, len(facets))
    rows = -(-len(facets) // columns)
    names = list(frame["budget"].unique(maintain_order=True))
    with _styled():
        figure, axes = panels(rows, columns, PAGE if columns > 1 else COLUMN, 2.3 * rows + 0.5)
        for index, (panel, place) in enumerate(zip(axes, facets, strict=False)):
            part = curves.facet(frame, *place)
            whole = curves.facet(everything, *place).filter((pl.col("method") == "full") & pl.col(column).is_not_null())
            drawn = pl.concat([part, whole])
            curves.references(panel, curves.facet(everything, *place), curves.span(drawn))
            if len(whole):
                whole = whole.sort(column)
                curves.curve(panel, whole[column].to_list(), whole, "Full data", FULL)
            for number, name in enumerate(names):
                line = part.filter(pl.col("budget") == name).sort(column)
                if len(line):
                    curves.curve(panel, line[column].to_list(), line, name, LOOKS[number % len(LOOKS)])
            curves.holes(panel, part.filter(pl.col("mean").is_null())[column])
            _axis(panel, sorted(part[column].unique()), log)
            panel.margins(x=0.06, y=curves.MARGIN)
            panel.set_xlabel(label)
            if index % columns == 0:
                panel.set_ylabel(curves.score_label(frame))
            if len(facets) > 1:
                letter(panel, index, curves.facet_title(frame, *place))
        for panel in axes[len(facets) :]:
            panel.remove()
        handles, labels = curves.once(axes[: len(facets)])
        legend_below(figure, handles, labels, 3)
    lines = everything.filter(pl.col("method").is_in(["full", "zero-shot"]))
    return Drawing(figure, pl.concat([frame, lines]))


def _axis(panel: Any, values: Sequence[float], log: bool) -> None:
    if log:
        panel.set_xscale("log", base=2)
    panel.set_xticks(list(values), [f"{value:g}" for value in values])
    panel.minorticks_off()
