"""Curves of scores with their spread, their holes and the lines they are judged against."""

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
from matplotlib.axes import Axes

from qtuning.figures.marks import Mark
from qtuning.figures.style import BLACK
from qtuning.tables.labels import benchmark_label

FAR = 0.5
"""A line is far from curves if it is further away than this share of the range that they and their bars cover."""

MARGIN = 0.14
"""Room above and below what is drawn, as a share of its range, where far lines are told at the edge."""

FULL: dict[str, Any] = {"color": "#444444", "linestyle": (0, (6, 2)), "linewidth": 0.9, "zorder": 1.5}
ZERO_SHOT: dict[str, Any] = {"color": "#444444", "linestyle": (0, (1, 2)), "linewidth": 0.9, "zorder": 1.5}


def curve(axes: Axes, x: Sequence[float], rows: pl.DataFrame, label: str, mark: Mark) -> None:
    """Means over seeds at `x`, joined in the order given; bars: ± 1 sample standard deviation over the seeds.

    A hole breaks the line: its neighbours are not joined across it.
    """
    mean = [float("nan") if value is None else value for value in rows["mean"]]
    sd = [0.0 if value is None else value for value in rows["sd"]]
    # clipping would cut a marker or a bar that ends at the frame
    options = mark.options | {"label": label, "zorder": 4 if mark.width > 1 else 3, "clip_on": False}
    if any(sd):
        axes.errorbar(x, mean, yerr=sd, elinewidth=0.6, capthick=0.6, **options)
    else:
        axes.plot(x, mean, **options)


def holes(axes: Axes, at: Iterable[float]) -> None:
    """A cross at the lower end of a panel, for each score that does not exist."""
    places = list(at)
    if places:
        transform = axes.get_xaxis_transform()
        axes.plot(
            places,
            [0.03] * len(places),
            linestyle="none",
            marker="x",
            markersize=4.5,
            color=BLACK,
            transform=transform,
            label="missing (see the data)",
        )


def references(axes: Axes, frame: pl.DataFrame, near: tuple[float, float] | None = None) -> None:
    """Lines across the panel: full data (dashed, with a band of ± 1 sd over the seeds) and zero-shot (dotted).

    near: the range of the curves (`span`), in a panel with MARGIN. A line far from them would press them flat: it is
    told at the edge of the panel instead, with an arrow to where it lies.
    """
    frame = frame.filter(pl.col("mean").is_not_null() & pl.col("batch_size").is_null())
    axis = None if near is None else _axis(frame.filter(pl.col("method").is_in(["full", "zero-shot"])), near)
    told = {True: 0, False: 0}  # at the upper edge, at the lower
    for method, label, options in (("full", "Full data", FULL), ("zero-shot", "Zero-shot", ZERO_SHOT)):
        for row in frame.filter(pl.col("method") == method).iter_rows(named=True):
            if axis is not None and not axis[0] <= row["mean"] <= axis[1]:
                above = row["mean"] > axis[1]
                axes.annotate(
                    f"{label} {row['mean']:.1f} {'↑' if above else '↓'}",
                    (1, 1 if above else 0),
                    (0, -1 - 9 * told[above] if above else 2 + 9 * told[above]),
                    xycoords="axes fraction",
                    textcoords="offset points",
                    ha="right",
                    va="top" if above else "bottom",
                    fontsize=7,
                    color="#444444",
                )
                told[above] += 1
                continue
            axes.axhline(row["mean"], label=label, **options)
            if row["sd"]:
                axes.axhspan(row["mean"] - row["sd"], row["mean"] + row["sd"], color="#999999", alpha=0.15, linewidth=0)


def _axis(lines: pl.DataFrame, near: tuple[float, float]) -> tuple[float, float]:
    """The scores at which a line is drawn: those near the curves, and all that the axis then shows anyway."""
    # one value alone has no range: matplotlib gives it 5% of itself on either side
    width = near[1] - near[0] or 0.1 * abs(near[0])
    low, high = near[0] - FAR * width, near[1] + FAR * width
    shown = near
    while True:
        drawn = span(lines.filter(pl.col("mean").is_between(low, high)))
        if drawn is not None:
            shown = min(shown[0], drawn[0]), max(shown[1], drawn[1])
        room = MARGIN * (shown[1] - shown[0])
        if low <= shown[0] - room and shown[1] + room <= high:
            return low, high
        # the band of a line has stretched the axis: it may reach a line that was far
        low, high = min(low, shown[0] - room), max(high, shown[1] + room)


def span(rows: pl.DataFrame) -> tuple[float, float] | None:
    """(lowest, highest) score that the rows show: means and the ends of their bars; None if they are all holes."""
    known = rows.filter(pl.col("mean").is_not_null())
    sd = known["sd"].fill_null(0.0)
    ends = [*(known["mean"] - sd), *(known["mean"] + sd)]
    return (min(ends), max(ends)) if ends else None


def score_label(frame: pl.DataFrame) -> str:
    """What the score axis says."""
    benchmark = frame["benchmark"][0]
    return "Average score (%)" if benchmark == "avg" else f"{benchmark_label(benchmark)} (%)"


def facets(frame: pl.DataFrame) -> list[tuple[str, str]]:
    """(train set, model) pairs, in table order: each has a panel of its own."""
    return list(dict.fromkeys(frame.select("train_set", "model").iter_rows()))


def facet(frame: pl.DataFrame, train_set: str, model: str) -> pl.DataFrame:
    """The points of one train set and model."""
    return frame.filter((pl.col("train_set") == train_set) & (pl.col("model") == model))


def facet_title(frame: pl.DataFrame, train_set: str, model: str) -> str:
    """Title of a panel: what there is more than one of."""
    several = frame["train_set"].n_unique() > 1
    return f"{model}, {train_set}" if several else model


def once(axes: Iterable[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of several panels, each label once."""
    found: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
