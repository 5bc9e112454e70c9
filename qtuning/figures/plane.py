"""The Error-Uncertainty plane of samples: their density, their four quadrants, which of them were kept, and how all
this moves in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
Counts = npt.NDArray[np.int64]

BINS = 36
"""Bins along each axis."""

MOST_MARKS = 250
"""Most marks of each kind of kept samples that a plane shows: more would hide the density."""

STAGES = ("start", "middle", "end")
PARTS = 10
"""A stage is one in so many of the updates: the first, the middle and the last of them."""

FEWEST = 2 * PARTS
"""Fewest updates that have stages."""


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
    medians = Medians.of(frame)
    data = add_quadrant(frame, medians, naming)
    with styled():
        figure, axes = panels(1, 1, COLUMN, 3.2)
        panel = axes[0]
        grid = Grid.of(data, medians)
        counts = grid.count(data)
        most = max(2, int(counts.max()))
        _draw_density(panel, grid, counts, naming, most)
        _draw_lines(panel, grid, tails)
        _draw_kept(panel, data, kept)
        _draw_shares(panel, data, naming)
        _dress(panel, grid)
        panel.set_xlabel("Uncertainty: mean token entropy (nats)")
        panel.set_ylabel("Error: perplexity (log scale)")
        _draw_density_bar(figure, axes, most)
        labels = panel.get_legend_handles_labels()[1]
        legend_below(figure, axes, 1 if len(labels) > 2 else 2)
    text = (
        f"The Error-Uncertainty plane of {about}: {len(data):,} samples, evenly spaced over all that were scored "
        "in training, each under the model of its update. Lines: medians of what is shown; corners: shares of the "
        "median split. Dots: samples that were kept, by the thresholds (filled) or by the supplement (open)."
    )
    return Drawing(figure, data, text)


def draw_flow(frame: pl.DataFrame, naming: Naming = "figure", about: str = "") -> Drawing:
    """Density, medians and quadrant shares at three stages on common axes; the arrow is where the medians went.

    frame: rows of planes.parquet of one cell. about: what was trained, for the caption.
    """
    staged = stages(frame.sort("update", maintain_order=True))
    parts = [staged.filter(pl.col("stage") == name) for name in STAGES]
    grids = [Grid.of(part, Medians.of(part), staged) for part in parts]
    parts = [add_quadrant(part, grid.medians, naming) for part, grid in zip(parts, grids, strict=True)]
    counts = [grid.count(part) for part, grid in zip(parts, grids, strict=True)]
    most = max(2, *(int(count.max()) for count in counts))
    before = grids[0].medians
    with styled():
        figure, axes = panels(1, 3, PAGE, 2.45, sharex=True, sharey=True)
        for index, (panel, part, grid, count) in enumerate(zip(axes, parts, grids, counts, strict=True)):
            _draw_density(panel, grid, count, naming, most)
            _draw_lines(panel, grid)
            _draw_shares(panel, part, naming, size=7)
            now = grid.medians
            if index:
                panel.annotate(
                    "",
                    (now.ent, now.ppl),
                    (before.ent, before.ppl),
                    arrowprops={"arrowstyle": "-|>", "color": BLACK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0},
                    zorder=6,
                )
                panel.plot(before.ent, before.ppl, "o", markersize=3.5, color="white", markeredgecolor=BLACK, zorder=6)
            letter(panel, index, f"updates {part['update'][0]}–{part['update'][-1]} (n = {len(part)})")
            before = now
        for panel in axes:
            _dress(panel, *grids)
        _draw_density_bar(figure, axes, most)
        axes[1].set_xlabel("Uncertainty: mean token entropy (nats)")
        axes[0].set_ylabel("Error: perplexity (log scale)")
    text = (
        f"The plane of {about} in the first, the middle and the last tenth of the updates; the arrow leads from "
        "the medians of the stage before to its own."
    )
    return Drawing(figure, pl.concat(parts), text)


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


class Medians(NamedTuple):
    """Where the plane is cut: error is high above `ppl`, uncertainty above `ent`."""

    ppl: float
    ent: float

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Medians":
        """The medians of `ppl` and `entropy`."""
        return cls(float(frame["ppl"].median()), float(frame["entropy"].median()))  # type: ignore[arg-type]


def add_quadrant(frame: pl.DataFrame, medians: Medians, naming: Naming = "figure") -> pl.DataFrame:
    """Add `median_quadrant`, 1 to 4: the quadrant of each sample with respect to the medians."""
    error, uncertainty = pl.col("ppl") > medians.ppl, pl.col("entropy") > medians.ent
    inside = [
        pl.when((error == quadrant.high_error) & (uncertainty == quadrant.high_uncertainty)).then(quadrant.number)
        for quadrant in QUADRANTS[naming]
    ]
    return frame.with_columns(median_quadrant=pl.coalesce(inside).cast(pl.Int8))


def quadrant_shares(data: pl.DataFrame) -> dict[int, float]:
    """Share of the samples in each quadrant of the median split."""
    return {quadrant: float((data["median_quadrant"] == quadrant).mean()) for quadrant in (1, 2, 3, 4)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Grid:
    """Edges of the bins: along the entropy, and along log10 of the perplexity.

    The medians are edges, so that every bin lies in one quadrant.
    """

    ent: Array
    log_ppl: Array
    medians: Medians

    @classmethod
    def of(cls, frame: pl.DataFrame, medians: Medians, scale: pl.DataFrame | None = None) -> "Grid":
        """Bins that cover every sample of `frame`, so large that BINS an axis cover `scale` (default: `frame`)."""
        whole = frame if scale is None else scale
        steps = np.ptp(whole["entropy"].to_numpy()) / BINS, np.ptp(np.log10(whole["ppl"].to_numpy())) / BINS
        return cls(
            _edges(frame["entropy"].to_numpy(), medians.ent, steps[0]),
            _edges(np.log10(frame["ppl"].to_numpy()), float(np.log10(medians.ppl)), steps[1]),
            medians,
        )

    def count(self, frame: pl.DataFrame) -> Counts:
        """[rows of perplexity, columns of entropy]: how many samples lie in each bin.

        A value on an edge is in the bin below it, as it is in the quadrant below.
        """
        x = np.searchsorted(self.ent, frame["entropy"].to_numpy(), side="left") - 1
        y = np.searchsorted(self.log_ppl, np.log10(frame["ppl"].to_numpy()), side="left") - 1
        counts = np.zeros((len(self.log_ppl) - 1, len(self.ent) - 1), dtype=np.int64)
        np.add.at(counts, (y, x), 1)
        return counts


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


def _draw_density(panel: Axes, grid: Grid, counts: Counts, naming: Naming, most: int) -> None:
    """Fill the bins that hold samples in the colour of their quadrant, the fuller the more; `most` has full colour."""
    norm = LogNorm(1, most)
    numbers = {(quadrant.high_error, quadrant.high_uncertainty): quadrant.number for quadrant in QUADRANTS[naming]}
    middle_ent = np.searchsorted(grid.ent, grid.medians.ent)
    middle_ppl = np.searchsorted(grid.log_ppl, np.log10(grid.medians.ppl) - 1e-12)
    squares, colours = [], []
    for row, column in zip(*np.nonzero(counts), strict=True):
        quadrant = numbers[bool(row >= middle_ppl), bool(column >= middle_ent)]
        low, high = 10 ** grid.log_ppl[row], 10 ** grid.log_ppl[row + 1]
        left, right = grid.ent[column], grid.ent[column + 1]
        squares.append([(left, low), (right, low), (right, high), (left, high)])
        colours.append(_tint(QUADRANT_COLOUR[quadrant], 0.25 + 0.75 * float(norm(counts[row, column]))))
    panel.add_collection(PolyCollection(squares, facecolors=colours, edgecolors=colours, linewidths=0.15, zorder=2))


def _tint(colour: str, strength: float) -> tuple[float, float, float]:
    """`colour` mixed with white."""
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def _draw_lines(panel: Axes, grid: Grid, tails: tuple[float, float, float, float] | None = None) -> None:
    """The medians as solid lines, the thresholds of the tails, if given, as dashed ones; they end where the bins do."""
    across, up = (grid.ent[0], grid.ent[-1]), (10 ** grid.log_ppl[0], 10 ** grid.log_ppl[-1])
    cuts: list[tuple[str, tuple[float, ...], Any]] = [("median", grid.medians, "-")]
    if tails is not None:
        cuts.append(("thresholds", tails, (0, (3, 2))))
    for name, values, dashes in cuts:
        ppl, ent = values[: len(values) // 2], values[len(values) // 2 :]
        options: dict[str, Any] = {"color": BLACK, "linewidth": 0.7, "linestyle": dashes, "zorder": 3}
        for number, value in enumerate(ppl):
            panel.plot(across, (value, value), label=None if number else name, **options)
        for value in ent:
            panel.plot((value, value), up, **options)


def _draw_kept(panel: Axes, data: pl.DataFrame, name: str) -> None:
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


def _draw_shares(panel: Axes, data: pl.DataFrame, naming: Naming, size: float = 8) -> None:
    """`Q1 31%` in each corner, outside the data, in the colour of the quadrant."""
    shares = quadrant_shares(data)
    for quadrant in QUADRANTS[naming]:
        top, right, number = quadrant.high_error, quadrant.high_uncertainty, quadrant.number
        panel.annotate(
            f"Q{number} {100 * shares[number]:.0f}%",
            (float(right), float(top)),
            (-3 if right else 3, -3 if top else 3),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right" if right else "left",
            va="top" if top else "bottom",
            color=QUADRANT_COLOUR[number],
            fontsize=size,
            fontweight="bold",
            zorder=5,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )


def _dress(panel: Axes, *grids: Grid) -> None:
    """Axes that hold all the bins and room for the corners; perplexity on a log axis with its ticks written out."""
    left, right = min(grid.ent[0] for grid in grids), max(grid.ent[-1] for grid in grids)
    low, high = min(grid.log_ppl[0] for grid in grids), max(grid.log_ppl[-1] for grid in grids)
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
    bar.set_ticks(ticks)
    bar.set_ticklabels([str(value) for value in ticks])
    bar.minorticks_off()
