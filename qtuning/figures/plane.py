"""The Error-Uncertainty plane of samples: their density, their four quadrants, which of them were kept, and how all
this moves in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from qtuning.experiment.quadrants import QUADRANTS, Naming
from qtuning.figures.style import (
    BLACK,
    COLUMN,
    PAGE,
    QUADRANT_COLOUR,
    Drawing,
    colour_bar,
    legend_below,
    letter,
    panels,
    styled,
)

Array = npt.NDArray[np.float64]

BINS = 36
"""Bins along each axis."""

MOST_MARKS = 250
"""Most marks of each kind of kept samples that a plane shows: more would hide the density."""

STAGES = ("start", "middle", "end")
PARTS = 10
"""A stage is one in so many of the updates: the first, the middle and the last of them."""

FEWEST = 2 * PARTS
"""Fewest updates that have stages."""

UNCERTAINTY, ERROR = "Uncertainty: mean token entropy (nats)", "Error: perplexity (log scale)"


@styled()
def draw_plane(
    frame: pl.DataFrame,
    naming: Naming = "figure",
    tails: tuple[float, float, float, float] | None = None,
    kept: str = "kept",
    about: str = "",
) -> Drawing:
    """Density of samples over uncertainty and error, in the colours of the quadrants of the median split.

    frame: ppl (log axis), entropy (nats), kept (bool). tails: thresholds of the triage (ppl_low, ppl_high, ent_low,
    ent_high), drawn dashed. kept: how the legend calls the samples that are kept; of each kind at most MOST_MARKS are
    marked, evenly spaced. about: what was trained, for the caption.
    """
    plane = DrawnPlane.of(frame, naming)
    figure, axes = panels(1, 1, COLUMN, 3.2)
    panel = axes[0]
    most = _most(plane)
    _draw_density(panel, plane, most)
    _draw_lines(panel, plane, "median", (plane.ppl,), (plane.ent,))
    if tails is not None:
        _draw_lines(panel, plane, "thresholds", tails[:2], tails[2:], linestyle=(0, (3, 2)))
    _draw_kept(panel, plane.samples, kept)
    _draw_shares(panel, plane, fontsize=8)
    _dress(panel, plane)
    panel.set(xlabel=UNCERTAINTY, ylabel=ERROR)
    _draw_density_bar(figure, axes, most)
    labels = panel.get_legend_handles_labels()[1]
    legend_below(figure, axes, 1 if len(labels) > 2 else 2)
    text = (
        f"The Error-Uncertainty plane of {about}: {len(frame):,} samples, evenly spaced over all that were scored "
        "in training, each under the model of its update. Lines: medians of what is shown; corners: shares of the "
        "median split. Dots: samples that were kept, by the thresholds (filled) or by the supplement (open)."
    )
    return Drawing(figure, plane.samples, text)


@styled()
def draw_flow(frame: pl.DataFrame, naming: Naming = "figure", about: str = "") -> Drawing:
    """Density, medians and quadrant shares at three stages on common axes; the arrow is where the medians went.

    frame: rows of planes.parquet of one cell. about: what was trained, for the caption.
    """
    staged = stages(frame.sort("update", maintain_order=True))
    planes = [DrawnPlane.of(staged.filter(pl.col("stage") == name), naming, staged) for name in STAGES]
    most = _most(*planes)
    figure, axes = panels(1, 3, PAGE, 2.45, sharex=True, sharey=True)
    for index, (panel, plane) in enumerate(zip(axes, planes, strict=True)):
        _draw_density(panel, plane, most)
        _draw_lines(panel, plane, "median", (plane.ppl,), (plane.ent,))
        _draw_shares(panel, plane, fontsize=7)
        if index:
            before = planes[index - 1].ent, planes[index - 1].ppl
            # as large as with text of 8 points, on which the size of an arrow depends
            arrow: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 8, "linewidth": 1.2, "color": BLACK}
            arrow |= {"shrinkA": 0, "shrinkB": 0}
            panel.annotate("", (plane.ent, plane.ppl), before, arrowprops=arrow, zorder=6)
            panel.plot(*before, "o", markersize=3.5, color="white", markeredgecolor=BLACK, zorder=6)
        updates = plane.samples["update"]
        letter(panel, index, f"updates {updates[0]}–{updates[-1]} (n = {len(updates)})")
    for panel in axes:
        _dress(panel, *planes)
    _draw_density_bar(figure, axes, most)
    axes[1].set_xlabel(UNCERTAINTY)
    axes[0].set_ylabel(ERROR)
    text = (
        f"The plane of {about} in the first, the middle and the last tenth of the updates; the arrow leads from "
        "the medians of the stage before to its own."
    )
    return Drawing(figure, pl.concat(plane.samples for plane in planes), text)


def stages(frame: pl.DataFrame) -> pl.DataFrame:
    """The samples scored in the first, the middle and the last tenth of the updates, with their `stage`.

    The middle tenth begins at 45% of the updates.
    """
    first, last = int(frame["update"].min()), int(frame["update"].max())  # type: ignore[arg-type]
    place = (pl.col("update") - first) / max(1, last - first)
    begins = (0.0, 0.5 - 0.5 / PARTS, 1 - 1 / PARTS)
    return pl.concat(
        frame.filter((place >= begin) & (place <= begin + 1 / PARTS)).with_columns(pl.lit(name).alias("stage"))
        for name, begin in zip(STAGES, begins, strict=True)
    )


@dataclass(frozen=True)
class DrawnPlane:
    """Samples, split at their medians and counted in bins.

    samples: with their `median_quadrant`, 1 to 4. ppl, ent: the medians: error is high above the first, uncertainty
    above the second. log_ppls, ents: edges of the bins along log10 of the perplexity, and along the entropy. The
    medians are edges, so that every bin lies in one quadrant. bins: (row of perplexity, column of entropy, quadrant,
    number of samples) of each bin that holds samples; a value on an edge is in the bin below it, as it is in the
    quadrant below.
    """

    samples: pl.DataFrame
    naming: Naming
    ppl: float
    ent: float
    log_ppls: Array
    ents: Array
    bins: pl.DataFrame

    @classmethod
    def of(cls, frame: pl.DataFrame, naming: Naming = "figure", scale: pl.DataFrame | None = None) -> "DrawnPlane":
        """Bins that cover every sample of `frame`, so large that BINS an axis cover `scale` (default: `frame`)."""
        whole = frame if scale is None else scale
        middle_ppl, middle_ent = float(frame["ppl"].median()), float(frame["entropy"].median())  # type: ignore[arg-type]
        error, uncertainty = pl.col("ppl") > middle_ppl, pl.col("entropy") > middle_ent
        inside = [
            pl.when((error == quadrant.high_error) & (uncertainty == quadrant.high_uncertainty)).then(quadrant.number)
            for quadrant in QUADRANTS[naming]
        ]
        samples = frame.with_columns(median_quadrant=pl.coalesce(inside).cast(pl.Int8))
        log_ppl, ent = np.log10(frame["ppl"].to_numpy()), frame["entropy"].to_numpy()
        log_ppls = _edges(log_ppl, float(np.log10(middle_ppl)), np.ptp(np.log10(whole["ppl"].to_numpy())) / BINS)
        ents = _edges(ent, middle_ent, np.ptp(whole["entropy"].to_numpy()) / BINS)
        places = {"row": np.searchsorted(log_ppls, log_ppl) - 1, "column": np.searchsorted(ents, ent) - 1}
        bins = pl.DataFrame(places | {"quadrant": samples["median_quadrant"]})
        bins = bins.group_by("row", "column", "quadrant").len().sort("row", "column")
        return cls(samples, naming, middle_ppl, middle_ent, log_ppls, ents, bins)

    def share(self, quadrant: int) -> float:
        """Share of the samples in a quadrant of the median split."""
        return float((self.samples["median_quadrant"] == quadrant).mean())  # type: ignore[arg-type]


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


def _most(*planes: DrawnPlane) -> int:
    """The number of samples that has full colour: that of the fullest bin."""
    return max(2, *(int(plane.bins["len"].max()) for plane in planes))  # type: ignore[arg-type]


def _draw_density(panel: Axes, plane: DrawnPlane, most: int) -> None:
    """Fill the bins that hold samples in the colour of their quadrant, the fuller the more."""
    norm = LogNorm(1, most)
    squares, colours = [], []
    for row, column, quadrant, count in plane.bins.iter_rows():
        low, high = 10 ** plane.log_ppls[row], 10 ** plane.log_ppls[row + 1]
        left, right = plane.ents[column], plane.ents[column + 1]
        squares.append([(left, low), (right, low), (right, high), (left, high)])
        colours.append(_tint(QUADRANT_COLOUR[quadrant], 0.25 + 0.75 * float(norm(count))))
    panel.add_collection(PolyCollection(squares, facecolors=colours, edgecolors=colours, linewidths=0.15, zorder=2))


def _tint(colour: str, strength: float) -> tuple[float, float, float]:
    """`colour` mixed with white."""
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def _draw_lines(
    panel: Axes, plane: DrawnPlane, name: str, ppls: Sequence[float], ents: Sequence[float], linestyle: Any = "-"
) -> None:
    """Lines across and up that end where the bins do; the first of them has the name."""
    ends = (10 ** plane.log_ppls[0], 10 ** plane.log_ppls[-1])
    options: dict[str, Any] = {"color": BLACK, "linewidth": 0.7, "linestyle": linestyle, "zorder": 3}
    for number, ppl in enumerate(ppls):
        panel.plot(plane.ents[[0, -1]], (ppl, ppl), label=None if number else name, **options)
    for ent in ents:
        panel.plot((ent, ent), ends, **options)


def _draw_kept(panel: Axes, data: pl.DataFrame, name: str) -> None:
    """Marks of the samples that are kept, by the thresholds (filled) and by the supplement (open)."""
    added = pl.col("supplement") if "supplement" in data.columns else pl.lit(False)
    for chosen, by, face, edge, width in (
        (~added, "thresholds", BLACK, "white", 0.3),
        (added, "supplement", "white", BLACK, 0.5),
    ):
        rows = data.filter(pl.col("kept") & chosen)
        if rows.is_empty():
            continue
        step = -(-len(rows) // MOST_MARKS)
        shown = rows.gather_every(step)
        thinned = f" (1 in {step} shown)" if step > 1 else ""
        panel.plot(
            *(shown["entropy"], shown["ppl"], "o"),
            markersize=2.0,
            markerfacecolor=face,
            markeredgecolor=edge,
            markeredgewidth=width,
            label=f"{name} by the {by}: {len(rows):,} of {len(data):,}{thinned}",
            zorder=4,
        )


def _draw_shares(panel: Axes, plane: DrawnPlane, fontsize: float) -> None:
    """`Q1 31%` in each corner, outside the data, in the colour of the quadrant."""
    for quadrant in QUADRANTS[plane.naming]:
        top, right, number = quadrant.high_error, quadrant.high_uncertainty, quadrant.number
        panel.annotate(
            f"Q{number} {100 * plane.share(number):.0f}%",
            (float(right), float(top)),
            (-3 if right else 3, -3 if top else 3),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right" if right else "left",
            va="top" if top else "bottom",
            color=QUADRANT_COLOUR[number],
            fontsize=fontsize,
            fontweight="bold",
            zorder=5,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )


def _dress(panel: Axes, *planes: DrawnPlane) -> None:
    """Axes that hold all the bins and room for the corners; perplexity on a log axis with its ticks written out."""
    left, right = min(plane.ents[0] for plane in planes), max(plane.ents[-1] for plane in planes)
    low, high = min(plane.log_ppls[0] for plane in planes), max(plane.log_ppls[-1] for plane in planes)
    height, width = high - low, right - left
    panel.set_yscale("log")
    panel.set_ylim(10 ** (low - 0.11 * height), 10 ** (high + 0.11 * height))
    panel.set_xlim(left - 0.03 * width, right + 0.03 * width)
    panel.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if height < 2.5 else (1.0,)))
    panel.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"$10^{{{round(np.log10(value))}}}$" if high >= 4 else f"{value:g}")
    )
    panel.minorticks_off()
    panel.grid(visible=False)


def _draw_density_bar(figure: Figure, axes: Sequence[Axes], most: int) -> None:
    """What the strength of the colours means, in grey for all four; ticks at 1, 3, 10, 30, ... samples."""
    greys = LinearSegmentedColormap.from_list("strength", [_tint("#404040", 0.25), _tint("#404040", 1.0)])
    colours, options = ScalarMappable(LogNorm(1, most), greys), {"aspect": 30, "pad": 0.02, "fraction": 0.05}
    bar = colour_bar(figure, axes, colours, "Samples per bin (log scale)", **options)
    ticks = [factor * 10**power for power in range(7) for factor in (1, 3) if factor * 10**power <= most]
    ticks = ticks if len(ticks) > 1 else [1, most]
    bar.set_ticks(ticks, labels=[str(value) for value in ticks])
    bar.minorticks_off()
