"""How trainings go, over their updates: loss, kept tokens, and the quadrants and thresholds of Q-Tuning."""

from collections.abc import Sequence
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from qtuning.experiment.quadrants import LEAST_SHARE
from qtuning.figures.marks import assign_looks
from qtuning.figures.style import (
    BLACK,
    BLUE,
    PAGE,
    QUADRANT_COLOUR,
    QUADRANT_DASHES,
    VERMILLION,
    Drawing,
    legend_below,
    letter,
    panels,
    styled,
)


def over_seeds(steps: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Mean, lowest and highest over the cells at each `update` that all of them have.

    steps: rows of steps.parquet of cells that differ in their seeds only. Column `x` gives `x`, `x_low_seed` and
    `x_high_seed`.
    """
    cells = steps["cell"].n_unique()
    whole = steps.filter(pl.col("cell").n_unique().over("update") == cells)
    return (
        whole.group_by("update")
        .agg(
            pl.col("epoch").min(),
            *(pl.col(name).mean() for name in columns),
            *(pl.col(name).min().alias(f"{name}_low_seed") for name in columns),
            *(pl.col(name).max().alias(f"{name}_high_seed") for name in columns),
            n_seeds=pl.lit(cells),
        )
        .sort("update")
    )


def draw_shares(steps: pl.DataFrame, about: str = "") -> Drawing:
    """Quadrant shares at the median split and at the thresholds, and the thresholds of error and uncertainty.

    steps: rows of steps.parquet of the seeds of one Q-Tuning setting. Lines are means over the seeds, bands reach from
    the lowest seed to the highest. about: what was trained, for the caption.
    """
    medians = [f"median_q{quadrant}" for quadrant in (1, 2, 3, 4)]
    tails = [f"q{quadrant}_share" for quadrant in (1, 2, 3, 4)]
    data = over_seeds(steps, [*medians, *tails, "ppl_low", "ppl_high", "ent_low", "ent_high"])
    with styled():
        figure, axes = panels(2, 2, PAGE, 4.2, sharex=True)
        for panel, columns in ((axes[0], medians), (axes[1], tails)):
            for quadrant, column in zip((1, 2, 3, 4), columns, strict=True):
                # at the medians Q1 = Q3 and Q2 = Q4, but for ties: the thin line runs on top of the thick one
                width = 2.2 if columns is medians and quadrant < 3 else 1.1
                colour, dashes = QUADRANT_COLOUR[quadrant], QUADRANT_DASHES[quadrant]
                _draw_band(panel, data, column, f"Q{quadrant}", colour, dashes, 100, width)
            panel.set_ylim(0, None)
            panel.set_ylabel("Share of the samples (%)")
        floor = f"{LEAST_SHARE:.0%}, the least a quadrant should hold"
        axes[0].axhline(100 * LEAST_SHARE, color=BLACK, linewidth=0.7, linestyle=(0, (1, 2)), label=floor)
        for panel, name in ((axes[2], "ppl"), (axes[3], "ent")):
            _draw_band(panel, data, f"{name}_high", "high above", VERMILLION, "-")
            _draw_band(panel, data, f"{name}_low", "low up to", BLUE, (0, (5, 1.5)))
            panel.set_xlabel("Optimizer update")
        axes[2].set_yscale("log")
        axes[2].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[2].set_ylabel("Perplexity (log scale)")
        axes[3].set_ylabel("Entropy (nats)")
        titles = (
            "quadrants of the median split",
            "quadrants of the thresholds",
            "thresholds of error",
            "thresholds of uncertainty",
        )
        starts = data.group_by("epoch").agg(pl.col("update").min()).sort("epoch")["update"].to_list()
        for index, (panel, title) in enumerate(zip(axes, titles, strict=True)):
            letter(panel, index, title)
            for start in starts[1:]:
                panel.axvline(start, color="#BBBBBB", linewidth=0.6, zorder=1)
            panel.margins(x=0.01)
        figure.align_ylabels()
        axes[2].legend(loc="best")  # where the curves leave room
        legend_below(figure, [axes[1], axes[0]], 5)
    text = (
        f"Quadrant shares and thresholds of {about}, over the updates: means of consecutive updates; lines are "
        "means over the seeds, bands their range. (a): at the medians Q1 = Q3 and Q2 = Q4, but for ties; "
        f"dotted: {LEAST_SHARE:.0%}, the least that a quadrant should hold (a training warns of one that holds less in "
        "the mean). (b): what lies between the thresholds is in no quadrant. Grey: an epoch begins."
    )
    return Drawing(figure, data, text)


def draw_convergence(steps: pl.DataFrame, lines: pl.DataFrame, budget: str = "") -> Drawing:
    """Loss of the kept tokens, and response tokens kept in an update, over the updates.

    steps: rows of steps.parquet. lines: one row per cell to draw: cell, label, variant, training, method,
    sample_pruner, token_pruner; cells of one label are its seeds (line: mean, band: lowest to highest seed).
    Methods take different numbers of updates, so the area below a curve of kept tokens is what was kept in all. Losses
    are over the tokens that each method kept: comparable over the seeds of a method, not between methods. budget: that
    of the lines, for the caption.
    """
    looks = assign_looks(lines)
    parts = []
    with styled():
        figure, axes = panels(1, 2, PAGE, 2.5 + 0.14 * -(-len(looks) // 4))
        for label, look in looks.items():
            cells = lines.filter(pl.col("label") == label)["cell"]
            part = over_seeds(steps.filter(pl.col("cell").is_in(cells.implode())), ["loss", "tokens_kept"])
            for panel, column in zip(axes, ("loss", "tokens_kept"), strict=True):
                _draw_band(panel, part, column, label, look.colour, look.dashes)
            parts.append(part.with_columns(pl.lit(label).alias("label")))
        names = ("Loss of the kept tokens (nats)", "Tokens kept per update")
        for index, (panel, name) in enumerate(zip(axes, names, strict=True)):
            panel.margins(x=0.01)
            panel.set_ylim(0, None)
            panel.set_xlabel("Optimizer update")
            panel.set_ylabel(name)
            letter(panel, index)
        legend_below(figure, axes, 4)
    text = (
        "Loss over the tokens that each method keeps (comparable over seeds, not between methods), and "
        f"response tokens kept per update{f', at {budget}' if budget else ''}; the area below it is what was "
        "kept in all. Means of consecutive updates; lines are means over the seeds, bands their range."
    )
    return Drawing(figure, pl.concat(parts), text)


def _draw_band(
    panel: Axes,
    data: pl.DataFrame,
    column: str,
    label: str,
    colour: str,
    dashes: Any,
    scale: float = 1,
    width: float = 1.1,
) -> None:
    """The mean over the seeds as a line, and the range of the seeds as a band; updates without a value are left out.

    data: as of `over_seeds`. scale: factor of the values. width: of the line, in points.
    """
    rows = data.filter(pl.col(column).is_not_null())
    x = rows["update"].to_numpy()
    panel.plot(x, scale * rows[column].to_numpy(), color=colour, linestyle=dashes, linewidth=width, label=label)
    low, high = (scale * rows[f"{column}_{end}_seed"].to_numpy() for end in ("low", "high"))
    panel.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
