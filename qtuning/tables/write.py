"""The tables of an experiment, from `results/scores.parquet` alone: Markdown, CSV, LaTeX and HTML, by cost, and beside
the paper's numbers."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from qtuning.files import atomic_path, write_text
from qtuning.paper.beside import compare_with_paper, paper_page, tidy_numbers
from qtuning.paper.published import read_published, table_number
from qtuning.paper.signs import compare_signs, tidy_signs
from qtuning.store.comparable import training_warnings
from qtuning.store.store import read_scores
from qtuning.tables import html, latex, markdown
from qtuning.tables.bycost import cost_page, tidy_costs
from qtuning.tables.costs import cost_tables
from qtuning.tables.labels import (
    Footnotes,
    benchmark_label,
    block_title,
    hole_text,
    named,
    pruner_labels,
    score_parts,
    subjects,
)
from qtuning.tables.notes import how_measured, how_to_read
from qtuning.tables.page import Block, Column, Field, Page, Table, check
from qtuning.tables.significance import Marks, read_marks
from qtuning.tables.summary import Entry, Summary, summarise

KINDS = ("md", "csv", "tex", "html", "cost.md", "cost.csv", "paper.md", "paper.csv", "paper.html", "signs.csv")
"""Files of an experiment's tables, by what follows its name."""


def write_tables(
    experiment: str,
    results: Path,
    out: Path | None = None,
    comparisons: pl.DataFrame | None = None,
    notes: Sequence[str] = (),
) -> tuple[Path, ...]:
    """Write the tables of an experiment and return their paths. The same scores give the same bytes.

    results: folder of `scores.parquet`. out: folder to write, by default `results/tables`. comparisons: differences
    with their significance, which mark the scores (marks.py). notes: sentences to stand under the scores, too.

    Written are `<experiment>.md`, `.csv`, `.tex`, `.html`; the edition by cost, `<experiment>.cost.md`, `.csv`; and for
    an edition of table 1 or 2 `<experiment>.paper.md`, `.csv`, `.html` and `<experiment>.signs.csv`. While cells are
    still to be run, each name starts with `<experiment>.partial`: a table with such holes must not pass for the
    finished one, or the workflow would have nothing left to do. Files under the other name are removed.

    Raises UserError if the experiment has not been collected, or mixes what cannot be compared.
    """
    scores = read_scores(results, experiment)
    page = score_page(scores, comparisons, notes)
    by_cost = cost_page(scores)
    texts = {
        "md": markdown.render(page),
        "tex": latex.render(page),
        "html": html.render(page),
        "cost.md": markdown.render(by_cost),
    }
    frames = {"csv": tidy(scores), "cost.csv": tidy_costs(scores)}
    number = table_number(experiment)
    if number is not None:
        published, summary = read_published(), summarise(scores)
        numbers = compare_with_paper(scores, summary, published, number)
        signs = compare_signs(summary, published, number)
        beside = paper_page(scores, summary, numbers, signs)
        texts |= {"paper.md": markdown.render(beside), "paper.html": html.render(beside)}
        frames |= {"paper.csv": tidy_numbers(numbers), "signs.csv": tidy_signs(signs, experiment)}
    finished = scores["status"].is_in(["done", "diverged"]).all()
    name, other = experiment, f"{experiment}.partial"
    if not finished:
        name, other = other, name
    folder = Path(results) / "tables" if out is None else Path(out)
    paths = []
    for kind in KINDS:
        path = folder / f"{name}.{kind}"
        (folder / f"{other}.{kind}").unlink(missing_ok=True)  # of an earlier store, and no longer true
        if kind in texts:
            write_text(path, texts[kind])
        elif kind in frames:
            with atomic_path(path) as temporary:
                frames[kind].write_csv(temporary)
        else:
            continue
        paths.append(path)
    return tuple(paths)


def score_page(scores: pl.DataFrame, comparisons: pl.DataFrame | None = None, notes: Sequence[str] = ()) -> Page:
    """The rows of one experiment as a page: scores in a block per budget, what they cost, what was selected."""
    summary = summarise(scores)
    experiment = scores["experiment"][0]
    marks = read_marks(comparisons, experiment)
    below = (*how_to_read(scores, summary, marks), *notes, *how_measured(scores, summary))
    return check(
        Page(
            name=experiment,
            title=scores["title"][0],
            lead=(f"Experiment {experiment}. {subjects(scores)}",),
            tables=(score_table(scores, summary, marks, below), *cost_tables(scores, summary)),
            warnings=tuple(training_warnings(scores)),
        )
    )


def score_table(scores: pl.DataFrame, summary: Summary, marks: Marks, notes: Sequence[str] = ()) -> Table:
    """A block per train set and budget, a row per method, a column per model and benchmark."""
    footnotes = Footnotes()
    models, train_sets = named(scores, "model"), named(scores, "train_set")
    columns = [(model, benchmark) for model in summary.models for benchmark in summary.benchmarks]
    blocks = []
    for lines in summary.blocks():
        best = {column: summary.best(lines, *column) for column in columns}
        rows: tuple[tuple[Field, ...], ...] = tuple(
            (
                *pruner_labels(line),
                *(
                    score_parts(
                        summary.entries.get((line, *column)), line in best[column], footnotes, marks.of(line, *column)
                    )
                    for column in columns
                ),
            )
            for line in lines
        )
        title = block_title(lines[0])
        blocks.append(Block(f"{train_sets[lines[0].train_set]}: {title}" if len(train_sets) > 1 else title, rows))
    headers = (
        *(Column(name, words=True) for name in ("Sample pruner", "Token pruner")),
        *(Column(benchmark_label(name), models[model] if len(models) > 1 else "") for model, name in columns),
    )
    return Table("scores", "", headers, tuple(blocks), tuple(footnotes.texts), tuple(notes))


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
