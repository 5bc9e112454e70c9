"""How methods are told apart: the sample pruner by colour, the token pruner by marker and line style."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from qtuning.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

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

TOKEN_MARK: dict[str, tuple[str, Any]] = {
    "q-tuning": ("o", "-"),
    "none": ("o", "-"),
    "random": ("s", (0, (4, 1.5))),
    "ppl": ("^", (0, (4, 1.2, 1, 1.2))),
    "fastv": ("D", (0, (1, 1.2))),
    "sparsevlm": ("v", (0, (4, 1, 1, 1, 1, 1))),
}
SPARE_COLOURS = (PURPLE, SKY, BLUE, GREEN, ORANGE, BLACK, GREY)
SPARE_MARKS = ("P", "X", "<", ">", "*", "p", "h", "d", "8")
SPARE_DASHES: tuple[Any, ...] = ((0, (2, 1)), (0, (6, 2)), (0, (3, 1, 1, 1)), (0, (1, 2)))


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
            "linestyle": self.dashes,
            "linewidth": self.width,
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
        }


def marks(frame: pl.DataFrame) -> dict[str, Mark]:
    """A mark per `label` of the points, no two alike; the well-known methods look the same in every figure."""
    found: dict[str, Mark] = {}
    taken: set[tuple[str, str]] = set()
    rows = frame.unique("label", keep="first", maintain_order=True)
    plain_first = rows.sort(pl.col("variant").fill_null("") != "", maintain_order=True)
    for row in plain_first.iter_rows(named=True):
        sample, token = row["sample_pruner"] or "full", row["token_pruner"] or "none"
        marker, dashes = TOKEN_MARK.get(token, (SPARE_MARKS[0], SPARE_DASHES[0]))
        colour = TOKEN_COLOUR.get(token) if sample == "full" else None
        choices = [(colour or SAMPLE_COLOUR.get(sample, SPARE_COLOURS[0]), marker, dashes)]
        choices += [
            (
                SPARE_COLOURS[n % len(SPARE_COLOURS)],
                SPARE_MARKS[n % len(SPARE_MARKS)],
                SPARE_DASHES[n % len(SPARE_DASHES)],
            )
            for n in range(len(SPARE_COLOURS) * len(SPARE_MARKS))
        ]
        colour, marker, dashes = next(c for c in choices if c[:2] not in taken)
        taken.add((colour, marker))
        found[row["label"]] = Mark(
            colour, marker, dashes, 1.8 if row["method"] == "q-tuning" and not row["variant"] else 0.9
        )
    return {label: found[label] for label in rows["label"]}
