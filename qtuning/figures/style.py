"""What all figures share: size, colours, type, and how they are written. No pyplot, so no state between figures."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib import get_data_path, style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from qtuning.files import atomic_path

COLUMN, PAGE = 3.3, 6.8
"""Widths in inches: one column of a two-column paper, and both."""

DPI = 300
"""Of the PNG files: what journals ask of pictures, at the width of a column or of a page."""

# Okabe and Ito (2008), "Color Universal Design": told apart under the common colour-vision deficiencies
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"
# where those do not suffice: Tol (2021), "Colour schemes", the muted one, as far as it is unlike the others
WINE, INDIGO, OLIVE = "#882255", "#332288", "#999933"

QUADRANT_COLOUR = {1: VERMILLION, 2: BLUE, 3: GREY, 4: GREEN}
"""Colour of a quadrant of the Error-Uncertainty plane."""

RC = {
    **dict.fromkeys(("axes.titlesize", "axes.labelsize"), 8),
    **dict.fromkeys(("font.size", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **{"legend.handlelength": 2.6, "legend.columnspacing": 1.2},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": "#E5E5E5", "grid.linewidth": 0.5},
    **{"lines.linewidth": 1.1, "lines.markersize": 3.6, "errorbar.capsize": 1.5, "savefig.dpi": DPI},
    "pdf.fonttype": 42,  # outlines of TrueType, which journals take, with text that can be searched
    "svg.fonttype": "path",  # the same look wherever the file is opened, with or without the font
    "svg.hashsalt": "qtuning",  # identifiers follow from the content, not from chance (see `_number_parts`)
}


# the fonts that matplotlib brings, always: the system's DejaVu may be of another version, with other outlines
fontManager.ttflist.clear()
for _file in sorted(Path(get_data_path(), "fonts", "ttf").glob("*.ttf")):
    fontManager.addfont(_file)


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure, the data it shows (its CSV holds exactly what is drawn, without the column `colour`), and what its
    caption says of it."""

    figure: Figure
    data: pl.DataFrame
    text: str = ""


@contextmanager
def styled() -> Iterator[None]:
    """Our style, and nothing of the user's own matplotlibrc: figures are drawn and saved inside."""
    with style.context(["default", RC]):
        yield


def panels(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of width x height inches, and its panels row by row; nothing overlaps (constrained layout)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def letter(axes: Axes, index: int, title: str = "") -> None:
    """`(a) title`, above the left end of a panel."""
    axes.set_title(f"({'abcdefghijklmnopqrstuvwxyz'[index]}) {title}".rstrip(), loc="left")


LEGEND_ROW = 0.15
"""Height of a row of a legend, in inches."""


def legend_below(
    figure: Figure, axes: Iterable[Axes], most: int, order: Sequence[str] | None = None, **options: Any
) -> None:
    """A legend of the panels under them, each label once, in as many columns as there is room for, `most` at most.

    order: all labels that there can be, in the order of the legend; by default they come as the panels have them. The
    figure has room for the rows of `most` columns; it grows where the labels need more rows.
    """
    found: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = list(found) if order is None else sorted(found, key=order.index)
    for columns in range(min(most, len(labels)), 0, -1):
        handles = [found[label] for label in labels]
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, **options)
        figure.draw_without_rendering()
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            rows = math.ceil(len(labels) / columns) - math.ceil(len(labels) / most)
            figure.set_figheight(figure.get_figheight() + LEGEND_ROW * rows)
            return
        legend.remove()


def colour_bar(figure: Figure, axes: Sequence[Axes], colours: ScalarMappable, label: str, **options: Any) -> Colorbar:
    """What the colours of the panels mean."""
    bar = figure.colorbar(colours, ax=list(axes), **options)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    return bar


def save(drawing: Drawing, folder: Path, name: str) -> list[Path]:
    """Write `name`.svg, .pdf, .png and .csv to `folder`, each atomically; equal drawings give equal bytes."""
    *pictures, data = (folder / f"{name}.{suffix}" for suffix in ("svg", "pdf", "png", "csv"))
    undated = {"Date": None, "Creator": None}, {"CreationDate": None, "Creator": None, "Producer": None}
    folder.mkdir(parents=True, exist_ok=True)
    with styled():
        # laid out once: all files look the same, and the later ones cost less
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine("none")
        for path, metadata in zip(pictures, (*undated, {"Software": None}), strict=True):
            with atomic_path(path) as temporary:
                drawing.figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)
                if path.suffix == ".svg":
                    _number_parts(temporary)
    with atomic_path(data) as temporary:
        drawing.data.select(pl.exclude("colour")).write_csv(temporary)
    return [*pictures, data]


def _number_parts(svg: Path) -> None:
    """Name clip paths, markers and hatches by their order in the file.

    matplotlib makes their names of the positions to the last bit, which another processor rounds otherwise.
    """
    text = svg.read_text(encoding="utf-8")
    names: dict[str, str] = {}
    for name in re.findall(r'id="([pmh][0-9a-f]{10})"', text):
        names.setdefault(name, f"part{len(names) + 1}")
    svg.write_text(
        re.sub(r"\b[pmh][0-9a-f]{10}\b", lambda found: names.get(found[0], found[0]), text), encoding="utf-8"
    )
