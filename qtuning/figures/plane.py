"""The Error-Uncertainty plane of a set of samples: how dense it is where, its four quadrants, and what was kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from qtuning.figures.style import BLACK, COLUMN, QUADRANT, Drawing, legend_below, panels, styled

Array = npt.NDArray[np.float64]
Naming = Literal["figure", "text"]

BINS = 36
"""Bins along each axis."""

MOST_MARKS = 250
"""Most marks of each kind of kept samples that a plane shows: more would hide the density."""

CORNERS: dict[Naming, dict[str, int]] = {
    "figure": {"top right": 1, "top left": 2, "bottom left": 3, "bottom right": 4},
    "text": {"top left": 1, "top right": 2, "bottom left": 3, "bottom right": 4},
}
"""Reading A1: which quadrant lies where, with uncertainty to the right and error upwards."""


@dataclass(frozen=True)
class Lines:
    """Where the plane is cut: above `ppl` the error is high, above `ent` the uncertainty. tails: (low, high) thresholds
    of both, (ppl_low, ppl_high, ent_low, ent_high), drawn as well where they are given."""

    ppl: float
    ent: float
    tails: tuple[float, float, float, float] | None = None


def median_lines(frame: pl.DataFrame, tails: tuple[float, float, float, float] | None = None) -> Lines:
    """The medians of `ppl` and `entropy`."""
    return Lines(float(frame["ppl"].median()), float(frame["entropy"].median()), tails)  # type: ignore[arg-type]


def with_corner(frame: pl.DataFrame, lines: Lines, naming: Naming = "figure") -> pl.DataFrame:
    """Add `median_quadrant`, 1 to 4: the quadrant of each sample with respect to the lines."""
    corner = CORNERS[naming]
    high = pl.col("ppl") > lines.ppl
    right = pl.col("entropy") > lines.ent
    return frame.with_columns(
        pl.when(high & right)
        .then(corner["top right"])
        .when(high)
        .then(corner["top left"])
        .when(right)
        .then(corner["bottom right"])
        .otherwise(corner["bottom left"])
        .cast(pl.Int8)
        .alias("median_quadrant")
    )


def plane(
    frame: pl.DataFrame,
    naming: Naming = "figure",
    tails: tuple[float, float, float, float] | None = None,
    kept: str = "kept",
) -> Drawing:
    """Density of samples over uncertainty and error, in the colours of the quadrants of the median split.

    frame: ppl (log axis), entropy (nats), kept (bool). tails: thresholds of the triage, drawn dashed. kept: how the
    legend calls the samples that are kept; of each kind at most MOST_MARKS are marked, evenly spaced.
    """
    lines = median_lines(frame, tails)
    data = with_corner(frame, lines, naming)
    with styled():
        figure, axes = panels(1, 1, COLUMN, 3.2)
        panel = axes[0]
        grid = Bins.of(data, lines)
        most = draw_density(panel, grid.of_frame(data), naming)
        draw_lines(panel, grid)
        draw_kept(panel, data, kept)
        corner_shares(panel, data, naming)
        dress(panel, grid)
        panel.set_xlabel("Uncertainty: mean token entropy (nats)")
        panel.set_ylabel("Error: perplexity (log scale)")
        density_bar(figure, axes, most)
        handles, labels = panel.get_legend_handles_labels()
        legend_below(figure, handles, labels, 1 if len(labels) > 2 else 2)
    return Drawing(figure, data)


def draw_kept(panel: Axes, data: pl.DataFrame, name: str) -> None:
    """Marks of the samples that are kept, by the thresholds (filled) and by the supplement (open)."""
    added = pl.col("supplement") if "supplement" in data.columns else pl.lit(False)
    for chosen, by, face, edge, width in (
        (pl.col("kept") & ~added, "thresholds", BLACK, "white", 0.3),
        (pl.col("kept") & added, "supplement", "white", BLACK, 0.5),
    ):
        rows = data.filter(chosen)
        if rows.is_empty():
            continue
        step = -(-len(rows) // MOST_MARKS)
        shown = rows.gather_every(step)
        panel.plot(
            shown["entropy"],
            shown["ppl"],
            linestyle="none",
            marker="o",
            markersize=2.0,
            markerfacecolor=face,
            markeredgecolor=edge,
            markeredgewidth=width,
            label=f"{name} by the {by}: {len(rows):,} of {len(data):,}" + (f" (1 in {step} shown)" if step > 1 else ""),
            zorder=4,
        )


@dataclass(frozen=True)
class Bins:
    """Edges of the bins: along the entropy, and along log10 of the perplexity. A line is always an edge, so that every
    bin lies in one quadrant."""

    ent: Array
    log_ppl: Array
    lines: Lines

    @classmethod
    def of(cls, frame: pl.DataFrame, lines: Lines, scale: pl.DataFrame | None = None) -> "Bins":
        """Bins that cover every sample of `frame`, so large that BINS an axis cover `scale` (default: `frame`)."""
        ent, log_ppl = frame["entropy"].to_numpy(), np.log10(frame["ppl"].to_numpy())
        whole = frame if scale is None else scale
        return cls(
            _edges(ent, lines.ent, np.ptp(whole["entropy"].to_numpy()) / BINS),
            _edges(log_ppl, float(np.log10(lines.ppl)), np.ptp(np.log10(whole["ppl"].to_numpy())) / BINS),
            lines,
        )

    def of_frame(self, frame: pl.DataFrame) -> "Counts":
        """How many samples lie in each bin. A value on an edge is in the bin below it, as the quadrants have it."""
        x = np.searchsorted(self.ent, frame["entropy"].to_numpy(), side="left") - 1
        y = np.searchsorted(self.log_ppl, np.log10(frame["ppl"].to_numpy()), side="left") - 1
        counts = np.zeros((len(self.log_ppl) - 1, len(self.ent) - 1), dtype=np.int64)
        np.add.at(counts, (y, x), 1)
        return Counts(self, counts)


@dataclass(frozen=True)
class Counts:
    """Samples by bin: [rows of perplexity, columns of entropy]."""

    bins: Bins
    counts: npt.NDArray[np.int64]


def _edges(values: Array, line: float, step: float) -> Array:
    """Evenly spaced edges around all values (below the lowest, above or at the highest), one of them at `line`."""
    step = float(step) if step > 0 else max(abs(line), 1.0) / BINS
    below = int(np.floor((line - values.min()) / step)) + 1
    above = max(1, int(np.ceil((values.max() - line) / step)))
    # by whole steps from the line, which is itself exact: a sample at the median must fall below it
    edges: Array = line + step * np.arange(-below, above + 1, dtype=np.float64)
    edges[below] = line
    edges[-1] = max(edges[-1], float(values.max()))
    return edges


def draw_density(panel: Axes, grid: Counts, naming: Naming, most: int | None = None) -> int:
    """Fill the bins that hold samples: the quadrant's colour, the fuller the more. Returns the count of full colour."""
    bins, counts = grid.bins, grid.counts
    top = max(int(counts.max()), 2) if most is None else most
    norm = LogNorm(1, top)
    corner = CORNERS[naming]
    middle_ent = np.searchsorted(bins.ent, bins.lines.ent)
    middle_ppl = np.searchsorted(bins.log_ppl, np.log10(bins.lines.ppl) - 1e-12)
    squares, colours = [], []
    for row, column in zip(*np.nonzero(counts), strict=True):
        name = f"{'top' if row >= middle_ppl else 'bottom'} {'right' if column >= middle_ent else 'left'}"
        low, high = 10 ** bins.log_ppl[row], 10 ** bins.log_ppl[row + 1]
        left, right = bins.ent[column], bins.ent[column + 1]
        squares.append([(left, low), (right, low), (right, high), (left, high)])
        colours.append(_tint(QUADRANT[corner[name]], 0.25 + 0.75 * float(norm(counts[row, column]))))
    panel.add_collection(PolyCollection(squares, facecolors=colours, edgecolors=colours, linewidths=0.15, zorder=2))
    return top


