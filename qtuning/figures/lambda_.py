"""Figure 5(b): the weight of the neighbours in Q-Tuning's token score."""

import re

import polars as pl

from qtuning.figures.style import Drawing
from qtuning.figures.sweep import sweep


def varied(frame: pl.DataFrame) -> pl.DataFrame:
    """The points of Q-Tuning in which nothing but lambda differs from the defaults; none if it takes one value only."""
    chosen = frame.filter(pl.col("method") == "q-tuning").filter(
        pl.col("variant").map_elements(lambda text: re.sub(r"lambda=[^,]+", "", text) == "", return_dtype=pl.Boolean)
    )
    return chosen if chosen["lambda"].n_unique() > 1 else chosen.clear()


def neighbour_weight(frame: pl.DataFrame) -> Drawing:
    """Average score against lambda, a curve per budget. frame: `points` of an experiment."""
    return sweep(varied(frame), frame, "lambda", "Weight of the neighbours, λ")
