"""Average score against what it cost, scoring included, with the Pareto front."""

from collections.abc import Sequence
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from qtuning.figures import curves
from qtuning.figures.labels import Label, beside
from qtuning.figures.marks import marks
from qtuning.figures.style import PAGE, Drawing, legend_below, letter, panels, styled
from qtuning.tables.pareto import front_of

MARGIN = (1.9, 1.3)
"""Room for labels left of the cheapest point and right of the dearest, as factors."""

FEW = 12
"""Up to so many points of a panel all have their budgets beside them, where there is room."""

COSTS = (("flops", "FLOPs"), ("seconds", "Seconds"))


def pareto(frame: pl.DataFrame) -> Drawing:
    """Score against FLOPs and against seconds, a row per train set and model.

    frame: `points` of an experiment. The axes are in per cent of what training on the full data costs in the mean over
    the seeds; absolute where that is not known. The front is that of the means (results/pareto.py). In the data,
    `flops_drawn`, `seconds_drawn` say where a point stands, and `flops_front`, `seconds_front` whether on the front.
    """
    trained = frame.drop_nulls(["mean", "flops", "seconds"]).filter(pl.col("method") != "zero-shot")
    look = marks(trained)
    facets = curves.facets(trained)
    data = []
    named: list[tuple[Axes, list[Label], list[tuple[float, float]]]] = []
    with styled():
        figure, axes = panels(len(facets), 2, PAGE, 2.7 * len(facets) + 0.4 + 0.14 * -(-len(look) // 4), sharey="row")
        for row, place in enumerate(facets):
            part = curves.facet(trained, *place)
            for column, (cost, unit) in enumerate(COSTS):
                panel = axes[2 * row + column]
                whole = full_cost(part, cost)
                x = [value if whole is None else 100 * value / whole for value in part[cost]]
                front = front_of(part[cost].to_list(), part["mean"].to_list())
                part = part.with_columns(pl.Series(f"{cost}_drawn", x), pl.Series(f"{cost}_front", front))
                best = sorted((index for index, on in enumerate(front) if on), key=x.__getitem__)
                _axis(panel, x, unit if whole is None else f"{unit}, % of full data")
                _scatter(panel, x, part, look)
                _front(panel, x, part, best)
                named.append((panel, _names(part, x, look, cost), list(zip(x, part["mean"].to_list(), strict=True))))
                zero = curves.facet(frame, *place).filter(pl.col("method") == "zero-shot")
                curves.references(panel, zero)
                letter(panel, 2 * row + column, curves.facet_title(frame, *place) if len(facets) > 1 else "")
            axes[2 * row].set_ylabel(curves.score_label(frame))
            data.append(part)
        handles, labels = curves.once(axes)
        legend_below(figure, handles, labels, 4)
        for panel, names, places in named:
            beside(panel, names, places)
    return Drawing(figure, pl.concat(data))


def full_cost(part: pl.DataFrame, cost: str) -> float | None:
    """What the full data cost in the mean over the seeds; of several ways to train, the first. None if not known.

    part: points of one train set and model. One number for all of them, so that shares are in the order of the costs.
    """
    known = part.filter(pl.col("method") == "full")[cost].drop_nulls()
    return known[0] if len(known) and known[0] else None


def _scatter(panel: Axes, x: Sequence[float], part: pl.DataFrame, look: dict[str, Any]) -> None:
    for index, row in enumerate(part.iter_rows(named=True)):
        mark = look[row["label"]]
        options = mark.options | {"linestyle": "none", "zorder": 4, "clip_on": False}
        if row["sd"]:
            panel.errorbar(x[index], row["mean"], yerr=row["sd"], elinewidth=0.5, label=row["label"], **options)
        else:
            panel.plot(x[index], row["mean"], label=row["label"], **options)


def _front(panel: Axes, x: Sequence[float], part: pl.DataFrame, best: Sequence[int]) -> None:
    """The front as a staircase."""
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


def _names(part: pl.DataFrame, x: Sequence[float], look: dict[str, Any], cost: str) -> list[Label]:
    """Budgets (or `full`) of the front, the dearest first; where points are few, then those of the others."""
    labels = [
        Label(
            x[index],
            row["mean"],
            row["budget"] if row["method"] != "full" else "full",
            look[row["label"]].colour,
        )
        for index, row in enumerate(part.iter_rows(named=True))
    ]
    front = part[f"{cost}_front"].to_list()
    order = sorted(range(len(x)), key=lambda index: (not front[index], -x[index]))
    return [labels[index] for index in order if front[index] or len(part) <= FEW]


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