def _tint(colour: str, strength: float) -> tuple[float, float, float]:
    """`colour` mixed with white."""
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def draw_lines(panel: Axes, grid: Bins, label: bool = True) -> None:
    """The medians as solid lines; the thresholds of the tails, where there are any, dashed. Not into the corners."""
    lines = grid.lines
    across, up = (grid.ent[0], grid.ent[-1]), (10 ** grid.log_ppl[0], 10 ** grid.log_ppl[-1])
    for name, (ppl, ent), dashes in (
        ("median", ((lines.ppl,), (lines.ent,)), "-"),
        ("thresholds", (lines.tails[:2], lines.tails[2:]) if lines.tails else ((), ()), (0, (3, 2))),
    ):
        options: dict[str, Any] = {"color": BLACK, "linewidth": 0.7, "linestyle": dashes, "zorder": 3}
        for number, value in enumerate(ppl):
            panel.plot(across, (value, value), label=name if label and number == 0 else None, **options)
        for value in ent:
            panel.plot((value, value), up, **options)


def shares(data: pl.DataFrame) -> dict[int, float]:
    """Share of the samples in each quadrant of the median split."""
    return {quadrant: float((data["median_quadrant"] == quadrant).mean()) for quadrant in (1, 2, 3, 4)}  # type: ignore[arg-type]


