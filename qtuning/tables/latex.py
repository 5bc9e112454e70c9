"""A page of tables as LaTeX: `table` environments with booktabs, to be \\input into a paper."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from math import ceil

from qtuning.tables.labels import Parts, superscript
from qtuning.tables.page import Block, Column, Field, Page, Table

SCORE_COLUMNS = 9
"""Columns of numbers that one table holds; more (by whole models) go to another, which keeps them legible."""

LINES = 52
"""Lines of one float at the size that is used, rows and notes together."""

LINE = 105
"""Characters in one line of a note, about."""

SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "{-}",  # two in a row would be joined to a dash
    "–": "--",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\textsection{}",
    "●": r"$\bullet$",
    "×": r"$\times$",
    "−": r"$-$",
}
"""What LaTeX would read as a command, and what its default fonts lack."""

PREAMBLE = "% needs: \\usepackage[T1]{fontenc} \\usepackage{textcomp,booktabs,graphicx}"


def render(page: Page) -> str:
    """The page as a fragment: one or more `table` environments for each table, with their notes."""
    lines = [f"% {_comment(page.title)}", PREAMBLE]
    for table in page.tables:
        lines += ["", *_floats(page, table)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; a character that its default fonts do not have is named by its number."""
    pieces = []
    # superscripts that follow each other are one number
    for raised, characters in groupby(text, lambda character: character in _RAISED):
        if raised:
            pieces.append(rf"\textsuperscript{{{''.join(_RAISED[character] for character in characters)}}}")
        else:
            pieces += [_character(character) for character in characters]
    return "".join(pieces)


_RAISED = {superscript(digit): str(digit) for digit in range(10)}


def _character(character: str) -> str:
    if character in SIGNS:
        return SIGNS[character]
    if character.isspace():
        return " "
    if " " < character <= "~":
        return character
    # the accented letters of Latin-1, all of which T1 has
    if character.isalpha() and "À" <= character <= "ÿ" and unicodedata.decomposition(character):
        return character
    return f"[U+{ord(character):04X}]"


def _comment(text: str) -> str:
    """Text for a comment: one line of ASCII."""
    return " ".join(text.split()).encode("ascii", "replace").decode()


def _floats(page: Page, table: Table) -> Iterator[str]:
    """The environments of one table: as many as keep it legible, and its notes below the last."""
    words = [index for index, column in enumerate(table.columns) if column.words]
    parts = [
        (words + columns, blocks) for columns in _column_parts(table.columns) for blocks in _block_parts(table.blocks)
    ]
    notes = [f"{superscript(number)} {text}" for number, text in enumerate(table.footnotes, start=1)]
    notes += [*page.warnings, *table.notes]
    length = sum(1 + len(note) // LINE for note in notes)
    for number, (columns, blocks) in enumerate(parts, start=1):
        last = number == len(parts)
        inside = last and sum(1 + len(block.rows) for block in blocks) + length <= LINES
        caption = f"{page.title}: {table.title.lower()}" if table.title else page.title
        if len(parts) > 1:
            caption += f" ({number} of {len(parts)})"
        label = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", text) for text in (page.name, table.name))
        yield r"\begin{table}[tp]"
        yield r"\centering\footnotesize\setlength{\tabcolsep}{4pt}"
        yield rf"\caption{{{escape(caption)}}}\label{{tab:{label}{f'-{number}' if number > 1 else ''}}}"
        # never enlarged, and only made smaller where it is wider than the text
        yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
        yield from _tabular(table, columns, blocks)
        yield "}"
        if inside and notes:
            yield from _notes(notes)
        yield r"\end{table}"
        if last and notes and not inside:
            yield from _notes(notes, rf"\textit{{Notes on {escape(caption)}.}}\par")


def _notes(notes: Sequence[str], heading: str = "") -> list[str]:
    return [
        r"\par\medskip\noindent\begin{minipage}{\linewidth}\scriptsize\raggedright" + heading,
        *(f"{escape(note)}\\par" for note in notes),
        r"\end{minipage}\par",
    ]


def _column_parts(columns: Sequence[Column]) -> list[list[int]]:
    """Indices of the columns of numbers, split between groups so that no part has more than SCORE_COLUMNS.

    A single group is never split: its average belongs to its benchmarks.
    """
    numbers = [index for index, column in enumerate(columns) if not column.words]
    parts: list[list[int]] = [[]]
    for _, group in groupby(numbers, lambda index: columns[index].group):
        members = list(group)
        if parts[-1] and len(parts[-1]) + len(members) > SCORE_COLUMNS:
            parts.append([])
        parts[-1] += members
    return parts


def _block_parts(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks in runs of at most LINES lines; only a block that is longer than that is split."""
    parts: list[list[Block]] = [[]]
    for block in chain.from_iterable(map(_pieces, blocks)):
        if parts[-1] and sum(1 + len(other.rows) for other in [*parts[-1], block]) > LINES:
            parts.append([])
        parts[-1].append(block)
    return parts


def _pieces(block: Block) -> Iterator[Block]:
    """The block, or as few parts of about one length as have room."""
    count = max(1, ceil(len(block.rows) / (LINES - 1)))
    size = ceil(len(block.rows) / count)
    for start in range(0, count * size, max(1, size)):
        title = f"{block.title} (continued)" if block.title and start else block.title
        yield Block(title, block.rows[start : start + size])


def _tabular(table: Table, columns: Sequence[int], blocks: Sequence[Block]) -> Iterator[str]:
    chosen = [table.columns[index] for index in columns]
    yield rf"\begin{{tabular}}{{{''.join('l' if column.words else 'r' for column in chosen)}}}"
    yield r"\toprule"
    if any(column.group for column in chosen):
        yield from _groups(chosen)
    yield " & ".join(escape(column.name) for column in chosen) + r" \\"
    for block in blocks:
        yield r"\midrule"
        if block.title:
            yield rf"\multicolumn{{{len(chosen)}}}{{l}}{{\textit{{{escape(block.title)}}}}} \\"
        for row in block.rows:
            yield " & ".join(_field(row[index]) for index in columns) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}%"


def _groups(columns: Sequence[Column]) -> Iterator[str]:
    """The headings over groups of columns, each with a rule below it."""
    headings, rules, start = [], [], 1
    for title, group in groupby(columns, lambda column: column.group):
        width = len(list(group))
        headings.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(title)}}}")
        if title:
            rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    yield " & ".join(headings) + r" \\"
    yield "".join(rules)


def _field(field: Field) -> str:
    """A text as it is; a score with a bold mean where it is best and the rest small, as in the paper."""
    if not isinstance(field, Parts):
        return escape(field)
    mean = escape(field.mean)
    small = escape(field.spread.replace("± ", "±") + field.difference)
    return (
        (rf"\textbf{{{mean}}}" if field.best else mean)
        + (rf"{{\tiny {small.strip()}}}" if small else "")
        + (rf"\textsuperscript{{{escape(field.marks.strip())}}}" if field.marks else "")
    )
