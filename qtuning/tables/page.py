"""Pages of tables, free of markup. Markdown, LaTeX, HTML and the terminal all render the same `Page`.

So rows, blocks, arrows, bold and footnotes are the same in every output.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Parts:
    """A score as printed, in pieces, so that each output can align and emphasise them its own way.

    mean: `36.47`, or `–¹` for a hole; spread: ` ± 0.52` or empty; difference: ` ↑1.2` or empty; marks: ` †‡`, of a
    significant difference, or empty. falling: whether lower is better.
    """

    mean: str
    spread: str = ""
    difference: str = ""
    marks: str = ""
    best: bool = False
    falling: bool = False

    @property
    def verdict(self) -> Literal["better", "worse", ""]:
        """What the difference means."""
        arrow = next((arrow for arrow in "↑↓" if arrow in self.difference), "")
        return "" if not arrow else "better" if (arrow == "↓") == self.falling else "worse"


Field = str | Parts
"""One field of a table: a text, or a score in pieces."""


@dataclass(frozen=True)
class Column:
    """A column: its header, the heading that it shares with its neighbours (a model), whether it holds words."""

    name: str
    group: str = ""
    words: bool = False


@dataclass(frozen=True)
class Block:
    """Rows below a common heading, which is empty where a table has one block only."""

    title: str
    rows: tuple[tuple[Field, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table with its footnotes (numbered from 1) and notes.

    name: ASCII, unique on its page. title: empty for the main table of a page, which the page's title names. notes: how
    to read it; details: how it was measured. Files have both, the terminal only the former.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    footnotes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    @property
    def rows(self) -> Iterator[tuple[Field, ...]]:
        """All rows, whatever their block."""
        return (row for block in self.blocks for row in block.rows)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Notes and details."""
        return self.notes + self.details


@dataclass(frozen=True)
class Page:
    """A page: what it shows, what a reader must be warned of, its tables. name: ASCII, unique in a report.

    verdict: the first line, whether the experiment can rank methods; empty where that is not the question.
    """

    name: str
    title: str
    lead: tuple[str, ...]
    tables: tuple[Table, ...]
    warnings: tuple[str, ...] = ()
    verdict: str = ""


@dataclass
class Footnotes:
    """Numbers footnotes in the order of their first use; equal texts share a number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """Superscript number of a footnote."""
        if text not in self.texts:
            self.texts.append(text)
        return superscript(self.texts.index(text) + 1)


def superscript(number: int) -> str:
    """12 -> ¹²"""
    return str(number).translate(SUPERSCRIPTS)


def aligned(column: Sequence[Parts]) -> list[Parts]:
    """The scores of one column, each piece padded to the widest of its kind (`± 0.52` after its sign)."""
    mean, spread, difference, marks = (
        max((len(getattr(parts, piece)) for parts in column), default=0)
        for piece in ("mean", "spread", "difference", "marks")
    )
    return [
        replace(
            parts,
            mean=parts.mean.rjust(mean),
            spread=f" ± {parts.spread[3:]:>{spread - 3}}" if parts.spread else " " * spread,
            difference=parts.difference.rjust(difference),
            marks=parts.marks.ljust(marks),
        )
        for parts in column
    ]
