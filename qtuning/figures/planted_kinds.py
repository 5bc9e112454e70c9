"""Where planted kinds of samples lie on the plane over training: a heat map of quadrant x kind for each epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from qtuning.experiment.quadrants import BETWEEN, MISCONCEPTION, NOISE, REDUNDANT
from qtuning.experiment.truth import KINDS
from qtuning.figures.style import BLACK, BLUE, COLUMN, PAGE, VERMILLION, Drawing, colour_bar, panels, styled
from qtuning.store.planted_kinds import CLAIMS
from qtuning.tables.planted_kinds import QUADRANTS

MOST = 3
"""Most epochs of a figure: evenly spaced, the first and the last among them."""

SEQUENTIAL = LinearSegmentedColormap.from_list("share", ["#FFFFFF", BLUE])
TAKEN_FOR = {NOISE: "Q1, “noise”", MISCONCEPTION: "Q2, “misconception”", REDUNDANT: "Q3, “redundant”", 4: "Q4, kept"}
TAKEN_FOR |= {BETWEEN: "between"}


@styled()
def draw_planted_kinds(shares: pl.DataFrame, about: str) -> Drawing:
    """Share of each kind's samples in each quadrant: a column adds up to 100%, a frame marks Q-Tuning's own reading.

    shares: rows of one line of `shares_of_lines` (tables/planted_kinds.py).
    """
    rows = shares.drop_nulls(["epoch", "quadrant", "share"])
    epochs = rows["epoch"].unique().sort().to_list()
    chosen = [epochs[round(place)] for place in np.linspace(0, len(epochs) - 1, min(MOST, len(epochs)))]
    rows = rows.filter(pl.col("epoch").is_in(chosen))
    kinds = [kind for kind in KINDS if kind in set(rows["kind"])]
    width = min(PAGE, COLUMN * (0.35 + 0.65 * len(chosen)))
    figure, axes = panels(1, len(chosen), width, 0.3 * len(QUADRANTS) + 1.35, sharey=True)
    norm = Normalize(0, max(float(rows["share"].max()), 1.0))  # type: ignore[arg-type]
    for panel, epoch in zip(axes, chosen, strict=True):
        _draw_epoch(panel, rows.filter(pl.col("epoch") == epoch), kinds, norm)
        panel.set_title(f"Epoch {epoch + 1}", loc="left")
    axes[0].set_yticks(range(len(QUADRANTS)), [TAKEN_FOR[quadrant] for quadrant in QUADRANTS])
    colours = ScalarMappable(norm, SEQUENTIAL)
    colour_bar(figure, axes, colours, "% of the kind", aspect=18, pad=0.01, fraction=0.05)
    text = (
        f"Where samples of each planted kind lie on the plane, {about}: per cent of the kind's samples in each "
        "quadrant, mean over seeds; a column adds up to 100. Framed: what Q-Tuning takes the quadrant for. If the "
        "plane knew the kinds, the framed fields would be dark and the rest of their rows light."
    )
    return Drawing(figure, rows, text)


def _draw_epoch(panel: Axes, rows: pl.DataFrame, kinds: Sequence[str], norm: Normalize) -> None:
    for row in rows.iter_rows(named=True):
        x, y = kinds.index(row["kind"]), QUADRANTS.index(row["quadrant"])
        depth = float(norm(row["share"]))
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=SEQUENTIAL(depth), edgecolor="white"))
        colour = "white" if depth > 0.65 else BLACK
        panel.text(x, y, f"{row['share']:.0f}", ha="center", va="center_baseline", color=colour)
    for quadrant, kind in CLAIMS.items():
        if kind in kinds:
            corner = kinds.index(kind) - 0.5, QUADRANTS.index(quadrant) - 0.5
            options: dict[str, Any] = {"fill": False, "edgecolor": VERMILLION, "linewidth": 1.4, "clip_on": False}
            panel.add_patch(Rectangle(corner, 1, 1, zorder=3, **options))
    panel.set(xlim=(-0.5, len(kinds) - 0.5), ylim=(len(QUADRANTS) - 0.5, -0.5))
    panel.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right", rotation_mode="anchor")
    panel.tick_params(length=0)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
