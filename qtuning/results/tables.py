"""The paper-style table of an experiment, from `results/scores.parquet` alone: Markdown, CSV and terminal."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from qtuning.files import atomic_path, write_text
from qtuning.results.costs import (
    COLUMNS,
    EXPLANATION,
    SELECTED,
    SELECTED_EXPLANATION,
    cost_rows,
    selection_rows,
)
from qtuning.results.layout import (
    Footnotes,
    Parts,
    aligned,
    benchmark_label,
    block_title,
    hole_text,
    named,
    pruner_labels,
    score_parts,
    subjects,
    superscript,
)
from qtuning.results.notes import how_measured, how_to_read
from qtuning.results.store import read_scores
from qtuning.results.summary import Entry, Line, Summary, summarise


def write_tables(experiment: str, results: Path) -> tuple[Path, Path]:
    """Write `results/tables/<experiment>.md` and `.csv`; return their paths. The same scores give the same bytes.

    While cells are still to be run, the files are `<experiment>.partial.md` and `.partial.csv`: a table with such
    holes must not pass for the finished one, or the workflow would have nothing left to do.
    """
    scores = read_scores(results, experiment)
    folder = Path(results) / "tables"
    finished = scores["status"].is_in(["done", "diverged"]).all()
    name = experiment if finished else f"{experiment}.partial"
    markdown_file, csv_file = folder / f"{name}.md", folder / f"{name}.csv"
    write_text(markdown_file, markdown(scores))
    with atomic_path(csv_file) as temporary:
        tidy(scores).write_csv(temporary)
    return markdown_file, csv_file


def markdown(scores: pl.DataFrame) -> str:
    """The rows of one experiment as a Markdown page: a block per budget, notes, costs."""
    summary = summarise(scores)
    footnotes = Footnotes()
    columns = [(model, benchmark) for model in summary.models for benchmark in summary.benchmarks]
    blocks = summary.blocks()
    # every block has the same column widths, so that the eye can run down the raw text, too
    parts = {
        (line, column): score_parts(
            summary.entries.get((line, *column)), line in summary.best(block, *column), footnotes
        )
        for block in blocks
        for line in block
        for column in columns
    }
    texts: dict[tuple[Line, tuple[str, str]], str] = {}
    for column in columns:
        column_texts = emphasised(aligned([parts[line, column] for line in summary.lines]))
        texts |= {(line, column): text for line, text in zip(summary.lines, column_texts, strict=True)}
    labels = named(scores, "model")
    headers = [
        "Sample pruner",
        "Token pruner",
        *(f"{labels[m]} {benchmark_label(b)}" if len(labels) > 1 else benchmark_label(b) for m, b in columns),
    ]
    rows = {line: [*pruner_labels(line), *(texts[line, column] for column in columns)] for line in summary.lines}
    widths = [max(map(len, cells)) for cells in zip(headers, *rows.values(), strict=True)]

    page = [f"# {scores['title'][0]}", "", f"Experiment `{scores['experiment'][0]}`. {subjects(scores)}", ""]
    train_sets = named(scores, "train_set")
    for block in blocks:
        title = block_title(block[0])
        page += [f"## {train_sets[block[0].train_set]}: {title}" if len(train_sets) > 1 else f"## {title}", ""]
        page += [*grid(headers, [rows[line] for line in block], widths, left=2), ""]
    page += [f"- {superscript(number)} {text}" for number, text in enumerate(footnotes.texts, start=1)]
    page += [*(f"- {note}" for note in (*how_to_read(scores, summary), *how_measured(scores, summary))), ""]
    page += [*_cost_sections(scores, summary, labels)]
    return "\n".join(page).rstrip() + "\n"


def emphasised(column: Sequence[Parts]) -> list[str]:
    """One column of scores, each piece under its like, the best mean in bold.

    Where a column has bold means, the others get two spaces on both sides, so that the raw text stays aligned.
    """
    bold = any(parts.best for parts in column)
    texts = []
    for parts in column:
        mean = parts.mean.lstrip()
        gap = " " * (len(parts.mean) - len(mean))
        texts.append(gap + (f"**{mean}**" if parts.best else f"  {mean}  " if bold else mean) + parts.rest)
    return texts


def grid(headers: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], left: int) -> list[str]:
    """A pipe table with the given column widths; the first `left` columns are aligned left, the others right."""

    def pipe(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (width + 1) if index < left else "-" * (width + 1) + ":" for index, width in enumerate(widths)]
    return [pipe(headers), f"|{'|'.join(rule)}|", *map(pipe, rows)]


def tidy(scores: pl.DataFrame) -> pl.DataFrame:
    """One row per budget x method x model x benchmark (`avg` among them), as in the Markdown table but unrounded.

    A hole has a null mean, n_seeds = 0, the status of its first missing cell and the whole reason.
    """
    summary = summarise(scores)
    rows = []
    for (line, model, benchmark), entry in summary.entries.items():
        row: dict[str, object] = {
            "experiment": scores["experiment"][0],
            "train_set": line.train_set,
            "sample_ratio": line.sample_ratio,
            "token_ratio": line.token_ratio,
            "method": line.method,
            "sample_pruner": line.sample_pruner,
            "token_pruner": line.token_pruner,
            "variant": line.variant,
            "model": model,
            "benchmark": benchmark,
        }
        if isinstance(entry, Entry):
            row |= {"mean": entry.mean, "sd": entry.sd, "n_seeds": len(entry.seeds), "seeds": " ".join(entry.seeds)}
            row |= {"difference": entry.difference, "difference_sd": entry.difference_sd}
            row |= {"items": entry.items, "metric": entry.metric, "status": "done"}
        else:
            row |= {"n_seeds": 0, "status": entry.missing[0][1], "reason": hole_text(entry)}
        rows.append(row)
    return pl.DataFrame(rows, schema=CSV_SCHEMA).with_columns(pl.selectors.float().round(6))


CSV_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("experiment", "train_set"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(
        ("method", "sample_pruner", "token_pruner", "variant", "model", "benchmark", "metric"), pl.String()
    ),
    **dict.fromkeys(("mean", "sd"), pl.Float64()),
    "n_seeds": pl.Int64(),
    "seeds": pl.String(),
    **dict.fromkeys(("difference", "difference_sd"), pl.Float64()),
    "items": pl.Int64(),
    **dict.fromkeys(("status", "reason"), pl.String()),
}
"""Columns of the CSV table, in order."""


def _cost_sections(scores: pl.DataFrame, summary: Summary, labels: dict[str, str]) -> list[str]:
    """The tables of costs and of what was selected; nothing where no cell is trained, or none is pruned."""
    lines: list[str] = []
    for title, columns, rows, explanation in (
        ("What it cost", COLUMNS, cost_rows(scores, summary), EXPLANATION),
        ("What was selected", SELECTED, selection_rows(scores, summary), SELECTED_EXPLANATION),
    ):
        if not rows:
            continue
        several = len(labels) > 1
        headers = ["Samples x Tokens", "Method", *(["Model"] if several else []), *columns]
        cells = [[row.budget, row.method, *([labels[row.model]] if several else []), *row.values] for row in rows]
        widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
        table = grid(headers, cells, widths, left=3 if several else 2)
        lines += [*([""] if lines else []), f"## {title}", "", *table, "", f"- {explanation}"]
    return lines
