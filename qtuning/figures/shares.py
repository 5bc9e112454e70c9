"""Over the updates of Q-Tuning: the shares of the quadrants, and the thresholds that make them."""

from collections.abc import Sequence
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from qtuning.figures.style import (
    BLACK,
    BLUE,
    DASHES,
    PAGE,
    QUADRANT,
    VERMILLION,
    Drawing,
    legend_below,
    letter,
    panels,
    styled,
)

FLOOR = 0.05
"""Share that each quadrant should hold (qtuning/train/journal.py)."""


def over_seeds(steps: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Mean, lowest and highest over the cells at each `update` that all of them have: `x`, `x_low`, `x_high`.

    steps: rows of steps.parquet of cells that differ in their seeds only.
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


def shares(steps: pl.DataFrame) -> Drawing:
    """Quadrant shares at the median split and at the thresholds, and the thresholds of error and uncertainty.

    steps: rows of steps.parquet of the seeds of one Q-Tuning setting. Lines are means over the seeds, bands reach from
    the lowest seed to the highest.
    """
    medians = [f"median_q{quadrant}" for quadrant in (1, 2, 3, 4)]
    tails = [f"q{quadrant}_share" for quadrant in (1, 2, 3, 4)]
    limits = ["ppl_low", "ppl_high", "ent_low", "ent_high"]
    data = over_seeds(steps, [*medians, *tails, *limits])
    with styled():
        figure, axes = panels(2, 2, PAGE, 4.2, sharex=True)
        for panel, columns in ((axes[0], medians), (axes[1], tails)):
            for quadrant, column in zip((1, 2, 3, 4), columns, strict=True):
                # at the medians Q1 = Q3 and Q2 = Q4, but for ties: the thin line runs on top of the thick one
                width = 2.2 if columns is medians and quadrant < 3 else 1.1
                band(panel, data, column, f"Q{quadrant}", QUADRANT[quadrant], DASHES[quadrant], 100, width)
            panel.set_ylim(0, None)
            panel.set_ylabel("Share of the samples (%)")
        floor = axes[0].axhline(100 * FLOOR, color=BLACK, linewidth=0.7, linestyle=(0, (1, 2)))
        for panel, name in ((axes[2], "ppl"), (axes[3], "ent")):
            band(panel, data, f"{name}_high", "high above", VERMILLION, "-")
            band(panel, data, f"{name}_low", "low up to", BLUE, (0, (5, 1.5)))
            panel.set_xlabel("Optimizer update")
        axes[2].set_yscale("log")
        axes[2].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[2].set_ylabel("Perplexity (log scale)")
        axes[3].set_ylabel("Entropy (nats)")
        for index, title in enumerate(
            (
                "quadrants of the median split",
                "quadrants of the thresholds",
                "thresholds of error",
                "thresholds of uncertainty",
            )
        ):
            letter(axes[index], index, title)
            epochs(axes[index], data)
        figure.align_ylabels()
        axes[2].legend(loc="best")  # where the curves leave room
        handles, labels = axes[1].get_legend_handles_labels()
        legend_below(figure, [*handles, floor], [*labels, f"{FLOOR:.0%}, the least a quadrant should hold"], 5)
    return Drawing(figure, data)


def band(
    panel: Axes,
    data: pl.DataFrame,
    column: str,
    label: str,
    colour: str,
    dashes: Any,
    scale: float = 1,
    width: float = 1.1,
) -> None:
    """The mean over the seeds as a line, and the range of the seeds as a band; updates without a value are left out."""
    rows = data.filter(pl.col(column).is_not_null())
    x = rows["update"].to_numpy()
    panel.plot(x, scale * rows[column].to_numpy(), color=colour, linestyle=dashes, linewidth=width, label=label)
    low, high = (scale * rows[f"{column}_{end}_seed"].to_numpy() for end in ("low", "high"))
    panel.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def epochs(panel: Axes, data: pl.DataFrame) -> None:
    """A thin line where an epoch begins, but the first."""
    starts = data.group_by("epoch").agg(pl.col("update").min()).sort("epoch")["update"].to_list()
    for start in starts[1:]:
        panel.axvline(start, color="#BBBBBB", linewidth=0.6, zorder=1)
    panel.margins(x=0.01)
