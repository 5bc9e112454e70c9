"""Figure 5(a): the size of the batch that Q-Tuning selects in."""

import polars as pl

from qtuning.figures.style import Drawing
from qtuning.figures.sweep import plain, sweep


def varied(frame: pl.DataFrame) -> pl.DataFrame:
    """The points of Q-Tuning with default options; none if the batch has one size only."""
    chosen = plain(frame).filter(pl.col("batch_size").is_not_null())
    return chosen if chosen["batch_size"].n_unique() > 1 else chosen.clear()


def batch_size(frame: pl.DataFrame) -> Drawing:
    """Average score against the batch size, a curve per budget. frame: `points` of an experiment."""
    return sweep(varied(frame), frame, "batch_size", "Batch size (samples, log scale)", log=True)
