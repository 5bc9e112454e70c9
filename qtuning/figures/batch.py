"""Figure 5(a): the size of the batch that Q-Tuning selects in."""

import re

import polars as pl

from qtuning.figures.style import Drawing
from qtuning.figures.sweep import plain, sweep


def varied(frame: pl.DataFrame) -> pl.DataFrame:
    """The points of Q-Tuning with default options; none if the batch has one size only."""
    chosen = plain(frame).filter(pl.col("batch_size").is_not_null())
    return chosen if chosen["batch_size"].n_unique() > 1 else chosen.clear()


def changes(frame: pl.DataFrame) -> str:
    """What else the training changes with the batch size, for the caption; empty if nothing. frame: as `varied` has.

    Values are in the order of the batch sizes; several at one batch size are joined by `or`.
    """
    sizes: dict[str, dict[int, list[str]]] = {}
    for size, training in frame.sort("batch_size").select("batch_size", "training").unique(maintain_order=True).rows():
        for name, value in re.findall(r"(\w+)=(.*?)(?=, \w+=|$)", training):
            values = sizes.setdefault(name, {}).setdefault(size, [])
            if value not in values:
                values.append(value)
    sizes.pop("batch_size", None)
    told = [
        f"the {name.replace('_', ' ')} changes with it: {', '.join(' or '.join(values) for values in by_size.values())}"
        for name, by_size in sizes.items()
        if len({value for values in by_size.values() for value in values}) > 1
    ]
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}. " if told else ""


def batch_size(frame: pl.DataFrame) -> Drawing:
    """Average score against the batch size, a curve per budget. frame: `points` of an experiment."""
    return sweep(varied(frame), frame, "batch_size", "Batch size (samples, log scale)", log=True)
