"""Figure 5(b): the weight of the neighbours in Q-Tuning's token score."""

import polars as pl

from qtuning.figures.style import Drawing
from qtuning.figures.sweep import plain, sweep


def varied(frame: pl.DataFrame) -> pl.DataFrame:
    """The points of Q-Tuning in which nothing but lambda differs from the defaults, trained alike; none if lambda takes
    one value only. Where several ways of training vary it, those of the first."""
    chosen = plain(frame, but="lambda")
    chosen = chosen.filter(pl.col("lambda").n_unique().over("training") > 1)
    return chosen.filter(pl.col("training") == pl.col("training").first())


def neighbour_weight(frame: pl.DataFrame) -> Drawing:
    """Average score against lambda, a curve per budget. frame: `points` of an experiment."""
    chosen = varied(frame)
    alike = frame.filter((pl.col("method") == "zero-shot") | (pl.col("training") == chosen["training"][0]))
    lines = alike.with_columns(pl.lit(None, pl.Int64).alias("batch_size"))
    return sweep(chosen, lines, "lambda", "Weight of the neighbours, λ")
