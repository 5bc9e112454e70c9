"""How the lines and markers of methods look: the sample pruner by colour, the token pruner by marker and line style."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import polars as pl

from qtuning.figures.style import BLACK, BLUE, GREEN, GREY, INDIGO, OLIVE, ORANGE, PURPLE, SKY, VERMILLION, WINE

SAMPLE_COLOUR = {
    "q-tuning": VERMILLION,
    "random": BLACK,
    "longest": BLUE,
    "infobatch": ORANGE,
    "entropy": GREEN,
    "full": GREY,
}
TOKEN_COLOUR = {"random": BLACK, "ppl": BLUE, "fastv": ORANGE, "sparsevlm": GREEN}
"""The colour tells the token pruner where all samples are kept."""

Property = TypeVar("Property")

Shape = tuple[str, Any]
"""Marker and line style."""

TOKEN_SHAPE: dict[str, Shape] = {
    "q-tuning": ("o", "-"),
    "none": ("P", (0, (9, 2))),
    "random": ("s", (0, (4, 1.5))),
    "ppl": ("^", (0, (4, 1.2, 1, 1.2))),
    "fastv": ("D", (0, (1, 1.2))),
    "sparsevlm": ("v", (0, (4, 1, 1, 1, 1, 1))),
}

SPARE_COLOURS = (PURPLE, SKY, WINE, INDIGO, OLIVE)
"""For plug-ins and for variants of a method."""

SPARE_SHAPES: tuple[Shape, ...] = (
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


BUDGET_LOOKS = tuple(
    Look(colour, *shape, 1.2)
    for colour, shape in zip(
        (VERMILLION, BLUE, GREEN, ORANGE, PURPLE, SKY),
        (*(TOKEN_SHAPE[name] for name in ("q-tuning", "random", "ppl", "fastv", "sparsevlm")), ("P", (0, (2, 1)))),
        strict=True,
    )
)
"""Where curves are budgets, not methods."""

FULL_LOOK = Look("#444444", "x", (0, (6, 2)), 0.9)


def assign_looks(frame: pl.DataFrame) -> dict[str, Look]:
    """A look for each `label` of the points; up to some forty labels, no two have the same colour and marker.

    A method with default options has the colour of its sample pruner and the shape of its token pruner. If it is
    trained in several ways, only the first has them. All other rows are variants: they take colours and markers that no
    method with default options has, so that no variant looks like another method. Plug-ins take spare colours and
    shapes in the order of their rows.
    """
    rows = frame.unique("label", keep="first", maintain_order=True)
    plain = rows.filter(_plain())
    colours = _assign(_names(rows["sample_pruner"], "full"), SAMPLE_COLOUR, SPARE_COLOURS)
    shapes = _assign(_names(rows["token_pruner"], "none"), TOKEN_SHAPE, SPARE_SHAPES)
    looks: dict[str, Look] = {}
    # methods with default options choose first, so that the variants know what is taken
    for row in rows.sort(_varied(), ~_plain(), maintain_order=True).iter_rows(named=True):
        sample, token = row["sample_pruner"] or "full", row["token_pruner"] or "none"
        colour = TOKEN_COLOUR.get(token, colours[sample]) if sample == "full" else colours[sample]
        look = Look(colour, *shapes[token], 1.8 if row["method"] == "q-tuning" else 0.9)
        taken = {(other.colour, other.marker) for other in looks.values()}
        if row["label"] not in plain["label"] or (look.colour, look.marker) in taken:
            used = {*colours.values(), *(other.colour for other in looks.values())}
            spare = [Look(*choice, 0.9) for choice in _spare(colour, used, {marker for _, marker in taken})]
            look = next((other for other in spare if (other.colour, other.marker) not in taken), spare[-1])
        looks[row["label"]] = look
    return {label: looks[label] for label in rows["label"]}


def describe_looks(frame: pl.DataFrame) -> str:
    """What a caption says of the looks of these points."""
    kept = frame.filter((pl.col("sample_pruner") == "full") & pl.col("token_pruner").is_in(list(TOKEN_COLOUR)))
    text = f"Colour: sample pruner{' (token pruner, where all samples are kept)' if len(kept) else ''}; marker"
    text += " and line style: token pruner"
    rows = frame.unique("label", keep="first", maintain_order=True)
    plain = rows.filter(_plain())
    if len(plain) < len(rows) or plain.select("sample_pruner", "token_pruner").is_duplicated().any():
        text += "; variants of a method (in brackets) have a colour or a marker of their own"
    return f"{text}."


def _varied() -> pl.Expr:
    """Whether options differ from their defaults: `variant` is how the cell is trained, then such options."""
    return pl.col("variant").fill_null("") != pl.col("training").fill_null("")


def _plain() -> pl.Expr:
    """Whether a row may have the look of its method. The defaults of a plug-in are not known: it always may."""
    known = pl.col("sample_pruner").fill_null("").is_in(["", *SAMPLE_COLOUR])
    known &= pl.col("token_pruner").fill_null("").is_in(["", *TOKEN_SHAPE])
    return ~_varied() | ~known


def _names(column: pl.Series, empty: str) -> list[str]:
    """The pruners of a column, each once."""
    return [name or empty for name in column.unique(maintain_order=True)]


def _assign(names: Sequence[str], known: dict[str, Property], spare: Sequence[Property]) -> dict[str, Property]:
    """The property of each pruner: its own if it is known, else the next spare one."""
    others = [name for name in names if name not in known]
    return {name: known[name] for name in names if name in known} | {
        name: spare[number % len(spare)] for number, name in enumerate(others)
    }


def _spare(colour: str, used: set[str], markers: set[str]) -> Iterator[tuple[str, str, Any]]:
    """Colours, markers and line styles that a variant may take, the best first.

    The best is a colour that is not `used`, with a marker that is not in `markers` if there is one; then the method's
    own colour with any marker. Markers come from the back of SPARE_SHAPES, since the first
    ones look like a circle when small.
    """
    backwards = SPARE_SHAPES[::-1]
    shape = min(backwards, key=lambda shape: shape[0] in markers)
    yield from ((free, *shape) for free in SPARE_COLOURS if free not in used)
    for one, other in product((colour, *SPARE_COLOURS), backwards):
        yield one, *other
