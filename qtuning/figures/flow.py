"""How the Error-Uncertainty plane moves while a model trains: its start, its middle and its end."""

import numpy as np
import polars as pl

from qtuning.figures.plane import (
    Bins,
    Naming,
    corner_shares,
    density_bar,
    draw_density,
    draw_lines,
    dress,
    median_lines,
    with_corner,
)
from qtuning.figures.style import BLACK, PAGE, Drawing, letter, panels, styled

NAMES = ("start", "middle", "end")
PARTS = 10
"""Each stage is one in so many of the updates: the first, the middle and the last of them."""


def stages(frame: pl.DataFrame) -> pl.DataFrame:
    """The samples scored in the first, the middle and the last tenth of the updates, with their `stage`.

    The middle tenth begins at 45% of the updates.
    """
    first, last = int(frame["update"].min()), int(frame["update"].max())  # type: ignore[arg-type]
    place = (pl.col("update") - first) / max(1, last - first)
    begins = dict(zip(NAMES, (0.0, 0.5 - 0.5 / PARTS, 1 - 1 / PARTS), strict=True))
    inside = [
        frame.filter((place >= begin) & (place <= begin + 1 / PARTS)).with_columns(pl.lit(name).alias("stage"))
        for name, begin in begins.items()
    ]
    return pl.concat(inside)


def flow(frame: pl.DataFrame, naming: Naming = "figure") -> Drawing:
    """Density, median lines and quadrant shares at three stages on common axes; the arrow is where the medians went.

    frame: rows of planes.parquet of one cell.
    """
    staged = stages(frame.sort("update", maintain_order=True))
    parts = {name: staged.filter(pl.col("stage") == name) for name in NAMES}
    data = []
    with styled():
        figure, axes = panels(1, 3, PAGE, 2.45, sharex=True, sharey=True)
        lines = {name: median_lines(part) for name, part in parts.items()}
        grids = {name: Bins.of(part, lines[name], staged) for name, part in parts.items()}
        counts = {name: grids[name].of_frame(parts[name]) for name in NAMES}
        most = max(2, *(int(count.counts.max()) for count in counts.values()))
        before = lines[NAMES[0]]
        for index, (panel, name) in enumerate(zip(axes, NAMES, strict=True)):
            part = with_corner(parts[name], lines[name], naming)
            data.append(part)
            draw_density(panel, counts[name], naming, most)
            draw_lines(panel, grids[name], label=False)
            corner_shares(panel, part, naming, size=7)
            if index:
                panel.annotate(
                    "",
                    (lines[name].ent, lines[name].ppl),
                    (before.ent, before.ppl),
                    arrowprops={"arrowstyle": "-|>", "color": BLACK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0},
                    zorder=6,
                )
                panel.plot(before.ent, before.ppl, "o", markersize=3.5, color="white", markeredgecolor=BLACK, zorder=6)
            letter(panel, index, f"updates {part['update'][0]}–{part['update'][-1]} (n = {len(part)})")
            before = lines[name]
        together = Bins(
            np.array([min(grid.ent[0] for grid in grids.values()), max(grid.ent[-1] for grid in grids.values())]),
            np.array([min(g.log_ppl[0] for g in grids.values()), max(g.log_ppl[-1] for g in grids.values())]),
            before,
        )
        for panel in axes:
            dress(panel, together)
        density_bar(figure, axes, most)
        axes[1].set_xlabel("Uncertainty: mean token entropy (nats)")
        axes[0].set_ylabel("Error: perplexity (log scale)")
    return Drawing(figure, pl.concat(data))
