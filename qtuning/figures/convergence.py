"""How trainings converge: loss and kept tokens over the updates, by method."""

import polars as pl

from qtuning.figures.marks import marks
from qtuning.figures.shares import band, over_seeds
from qtuning.figures.style import PAGE, Drawing, legend_below, letter, panels, styled


def convergence(steps: pl.DataFrame, lines: pl.DataFrame) -> Drawing:
    """Loss of the kept tokens, and response tokens kept in an update, over the updates.

    steps: rows of steps.parquet. lines: one row per cell to draw: cell, label, variant, training, method,
    sample_pruner, token_pruner; cells of one label are its seeds (line: mean, band: lowest to highest seed).
    Methods take different numbers of updates, so the area below a curve of kept tokens is what was kept in all. Losses
    are over the tokens that each method kept: comparable over the seeds of a method, not between methods.
    """
    look = marks(lines)
    parts = {
        label: over_seeds(
            steps.filter(pl.col("cell").is_in(lines.filter(pl.col("label") == label)["cell"].implode())),
            ["loss", "tokens_kept"],
        )
        for label in look
    }
    with styled():
        figure, axes = panels(1, 2, PAGE, 2.5 + 0.14 * -(-len(look) // 4))
        for label, mark in look.items():
            band(axes[0], parts[label], "loss", label, mark.colour, mark.dashes)
            band(axes[1], parts[label], "tokens_kept", label, mark.colour, mark.dashes)
        for index, (panel, name) in enumerate(
            zip(axes, ("Loss of the kept tokens (nats)", "Tokens kept per update"), strict=True)
        ):
            panel.margins(x=0.01)
            panel.set_ylim(0, None)
            panel.set_xlabel("Optimizer update")
            panel.set_ylabel(name)
            letter(panel, index)
        handles, labels = axes[0].get_legend_handles_labels()
        legend_below(figure, handles, labels, 4)
    return Drawing(
        figure, pl.concat([part.with_columns(pl.lit(label).alias("label")) for label, part in parts.items()])
    )
