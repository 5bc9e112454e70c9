"""How trainings converge: loss and kept tokens over the updates, by method."""

import polars as pl

from qtuning.figures.marks import marks
from qtuning.figures.shares import band, epochs, over_seeds
from qtuning.figures.style import PAGE, Drawing, letter, panels, styled


def convergence(steps: pl.DataFrame, lines: pl.DataFrame) -> Drawing:
    """Loss of the kept tokens, and the share of the response tokens that were kept, over the share of the training.

    steps: rows of steps.parquet. lines: one row per cell to draw: cell, label, variant, method, sample_pruner,
    token_pruner; cells of one label are its seeds (line: mean, band: lowest to highest seed). Methods take different
    numbers of updates, so that the axis is the share of the updates done. Losses are over the tokens that each method
    kept, so they are comparable over the seeds of a method and not between methods.
    """
    look = marks(lines)
    frames = []
    for label in look:
        cells = lines.filter(pl.col("label") == label)["cell"]
        mine = steps.filter(pl.col("cell").is_in(cells.implode())).with_columns(
            (pl.col("tokens_kept") / pl.col("response_tokens")).alias("tokens_share")
        )
        frames.append(over_seeds(mine, ["loss", "tokens_share"]).with_columns(pl.lit(label).alias("label")))
    data = pl.concat(frames)
    whole = data.with_columns((100 * pl.col("update") / pl.col("update").max().over("label")).alias("progress"))
    with styled():
        figure, axes = panels(1, 2, PAGE, 2.5 + 0.14 * -(-len(look) // 4))
        for label, mark in look.items():
            mine = whole.filter(pl.col("label") == label).with_columns(pl.col("progress").alias("update"))
            band(axes[0], mine, "loss", label, mark.colour, mark.dashes)
            band(axes[1], mine, "tokens_share", label, mark.colour, mark.dashes, 100)
        first = whole.filter(pl.col("label") == next(iter(look))).with_columns(pl.col("progress").alias("update"))
        for panel in axes:
            epochs(panel, first)
            panel.set_xlabel("Updates done (%)")
        axes[0].set_ylabel("Loss of the kept tokens (nats)")
        axes[1].set_ylabel("Response tokens kept (%)")
        axes[1].set_ylim(0, None)
        letter(axes[0], 0)
        letter(axes[1], 1)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return Drawing(figure, whole)
