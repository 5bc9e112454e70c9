"""A page of tables as LaTeX: `table` environments with booktabs, to be \\input into a paper."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby

from qtuning.tables.page import Column, Field, Page, Parts, Table, superscript

LINES = 52
"""Lines that fit on a page at the size that is used, rows and notes together."""

LINE = 105
"""Characters in one line of a note, about."""

SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "{}#$%&_"},
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
    "∞": r"$\infty$",
    "−": r"$-$",
}
"""What LaTeX would read as a command, and what its default fonts lack."""

RAISED = {superscript(digit): str(digit) for digit in range(10)}

PREAMBLE = "% needs: \\usepackage[T1]{fontenc} \\usepackage{textcomp,booktabs,graphicx}"


def render_latex(page: Page) -> str:
    """The page as a fragment: a `table` environment for each table, with its notes."""
    title = " ".join(page.title.split()).encode("ascii", "replace").decode()  # a comment is one line of ASCII
    lines = [f"% {title}", PREAMBLE]
    for table in page.tables:
        lines += ["", *_float(page, table)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; a character that its default fonts do not have is named by its number."""
    pieces = []
    # superscripts that follow each other are one number
    for raised, characters in groupby(text, lambda character: character in RAISED):
        if raised:
            pieces.append(rf"\textsuperscript{{{''.join(RAISED[character] for character in characters)}}}")
        else:
            pieces += [_character(character) for character in characters]
    return "".join(pieces)


def _character(character: str) -> str:
    if character in SIGNS or character.isspace():
        return SIGNS.get(character, " ")
    # the accented letters of Latin-1, all of which T1 has
    accented = character.isalpha() and "À" <= character <= "ÿ" and unicodedata.decomposition(character)
    return character if accented or " " < character <= "~" else f"[U+{ord(character):04X}]"


def _float(page: Page, table: Table) -> Iterator[str]:
    """The environment of one table. Notes that would not fit on its page follow as text."""
    notes = [f"{superscript(number)} {text}" for number, text in enumerate(table.footnotes, start=1)]
    notes += [*page.warnings, *table.all_notes]
    lines = sum(1 + len(block.rows) for block in table.blocks) + sum(1 + len(note) // LINE for note in notes)
    title = f"{page.title}: {table.title.lower()}" if table.title else page.title
    caption = escape(title if table.title or not page.verdict else f"{title}. {page.verdict}")
    label = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", text) for text in (page.name, table.name))
    yield r"\begin{table}[tp]"
    yield r"\centering\footnotesize\setlength{\tabcolsep}{4pt}"
    yield rf"\caption{{{caption}}}\label{{tab:{label}}}"
    # never enlarged, and only made smaller where it is longer than the page or wider than the text
    yield r"\resizebox*{!}{\ifdim\totalheight>.85\textheight .85\textheight\else\totalheight\fi}{%"
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield from _tabular(table)
    yield "}}"
    if notes and lines <= LINES:
        yield from _notes(notes)
    yield r"\end{table}"
    if notes and lines > LINES:
        yield from _notes(notes, rf"\textit{{Notes on {caption}.}}\par")


def _notes(notes: Sequence[str], heading: str = "") -> list[str]:
    return [
        r"\par\medskip\noindent\begin{minipage}{\linewidth}\scriptsize\raggedright" + heading,
        *(f"{escape(note)}\\par" for note in notes),
        r"\end{minipage}\par",
    ]


def _tabular(table: Table) -> Iterator[str]:
    yield rf"\begin{{tabular}}{{{''.join('l' if column.words else 'r' for column in table.columns)}}}"
    yield r"\toprule"
    if any(column.group for column in table.columns):
        yield from _groups(table.columns)
    yield " & ".join(escape(column.name) for column in table.columns) + r" \\"
    for block in table.blocks:
        yield r"\midrule"
        if block.title:
            yield rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\textit{{{escape(block.title)}}}}} \\"
        for row in block.rows:
            yield " & ".join(map(_field, row)) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}%"


def _groups(columns: Sequence[Column]) -> Iterator[str]:
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
