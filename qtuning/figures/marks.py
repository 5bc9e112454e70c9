"""How the lines and markers of methods look: the sample pruner by colour, the token pruner by marker and line style."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, product
from typing import Any

import polars as pl

from qtuning.experiment.presets import PRESETS
from qtuning.figures.style import BLACK, BLUE, GREEN, GREY, INDIGO, OLIVE, ORANGE, PURPLE, SKY, VERMILLION, WINE

SAMPLE_COLOUR = {"q-tuning": VERMILLION, "random": BLACK, "longest": BLUE}
SAMPLE_COLOUR |= {"infobatch": ORANGE, "entropy": GREEN, "full": GREY}
TOKEN_COLOUR = {"random": BLACK, "ppl": BLUE, "fastv": ORANGE, "sparsevlm": GREEN}
"""The colour tells the token pruner where all samples are kept."""

TOKEN_SHAPE: dict[str, tuple[str, Any]] = {
    "q-tuning": ("o", "-"),
    "none": ("P", (0, (9, 2))),
    "random": ("s", (0, (4, 1.5))),
    "ppl": ("^", (0, (4, 1.2, 1, 1.2))),
    "fastv": ("D", (0, (1, 1.2))),
    "sparsevlm": ("v", (0, (4, 1, 1, 1, 1, 1))),
}
"""Marker and line style."""

SPARE_COLOURS = (PURPLE, SKY, WINE, INDIGO, OLIVE)
"""For plug-ins and for variants of a method."""

SPARE_SHAPES: tuple[tuple[str, Any], ...] = (
    ("p", (0, (8, 1, 2, 1))),
    ("h", (0, (1, 3))),
    ("X", (0, (2, 1))),
    ("<", (0, (7, 1, 1, 1, 1, 1, 1, 1))),
    (">", (0, (3, 3))),
    ("*", (0, (2, 1, 6, 1))),
    ("d", (0, (6, 2.5))),
)
"""Plug-ins take these from the front, variants of a method from the back."""

SIZE = {"*": 6.5, **dict.fromkeys("PX<>dp", 4.8)}
"""Size in points of the markers that look smaller than the others at the same size."""

VARIED = pl.col("variant") != pl.col("training")
"""Whether options differ from their defaults: `variant` is how the cell is trained, then such options."""

PLAIN = ~(VARIED & pl.col("sample_pruner").is_in([*SAMPLE_COLOUR]) & pl.col("token_pruner").is_in([*TOKEN_SHAPE]))
"""Whether a row may have the look of its method. The defaults of a plug-in are not known: it always may."""


@dataclass(frozen=True)
class Look:
    """Colour, marker, line style and line width (points) of a curve."""

    colour: str
    marker: str
    dashes: Any
    width: float = 1.0

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": SIZE.get(self.marker, 3.6),
            "linestyle": self.dashes,
            "linewidth": self.width,
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
        }


BUDGET_LOOKS = (
    Look(VERMILLION, *TOKEN_SHAPE["q-tuning"], 1.2),
    Look(BLUE, *TOKEN_SHAPE["random"], 1.2),
    Look(GREEN, *TOKEN_SHAPE["ppl"], 1.2),
    Look(ORANGE, *TOKEN_SHAPE["fastv"], 1.2),
    Look(PURPLE, *TOKEN_SHAPE["sparsevlm"], 1.2),
    Look(SKY, "P", (0, (2, 1)), 1.2),
)
"""Where curves are budgets, not methods."""

FULL_LOOK = Look("#444444", "x", (0, (6, 2)), 0.9)


def assign_looks(frame: pl.DataFrame) -> dict[str, Look]:
    """A look for each `label` of the points; up to some forty labels, no two have the same colour and marker.

    A method with default options has the colour of its sample pruner and the shape of its token pruner. If it is
    trained in several ways, only the first has them. All other rows are variants: they take colours and markers that no
    method with default options has, so that no variant looks like another method. Plug-ins take spare colours and
    shapes in the order of their rows. A row with a `colour` of its own has that; nobody makes room for it.
    """
    rows = frame.unique("label", keep="first", maintain_order=True).with_columns(plain=PLAIN)
    colours = _with_spare(rows["sample_pruner"], SAMPLE_COLOUR, SPARE_COLOURS)
    shapes: dict[str, tuple[str, Any]] = _with_spare(rows["token_pruner"], TOKEN_SHAPE, SPARE_SHAPES)
    looks: dict[str, Look] = {}
    # methods with default options choose first, so that the variants know what is taken
    for row in rows.sort(VARIED, ~pl.col("plain"), maintain_order=True).iter_rows(named=True):
        sample, token = row["sample_pruner"], row["token_pruner"]
        colour = TOKEN_COLOUR.get(token, colours[sample]) if sample == "full" else colours[sample]
        look = Look(colour, *shapes[token], 1.8 if row["method"] in PRESETS else 0.9)
        taken = {(other.colour, other.marker) for other in looks.values()}
        if not row["plain"] or (look.colour, look.marker) in taken:
            used = {*colours.values(), *(other.colour for other in looks.values())}
            spare = [Look(*choice, 0.9) for choice in _spare(colour, used, {marker for _, marker in taken})]
            look = next((other for other in spare if (other.colour, other.marker) not in taken), spare[-1])
        looks[row["label"]] = look
    own = {row["label"]: row["colour"] for row in rows.iter_rows(named=True) if row.get("colour")}
    looks |= {label: replace(looks[label], colour=colour) for label, colour in own.items()}
    return {label: looks[label] for label in rows["label"]}


def describe_looks(frame: pl.DataFrame) -> str:
    """What a caption says of the looks of these points."""
    kept = frame.filter((pl.col("sample_pruner") == "full") & pl.col("token_pruner").is_in(list(TOKEN_COLOUR)))
    text = f"Colour: sample pruner{' (token pruner, where all samples are kept)' if len(kept) else ''}; marker"
    text += " and line style: token pruner"
    rows = frame.unique("label", keep="first", maintain_order=True)
    plain = rows.filter(PLAIN)
    if len(plain) < len(rows) or plain.select("sample_pruner", "token_pruner").is_duplicated().any():
        text += "; variants of a method (in brackets) have a colour or a marker of their own"
    if "colour" in rows.columns and rows["colour"].is_not_null().any():
        text += "; some methods have a colour that the experiment names"
    return f"{text}."


def _with_spare(names: pl.Series, known: dict[str, Any], spare: Sequence[Any]) -> dict[str, Any]:
    """The known properties of pruners, and the next spare one for each other pruner among the names."""
    others = [name for name in names.unique(maintain_order=True) if name not in known]
    return {name: known[name] for name in names if name in known} | dict(zip(others, cycle(spare), strict=False))


def _spare(colour: str, used: set[str], markers: set[str]) -> Iterator[tuple[str, str, Any]]:
    """Colours, markers and line styles that a variant may take, the best first.

    The best is a colour that is not `used`, with a marker that is not in `markers` if there is one; then the method's
    own colour with any marker. Markers come from the back of SPARE_SHAPES, since the first ones look like a circle when
    small.
    """
    backwards = SPARE_SHAPES[::-1]
    shape = min(backwards, key=lambda shape: shape[0] in markers)
    yield from ((free, *shape) for free in SPARE_COLOURS if free not in used)
    yield from ((one, *other) for one, other in product((colour, *SPARE_COLOURS), backwards))
