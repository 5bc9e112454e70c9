"""A page of tables as Markdown, aligned so that the raw text reads well, too."""

import re
from collections.abc import Sequence
from itertools import islice

from qtuning.tables.page import Field, Page, Parts, Table, aligned, superscript


def render_markdown(page: Page) -> str:
    """The page as GitHub-flavoured Markdown."""
    lines = [f"# {escape(page.title)}", ""]
    lines += [f"**{escape(page.verdict)}**", ""] if page.verdict else []
    lines += [*(escape(text) for text in page.lead), ""]
    for warning in page.warnings:
        lines += [f"> **Warning.** {escape(warning)}", ""]
    for table in page.tables:
        lines += [*_table(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def escape(text: str) -> str:
    """Text with a backslash before what Markdown would take for markup; line breaks become blanks."""
    return re.sub(r"([\\|<*`]|](?=\())", r"\\\1", " ".join(text.splitlines()))


def _table(table: Table) -> list[str]:
    lines = [f"## {escape(table.title)}", ""] if table.title else []
    columns = list(zip(*table.rows, strict=True))
    texts = [_texts(column) for column in columns] if columns else [[] for _ in table.columns]
    headers = [escape(f"{column.group} {column.name}".strip()) for column in table.columns]
    # every block has the same column widths, so that the eye can run down the raw text, too
    widths = [max(map(len, (header, *column))) for header, column in zip(headers, texts, strict=True)]
    words = [column.words for column in table.columns]
    rows = zip(*texts, strict=True)
    for block in table.blocks:
        if block.title:
            lines += [f"{'###' if table.title else '##'} {escape(block.title)}", ""]
        lines += [*_grid(headers, list(islice(rows, len(block.rows))), widths, words), ""]
    lines += [f"- {superscript(number)} {escape(text)}" for number, text in enumerate(table.footnotes, start=1)]
    lines += [f"- {escape(note)}" for note in table.all_notes]
    return lines


def _texts(column: Sequence[Field]) -> list[str]:
    """One column of fields; scores with each piece under its like, the best mean in bold.

    Where a column has bold means, the others get two spaces on both sides, so that the raw text stays aligned.
    """
    scores = iter(aligned([field for field in column if isinstance(field, Parts)]))
    bold = any(isinstance(field, Parts) and field.best for field in column)
    texts = []
    for field in column:
        if not isinstance(field, Parts):
            texts.append(escape(field))
            continue
        parts = next(scores)
        mean = parts.mean.lstrip()
        gap = " " * (len(parts.mean) - len(mean))
        mean = f"**{mean}**" if parts.best else f"  {mean}  " if bold else mean
        texts.append(gap + mean + parts.spread + parts.difference + parts.marks)
    return texts


def _grid(
    headers: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], words: Sequence[bool]
) -> list[str]:
    """A pipe table with the given column widths; words are aligned left, numbers right."""
    forms = [f"{{:{'<' if left else '>'}{width}}}" for width, left in zip(widths, words, strict=True)]
    line = f"| {' | '.join(forms)} |"
    dashes = ["-" * (width + 1) for width in widths]
    rule = [f":{dash}" if left else f"{dash}:" for dash, left in zip(dashes, words, strict=True)]
    return [line.format(*headers), f"|{'|'.join(rule)}|", *(line.format(*row) for row in rows)]
