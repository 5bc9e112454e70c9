"""How trainings go, over their updates: loss, kept tokens, and the quadrants and thresholds of Q-Tuning."""

from collections.abc import Sequence
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from qtuning.experiment.quadrants import LEAST_SHARE
from qtuning.figures.marks import assign_looks
from qtuning.figures.style import BLUE, PAGE, QUADRANT_COLOUR, VERMILLION, Drawing, legend_below, letter, panels, styled

QUADRANT_DASHES: dict[int, Any] = {1: "-", 2: (0, (5, 1.5)), 3: (0, (1, 1.2)), 4: (0, (5, 1.2, 1, 1.2))}
"""Line style of a quadrant, so that its line is known without its colour."""


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


@styled()
def draw_shares(steps: pl.DataFrame, about: str = "") -> Drawing:
    """Quadrant shares at the median split and at the thresholds, and the thresholds of error and uncertainty.

    steps: rows of steps.parquet of the seeds of one Q-Tuning setting. Lines are means over the seeds, bands reach from
    the lowest seed to the highest. about: what was trained, for the caption.
    """
    shares = ("median_q{}", "q{}_share")
    data = over_seeds(
        steps,
        [*(share.format(q) for share in shares for q in QUADRANT_COLOUR), "ppl_low", "ppl_high", "ent_low", "ent_high"],
    )
    figure, axes = panels(2, 2, PAGE, 4.2, sharex=True)
    for panel, share in zip(axes, shares, strict=False):
        for quadrant, colour in QUADRANT_COLOUR.items():
            # at the medians Q1 = Q3 and Q2 = Q4, but for ties: the thin line runs on top of the thick one
            width = 2.2 if panel is axes[0] and quadrant < 3 else 1.1
            name, dashes = f"Q{quadrant}", QUADRANT_DASHES[quadrant]
            _draw_band(panel, data, share.format(quadrant), name, colour, dashes, 100, width)
        panel.set_ylim(0, None)
        panel.set_ylabel("Share of the samples (%)")
    floor = f"{LEAST_SHARE:.0%}, the least a quadrant should hold"
    axes[0].axhline(100 * LEAST_SHARE, color="black", linewidth=0.7, linestyle=(0, (1, 2)), label=floor)
    for panel, name, label in ((axes[2], "ppl", "Perplexity (log scale)"), (axes[3], "ent", "Entropy (nats)")):
        _draw_band(panel, data, f"{name}_high", "high above", VERMILLION, "-")
        _draw_band(panel, data, f"{name}_low", "low up to", BLUE, (0, (5, 1.5)))
        panel.set(xlabel="Optimizer update", ylabel=label)
    axes[2].set_yscale("log")
    axes[2].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    titles = [f"quadrants of the {by}" for by in ("median split", "thresholds")]
    titles += [f"thresholds of {axis}" for axis in ("error", "uncertainty")]
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


@styled()
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
    figure, axes = panels(1, 2, PAGE, 2.5 + 0.14 * -(-len(looks) // 4))
    for label, look in looks.items():
        cells = lines.filter(pl.col("label") == label)["cell"]
        part = over_seeds(steps.filter(pl.col("cell").is_in(cells.implode())), ["loss", "tokens_kept"])
        for panel, column in zip(axes, ("loss", "tokens_kept"), strict=True):
            _draw_band(panel, part, column, label, look.colour, look.dashes)
        parts.append(part.with_columns(label=pl.lit(label)))
    for index, (panel, name) in enumerate(
        zip(axes, ("Loss of the kept tokens (nats)", "Tokens kept per update"), strict=True)
    ):
        panel.margins(x=0.01)
        panel.set_ylim(0, None)
        panel.set(xlabel="Optimizer update", ylabel=name)
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
    scale: int = 1,
    width: float = 1.1,
) -> None:
    """The mean over the seeds as a line, and the range of the seeds as a band; updates without a value are left out.

    data: as of `over_seeds`. scale: factor of the values. width: of the line, in points.
    """
    columns = ("update", column, f"{column}_low_seed", f"{column}_high_seed")
    x, mean, low, high = (data.drop_nulls(column)[name].to_numpy() for name in columns)
    panel.plot(x, scale * mean, color=colour, linestyle=dashes, linewidth=width, label=label)
    panel.fill_between(x, scale * low, scale * high, color=colour, alpha=0.18, linewidth=0)
