"""Average score against what it cost, scoring included, with the Pareto front."""

from collections.abc import Sequence
from math import log
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from qtuning.figures import curves
from qtuning.figures.marks import marks
from qtuning.figures.style import PAGE, Drawing, letter, panels, styled

MARGIN = (1.9, 1.3)
"""Room for labels left of the cheapest point and right of the dearest, as factors."""

FEW = 12
"""Up to so many points of a panel all have their budgets beside them."""

COSTS = (("flops", "FLOPs"), ("seconds", "Seconds"))


def front(cost: Sequence[float], score: Sequence[float]) -> list[int]:
    """Indices of the points that no other one beats, cheapest first.

    A point is beaten by one that costs no more and scores no less, and is better in one of the two. Of points equal in
    both, all stay.
    """
    pairs = list(zip(cost, score, strict=True))
    found = [
        index
        for index, (c, s) in enumerate(pairs)
        if not any(other[0] <= c and other[1] >= s and other != (c, s) for other in pairs)
    ]
    return sorted(found, key=lambda index: (cost[index], score[index], index))


def pareto(frame: pl.DataFrame) -> Drawing:
    """Score against FLOPs and against seconds, as shares of training on the full data, a row per train set and model.

    frame: `points` of an experiment. Where there is no full-data cell to compare with, the axes are absolute. The front
    is that of the means over seeds. In the data, `flops_front` and `seconds_front` say which points lie on it.
    """
    trained = frame.filter(pl.col("mean").is_not_null() & pl.col("flops").is_not_null())
    look = marks(trained)
    facets = curves.facets(trained)
    data = []
    with styled():
        figure, axes = panels(len(facets), 2, PAGE, 2.7 * len(facets) + 0.4 + 0.14 * -(-len(look) // 4), sharey="row")
        for row, place in enumerate(facets):
            part = curves.facet(trained, *place)
            relative = part["flops_share"].null_count() == 0
            for column, (cost, unit) in enumerate(COSTS):
                panel = axes[2 * row + column]
                x = [100 * value for value in part[f"{cost}_share"]] if relative else part[cost].to_list()
                best = front(x, part["mean"].to_list())
                part = part.with_columns(pl.Series(f"{cost}_front", [index in best for index in range(len(part))]))
                _axis(panel, x, f"{unit}, % of full data" if relative else unit)
                _scatter(panel, x, part, look)
                _front(panel, x, part, best, look)
                zero = curves.facet(frame, *place).filter(pl.col("method") == "zero-shot")
                curves.references(panel, zero)
                letter(panel, 2 * row + column, curves.facet_title(frame, *place) if len(facets) > 1 else "")
            axes[2 * row].set_ylabel(curves.score_label(frame))
            data.append(part)
        handles, labels = curves.once(axes)
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return Drawing(figure, pl.concat(data))


def _scatter(panel: Axes, x: Sequence[float], part: pl.DataFrame, look: dict[str, Any]) -> None:
    for index, row in enumerate(part.iter_rows(named=True)):
        mark = look[row["label"]]
        options = mark.options | {"linestyle": "none", "zorder": 4, "clip_on": False}
        if row["sd"]:
            panel.errorbar(x[index], row["mean"], yerr=row["sd"], elinewidth=0.5, label=row["label"], **options)
        else:
            panel.plot(x[index], row["mean"], label=row["label"], **options)


def _front(panel: Axes, x: Sequence[float], part: pl.DataFrame, best: Sequence[int], look: dict[str, Any]) -> None:
    """The front as a staircase, its points with their budget (or `full`) beside them; few points all have it."""
    score = part["mean"].to_list()
    panel.plot(
        [x[index] for index in best],
        [score[index] for index in best],
        drawstyle="steps-post",
        color="#444444",
        linewidth=0.8,
        zorder=2,
        label="Pareto front",
    )
    for index in _labelled(x, score, best, len(part) <= FEW):
        name = part["budget"][index] if part["method"][index] != "full" else "full"
        colour = look[part["label"][index]].colour
        above = index in best
        panel.annotate(
            name,
            (x[index], score[index]),
            (-3, 4) if above else (3, -4),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            fontsize=7,
            color=colour,
        )


def _labelled(x: Sequence[float], score: Sequence[float], best: Sequence[int], everything: bool) -> list[int]:
    """The points that get a label: of the front those whose labels do not meet, dearest first; or all there are."""
    if everything:
        return list(range(len(x)))
    low, high = min(x) / MARGIN[0], max(x) * MARGIN[1]
    chosen: list[int] = []
    for index in reversed(best):
        across = [abs(log(x[index] / x[other])) / log(high / low) for other in chosen]
        upwards = [abs(score[index] - score[other]) / (max(score) - min(score) or 1) for other in chosen]
        if all(a > 0.16 or u > 0.1 for a, u in zip(across, upwards, strict=True)):  # as shares of the panel
            chosen.append(index)
    return chosen


def _axis(panel: Axes, x: Sequence[float], label: str) -> None:
    """Logarithmic, from below the cheapest point to above the dearest, with its ticks written out."""
    panel.set_xscale("log")
    low, high = min(x), max(x)
    panel.set_xlim(low / MARGIN[0], high * MARGIN[1])
    panel.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.minorticks_off()
    panel.margins(y=0.1)
    panel.set_xlabel(f"{label}, scoring included (log scale)")
