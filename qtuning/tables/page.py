"""What every output draws: pages of tables, free of markup.

Markdown, LaTeX and HTML are renderings of one Page, so that rows, blocks, arrows, bold and footnotes are the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from qtuning.tables.labels import Parts

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

    name: ASCII, unique on its page. title: empty for the main table of a page, which the page's title names.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    footnotes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> Iterator[tuple[Field, ...]]:
        """All rows, whatever their block."""
        return (row for block in self.blocks for row in block.rows)

    @property
    def headers(self) -> list[str]:
        """The headers in one line each: `Mistral-7B ARC-E`."""
        return [f"{column.group} {column.name}".strip() for column in self.columns]


@dataclass(frozen=True)
class Page:
    """A page: what it shows, what a reader must be warned of, its tables."""

    name: str
    title: str
    lead: tuple[str, ...]
    tables: tuple[Table, ...]
    warnings: tuple[str, ...] = ()


def check(page: Page) -> Page:
    """The page itself; ValueError where a row has another number of fields than its table has columns."""
    for table in page.tables:
        for row in table.rows:
            if len(row) != len(table.columns):
                raise ValueError(
                    f"{page.name}, {table.name}: {len(row)} fields for {len(table.columns)} columns: {row}"
                )
    return page
