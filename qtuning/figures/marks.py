"""How methods are told apart: the sample pruner by colour, the token pruner by marker and line style."""

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
"""Where all samples are kept, the colour is free for the token pruner."""

Own = TypeVar("Own")

Look = tuple[str, Any]
"""Marker and line style."""

TOKEN_LOOK: dict[str, Look] = {
    "q-tuning": ("o", "-"),
    "none": ("P", (0, (9, 2))),
    "random": ("s", (0, (4, 1.5))),
    "ppl": ("^", (0, (4, 1.2, 1, 1.2))),
    "fastv": ("D", (0, (1, 1.2))),
    "sparsevlm": ("v", (0, (4, 1, 1, 1, 1, 1))),
}

SPARE_COLOURS = (PURPLE, SKY, WINE, INDIGO, OLIVE)
"""Of no pruner that has a name above: those of plug-ins and of variants."""

SPARE_LOOKS: tuple[Look, ...] = (
    ("p", (0, (8, 1, 2, 1))),
    ("h", (0, (1, 3))),
    ("X", (0, (2, 1))),
    ("<", (0, (7, 1, 1, 1, 1, 1, 1, 1))),
    (">", (0, (3, 3))),
    ("*", (0, (2, 1, 6, 1))),
    ("d", (0, (6, 2.5))),
)
"""Of no token pruner above: plug-ins take them from the front, variants from the back."""

SIZE = {"*": 6.5, **dict.fromkeys("PX<>dp", 4.8)}
"""Points, of markers that look smaller than the others at the same size."""


@dataclass(frozen=True)
class Mark:
    """Colour, marker and line style of a method."""

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


def marks(frame: pl.DataFrame) -> dict[str, Mark]:
    """A mark per `label` of the points, no two alike (of some forty).

    A plain method, with no options but the defaults, has the colour of its sample pruner and the look of its token
    pruner; trained in several ways, the first of them. All others are variants: they take what no plain method has, so
    that none is mistaken for another method. Plug-ins take spare colours and looks in the order of their rows.
    """
    rows = frame.unique("label", keep="first", maintain_order=True)
    plain = rows.filter(_plain())
    colours = _assigned(_names(rows["sample_pruner"], "full"), SAMPLE_COLOUR, SPARE_COLOURS)
    looks = _assigned(_names(rows["token_pruner"], "none"), TOKEN_LOOK, SPARE_LOOKS)
    found: dict[str, Mark] = {}
    for row in rows.sort(_varied(), ~_plain(), maintain_order=True).iter_rows(named=True):
        sample, token = row["sample_pruner"] or "full", row["token_pruner"] or "none"
        colour = TOKEN_COLOUR.get(token, colours[sample]) if sample == "full" else colours[sample]
        own = Mark(colour, *looks[token], 1.8 if row["method"] == "q-tuning" else 0.9)
        taken = {(mark.colour, mark.marker) for mark in found.values()}
        if row["label"] in plain["label"] and (own.colour, own.marker) not in taken:
            found[row["label"]] = own
            continue
        used = {*colours.values(), *(mark.colour for mark in found.values())}
        spare = [Mark(*choice, 0.9) for choice in _spare(colour, used, {marker for _, marker in taken})]
        found[row["label"]] = next((mark for mark in spare if (mark.colour, mark.marker) not in taken), spare[-1])
    return {label: found[label] for label in rows["label"]}


def key(frame: pl.DataFrame) -> str:
    """What a caption says of the marks of these points."""
    kept = frame.filter((pl.col("sample_pruner") == "full") & pl.col("token_pruner").is_in(list(TOKEN_COLOUR)))
    text = f"Colour: sample pruner{' (token pruner, where all samples are kept)' if len(kept) else ''}; marker"
    text += " and line style: token pruner"
    rows = frame.unique("label", keep="first", maintain_order=True)
    plain = rows.filter(_plain())
    if len(plain) < len(rows) or plain.select("sample_pruner", "token_pruner").is_duplicated().any():
        text += "; variants of a method (in brackets) have a colour or a marker of their own"
    return f"{text}."


def _varied() -> pl.Expr:
    """Whether options are not at their defaults; `variant` begins with how the cell is trained."""
    return pl.col("variant").fill_null("") != pl.col("training").fill_null("")


def _plain() -> pl.Expr:
    """Whether a row may have the look of its method. Options of plug-ins have no known defaults: all of them count."""
    known = pl.col("sample_pruner").fill_null("").is_in(["", *SAMPLE_COLOUR])
    known &= pl.col("token_pruner").fill_null("").is_in(["", *TOKEN_LOOK])
    return ~_varied() | ~known


def _names(column: pl.Series, empty: str) -> list[str]:
    """The pruners of a column, each once."""
    return [name or empty for name in column.unique(maintain_order=True)]


def _assigned(names: Sequence[str], known: dict[str, Own], spare: Sequence[Own]) -> dict[str, Own]:
    """What each pruner has: its own, or the next spare one."""
    found = {name: known[name] for name in names if name in known}
    others = [name for name in names if name not in known]
    return found | {name: spare[number % len(spare)] for number, name in enumerate(others)}


def _spare(colour: str, colours: set[str], markers: set[str]) -> Iterator[tuple[str, str, Any]]:
    """Colour, marker and line style for a variant: of a free colour, with a free marker, if there is one. Else of the
    method's own colour, with markers as they come: those left over in SPARE_LOOKS look like a circle when small.
    colours, markers: those that are not free."""
    backwards = SPARE_LOOKS[::-1]
    looks = sorted(backwards, key=lambda look: look[0] in markers)
    yield from ((free, *looks[0]) for free in SPARE_COLOURS if free not in colours)
    for one, look in product((colour, *SPARE_COLOURS), backwards):
        yield one, *look