def corner_shares(panel: Axes, data: pl.DataFrame, naming: Naming, size: float = 8) -> None:
    """`Q1 31%` in each corner, outside the data, in the colour of the quadrant."""
    found = shares(data)
    for place, quadrant in CORNERS[naming].items():
        vertical, horizontal = place.split()
        panel.annotate(
            f"Q{quadrant} {100 * found[quadrant]:.0f}%",
            (0.0 if horizontal == "left" else 1.0, 1.0 if vertical == "top" else 0.0),
            (3 if horizontal == "left" else -3, -3 if vertical == "top" else 3),
            xycoords="axes fraction",
            textcoords="offset points",
            ha=horizontal,
            va=vertical,
            color=QUADRANT[quadrant],
            fontsize=size,
            fontweight="bold",
            zorder=5,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )


def dress(panel: Axes, grid: Bins) -> None:
    """Axes that hold all the bins and room for the corners; perplexity on a log axis with its ticks written out."""
    panel.set_yscale("log")
    height = grid.log_ppl[-1] - grid.log_ppl[0]
    width = grid.ent[-1] - grid.ent[0]
    panel.set_ylim(10 ** (grid.log_ppl[0] - 0.11 * height), 10 ** (grid.log_ppl[-1] + 0.11 * height))
    panel.set_xlim(grid.ent[0] - 0.03 * width, grid.ent[-1] + 0.03 * width)
    narrow = height < 2.5
    panel.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    far = grid.log_ppl[-1] >= 4
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value) if far else f"{value:g}"))
    panel.minorticks_off()
    panel.grid(visible=False)


def _power(value: float) -> str:
    """1000 -> 10 to the 3, as mathematical text."""
    return f"$10^{{{round(np.log10(value))}}}$"


def density_bar(figure: Figure, axes: Sequence[Axes], most: int) -> None:
    """What the strength of the colours means, in grey for all four."""
    greys = LinearSegmentedColormap.from_list("strength", [_tint("#404040", 0.25), _tint("#404040", 1.0)])
    bar = figure.colorbar(ScalarMappable(LogNorm(1, most), greys), ax=list(axes), aspect=30, pad=0.02, fraction=0.05)
    bar.set_label("Samples per bin (log scale)", fontsize=7)
    bar.set_ticks(_counts(most))
    bar.set_ticklabels([str(value) for value in _counts(most)])
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]


def _counts(most: int) -> Sequence[int]:
    """Ticks 1, 3, 10, 30, ... up to `most`."""
    ticks = [factor * 10**power for power in range(7) for factor in (1, 3) if factor * 10**power <= most]
    return ticks if len(ticks) > 1 else [1, most]
