"""Average score against what the training cost, scoring included, with the Pareto front."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.text import OffsetFrom
from matplotlib.ticker import FuncFormatter, LogLocator

from qtuning.experiment.metrics import METRICS
from qtuning.figures.captions import SPREAD
from qtuning.figures.marks import Look, assign_looks, describe_looks
from qtuning.figures.points import facets, pruned, score_label
from qtuning.figures.score_curves import describe_references, draw_references
from qtuning.figures.style import PAGE, Drawing, legend_below, letter, panels, styled
from qtuning.tables.by_cost import pareto_front

NAMED = 16
"""Most points of a front that are named: so many names have room above one another."""

COSTS = (("flops", "FLOPs"), ("seconds", "Seconds"))


@styled()
def draw_pareto(frame: pl.DataFrame) -> Drawing:
    """Score against FLOPs and against seconds, a row per train set and model.

    frame: `points` of an experiment. The axes are in per cent of what training on the full data costs in the mean over
    the seeds; absolute where that is not known. The front is that of the means (tables/by_cost.py). In the data,
    `flops_drawn` and `seconds_drawn` say where a point stands, `flops_front` and `seconds_front` whether it is on the
    front.
    """
    trained = frame.drop_nulls(["mean", "flops", "seconds"]).filter(pl.col("method") != "zero-shot")
    zero_shot = frame.filter(pl.col("method") == "zero-shot")
    looks, places, data = assign_looks(trained), facets(trained), []
    upwards = 1 if METRICS[frame["metric"][0]].higher_is_better else -1
    figure, axes = panels(len(places), 2, PAGE, 2.7 * len(places) + 0.4 + 0.14 * -(-len(looks) // 4), sharey="row")
    for row, (title, here) in enumerate(places):
        part = trained.filter(here)
        for index, (cost, unit) in enumerate(COSTS, start=2 * row):
            panel, whole = axes[index], _full_cost(part, cost)
            x = part[cost].to_list() if whole is None else [100 * value / whole for value in part[cost]]
            affordable = pl.when(~pl.col("control")).then(cost)
            front = pareto_front(part.select(affordable, upwards * pl.col("mean")).rows())
            part = part.with_columns(pl.Series(f"{cost}_drawn", x), pl.Series(f"{cost}_front", front))
            drawn = part.with_columns(x=f"{cost}_drawn")
            _dress(panel, drawn["x"], unit if whole is None else f"{unit}, % of full data")
            _draw_points(panel, drawn, looks)
            _draw_front(panel, drawn.filter(front).sort("x", maintain_order=True), looks)
            draw_references(panel, zero_shot.filter(here))
            if upwards < 0 and not panel.yaxis_inverted():  # panels of a row share the axis
                panel.invert_yaxis()
            letter(panel, index, title)
        axes[2 * row].set_ylabel(score_label(frame))
        data.append(part)
    legend_below(figure, axes, 4)
    return Drawing(figure, pl.concat(data), _text(frame))


def _text(frame: pl.DataFrame) -> str:
    scored = frame.drop_nulls(["mean", "flops"])
    unit = " in per cent of what training on the full data cost (absolute where that is not known)"
    return (
        "Average score against what training cost, scoring included: FLOPs and seconds"
        f"{unit if 'full' in scored['method'] else ''}. FLOPs are computed from shapes and tokens, the same on any "
        "machine; seconds are wall seconds of the machine that each cell ran on, beside whatever else ran there: a "
        "difference of less than a factor of two means little. The stairs join the trainings that no other beats "
        "in both score and cost, by their means, with their budgets; controls know what no method knows, and are left "
        f"out. {describe_looks(pruned(scored))} "
        f"{describe_references(frame.filter(pl.col('method') == 'zero-shot'))}{SPREAD}."
    )


def _full_cost(part: pl.DataFrame, cost: str) -> float | None:
    """The mean cost of the full data over the seeds; of several ways to train, that of the first. None if not known.

    part: points of one train set and model. One number for all of them, so that shares are in the order of the costs.
    """
    known = part.filter(pl.col("method") == "full")[cost].drop_nulls()
    return known[0] if len(known) and known[0] else None


def _draw_points(panel: Axes, part: pl.DataFrame, looks: Mapping[str, Look]) -> None:
    for row in part.iter_rows(named=True):
        options = looks[row["label"]].options | {"label": row["label"], "linestyle": "none", "zorder": 4}
        if row["sd"]:
            panel.errorbar(row["x"], row["mean"], yerr=row["sd"], elinewidth=0.5, clip_on=False, **options)
        else:
            panel.plot(row["x"], row["mean"], clip_on=False, **options)


def _draw_front(panel: Axes, front: pl.DataFrame, looks: Mapping[str, Look]) -> None:
    """The front as stairs, and the budgets of its points from the top left corner down, each with a line to its point.

    front: its points by rising cost, and so by rising score. The corner is free, since no point is cheaper and better
    than the front; and the names are in the order of the points, so that the lines hardly cross.
    """
    # neither clipped nor shrunk, which would make the ends depend on how a processor rounds
    line = {"arrowstyle": "-", "linewidth": 0.4, "relpos": (1.1, 0.5), "patchA": None, "shrinkA": 0, "shrinkB": 0}
    options: dict[str, Any] = {"color": "#444444", "linewidth": 0.8, "zorder": 2}
    panel.plot(front["x"], front["mean"], drawstyle="steps-post", label="Pareto front", **options)
    if front.filter(pl.col("method") != "full")["budget"].n_unique() < 2:
        return  # one budget names nothing
    for number, row in enumerate(front.reverse().head(NAMED).iter_rows(named=True)):
        colour = looks[row["label"]].colour
        panel.annotate(
            "full" if row["method"] == "full" else row["budget"],
            (row["x"], row["mean"]),
            (3, -2 - 9 * number),
            textcoords=OffsetFrom(panel, (0, 1)),
            va="top",
            color=colour,
            arrowprops=line | {"color": colour},
        )


def _dress(panel: Axes, x: pl.Series, label: str) -> None:
    """A logarithmic axis with its ticks written out, and with room for names left of the cheapest point."""
    panel.set_xscale("log")
    low, high = float(x.min()), float(x.max())  # type: ignore[arg-type]
    panel.set_xlim(low / max(1.9, (high / low) ** 0.35), high * 1.3)
    panel.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.minorticks_off()
    panel.margins(y=0.1)
    panel.set_xlabel(f"{label}, scoring included (log scale)")
