"""The page of an experiment: its scores, how they were measured, which of them differ, what they cost."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.statistics.compare import MARKS
from qtuning.statistics.families import EXPLORATORY, PRIMARY
from qtuning.statistics.summary import AVERAGE, Entry, Summary
from qtuning.store.comparable import training_warnings
from qtuning.store.lines import FULL, RANDOM, ZERO_SHOT, Line
from qtuning.tables.controls import LINE_KEY, POSITION, Positions, controls_line
from qtuning.tables.costs import cost_tables
from qtuning.tables.cut import COLUMNS, cut_columns, cut_notes
from qtuning.tables.html import render_html
from qtuning.tables.labels import (
    benchmark_label,
    block_title,
    definitions,
    items_asked,
    pruner_labels,
    score_parts,
    subjects,
)
from qtuning.tables.latex import render_latex
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Block, Column, Field, Footnotes, Page, Table
from qtuning.tables.quadrants import quadrant_columns, quadrant_fields, without_quadrants
from qtuning.tables.write import PageFiles

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
"""Columns of the CSV of scores, in order."""


@dataclass(frozen=True)
class Significance:
    """Which scores differ significantly, and from what.

    symbols: place of a score -> `†`, `‡`, `§` or several. legend: what they mean; empty where nothing was compared.
    """

    symbols: dict[tuple[object, ...], str]
    legend: list[str]

    def of(self, line: Line, model: str, benchmark: str) -> str:
        """The symbols of one score, or an empty text."""
        columns = line.columns() | {"model": model}
        return self.symbols.get((*(columns[name] for name in LINE_KEY), benchmark), "")


def read_significance(comparisons: pl.DataFrame | None, experiment: str) -> Significance:
    """The marks of an experiment among rows of `statistics.compare.compare`."""
    rows = [] if comparisons is None else comparisons.filter(pl.col("experiment") == experiment).to_dicts()
    symbols: dict[tuple[object, ...], str] = {}
    for row in sorted((row for row in rows if row["mark"]), key=lambda row: row["mark"]):
        place = tuple(row[name] for name in (*LINE_KEY, "benchmark"))
        symbols[place] = symbols.get(place, "") + row["mark"]
    return Significance(symbols, _legend(rows) if rows else [])


def score_page(summary: Summary, comparisons: pl.DataFrame | None = None, notes: Sequence[str] = ()) -> Page:
    """An experiment as a page: scores in a block per budget, what they cost, what was selected.

    A page by a likelihood metric has the scores only. comparisons: rows of `statistics.compare.compare` by the same
    metric, which mark the scores. notes: sentences to stand below them.
    """
    metric = summary.metric
    headline = metric.name == "headline"
    return Page(
        name=summary.experiment if headline else f"{summary.experiment}-{metric.name}",
        title=summary.title if headline else f"{summary.title}: {metric.label} ({_unit(summary)})",
        lead=(f"Experiment {summary.experiment}. {subjects(summary.scores)}",),
        tables=(_score_table(summary, comparisons, notes), *(cost_tables(summary) if headline else ())),
        warnings=tuple(training_warnings(summary.scores)),
        verdict=controls_line(summary, comparisons),
    )


def score_files(
    summary: Summary, comparisons: pl.DataFrame | None = None, notes: Sequence[str] = (), whole: bool = True
) -> PageFiles:
    """The page of an experiment, and its scores: NAME.md, or NAME.METRIC.md by a likelihood metric, and so on.

    whole: all renderings of the page, not Markdown alone. The other arguments are those of `score_page`.
    """
    page = score_page(summary, comparisons, notes)
    prefix = "" if summary.metric.name == "headline" else f"{summary.metric.name}."
    texts = {f"{prefix}md": render_markdown}
    if whole:
        texts |= {f"{prefix}tex": render_latex, f"{prefix}html": render_html}
    return PageFiles(page, texts, {f"{prefix}csv": tidy_scores(summary)})


def _unit(summary: Summary) -> str:
    unit = "%" if summary.metric.scale == 100 else summary.metric.unit
    return unit if summary.metric.higher_is_better else f"{unit}, lower is better"


def tidy_scores(summary: Summary) -> pl.DataFrame:
    """One row per line, model and benchmark (`avg` among them), as in the Markdown table but unrounded.

    A hole has a null mean, n_seeds = 0, the status of its first missing cell and the whole reason. Two columns more,
    where something was cut: how many prompts and answers, in the seed with the most.
    """
    rows, cut = [], cut_columns(summary)
    for (line, model, benchmark), entry in summary.entries.items():
        row = line.columns() | {"experiment": summary.experiment, "model": model, "benchmark": benchmark}
        if isinstance(entry, Entry):
            row |= vars(entry) | {"n_seeds": len(entry.seeds), "seeds": " ".join(entry.seeds), "status": "done"}
        else:
            row |= {"n_seeds": 0, "status": entry.missing[0][1], "reason": str(entry)}
        rows.append(row | cut.get((line, model, benchmark), {}))
    schema = CSV_SCHEMA | (dict.fromkeys(COLUMNS, pl.Int64()) if cut else {})
    return pl.DataFrame(rows, schema=schema).with_columns(pl.selectors.float().round(6))


def _score_table(summary: Summary, comparisons: pl.DataFrame | None, notes: Sequence[str]) -> Table:
    """A block per train set and budget, a row per line, a column per model and benchmark."""
    footnotes, entries = Footnotes(), summary.entries
    marks = read_significance(comparisons, summary.experiment)
    positions = Positions(summary, comparisons)
    places = [(model, benchmark) for model in summary.models for benchmark in summary.benchmarks]
    blocks, quadrants = [], quadrant_columns(summary.lines)
    for lines in summary.blocks():
        best = {place: summary.best(lines, *place) for place in places}
        rows: list[tuple[Field, ...]] = []
        for line in lines:
            scores: list[Field] = []
            for place in places:
                found, mark = entries.get((line, *place)), marks.of(line, *place)
                scores.append(score_parts(found, line in best[place], footnotes, mark, summary.metric))
                if place[1] == summary.overall and place[0] in positions.models:
                    scores.append(positions.of(line, place[0], footnotes))
            labels = (
                (*pruner_labels(without_quadrants(line)), *quadrant_fields(line)) if quadrants else pruner_labels(line)
            )
            rows.append((*labels, *scores))
        train_set = f"{summary.train_sets[lines[0].train_set]}: " if len(summary.train_sets) > 1 else ""
        blocks.append(Block(f"{train_set}{block_title(lines[0])}", tuple(rows)))
    columns = [*(Column(name, words=True) for name in ("Sample pruner", "Token pruner")), *quadrants]
    for model, benchmark in places:
        group = summary.models[model] if len(summary.models) > 1 else ""
        columns.append(Column(benchmark_label(benchmark), group))
        if benchmark == summary.overall and model in positions.models:
            columns.append(Column("Position", group))
    details = (*notes, _items(summary), *_evaluations(summary.scores), *_versions(summary.scores))
    how = (*_how_to_read(summary, marks), *([POSITION] if positions.models else []), *cut_notes(summary.scores))
    texts = tuple(footnotes.texts)
    return Table("scores", "", tuple(columns), tuple(blocks), texts, how, details)


def _how_to_read(summary: Summary, marks: Significance) -> list[str]:
    """The conventions of the score table, one statement per line."""
    seeds = list(summary.scores["seed"].drop_nulls().unique(maintain_order=True))
    notes, metric = [], summary.metric
    what = "Scores in per cent"
    if metric.name != "headline":
        what = (
            f"Scores are {metric.label} of the gold answer{f', {_unit(summary)}' if metric.scale != 100 else ' in %'}"
        )
    if len(seeds) > 1:
        notes.append(
            f"{what}: mean ± sample standard deviation over {len(seeds)} seeds ({', '.join(seeds)}); "
            "one seed sets the data order, the pruner and the initialisation."
        )
    elif seeds:
        notes.append(f"{what}, one seed ({seeds[0]}): the spread over seeds is not known.")
    if any(line.sample_pruner == "random" or line.token_pruner == "random" for line in summary.lines):
        better = "" if metric.higher_is_better else "; ↓ is better"
        notes.append(f"↑ ↓ =: difference from random + random pruning at the same budget, paired by seed{better}.")
    notes += marks.legend
    extreme = "highest" if metric.higher_is_better else "lowest"
    notes.append(f"Bold: {extreme} score of the column among the pruned methods of the block, controls left out.")
    if (whose := definitions(summary.lines)) is not None:
        notes.append(whose)
    if AVERAGE in summary.benchmarks:
        besides = [benchmark_label(name) for name in summary.benchmarks if name not in (AVERAGE, *summary.averaged)]
        without = f" other than {', '.join(besides)}" if besides else ""
        notes.append(f"Avg: unweighted mean of the benchmarks{without}, only where all of them are there.")
    return notes


def _legend(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the marks mean, how many comparisons were tested, and what is to be known of the tested ones."""

    def count(family: str) -> str:
        number = sum(row["p_adjusted"] is not None and row["family"] == family for row in rows)
        return f"{number} comparison{'' if number == 1 else 's'}"

    shown = [row for row in rows if row["mark"]]
    untrained = f", {MARKS[ZERO_SHOT]} from the model without training"
    legend = [
        f"{MARKS[RANDOM]} differs significantly from random + random at the same budget, {MARKS[FULL]} from the full "
        f"data{untrained if any(row['against'] == ZERO_SHOT for row in shown) else ''}: two-sided at 5%. Without "
        f"brackets, a primary comparison, after Holm's correction ({count(PRIMARY)}); in brackets, an exploratory one, "
        f"after Benjamini and Hochberg's ({count(EXPLORATORY)}). No mark is no proof of equality."
    ]
    tested = (row["note"] for row in rows if row["p_adjusted"] is not None)
    return legend + [f"Significance: {note}." for note in dict.fromkeys(tested) if note]


def _items(summary: Summary) -> str:
    """`Items (metric): ARC-E 200 (acc), guessing scores 25; ...`."""
    done = summary.rows.filter(pl.col("status") == "done")
    parts = []
    for benchmark in (name for name in summary.benchmarks if name != AVERAGE):
        rows = done.filter(pl.col("benchmark") == benchmark)
        detail = f"{rows['items'][0]:,} ({rows['metric'][0]})" if len(rows) else "not evaluated"
        known = benchmark in BENCHMARKS and summary.metric.name in ("headline", "choice")
        guessing = BENCHMARKS[benchmark].chance if known else None
        chance = f", guessing scores {100 * guessing:.0f}" if guessing else ""
        parts.append(f"{benchmark_label(benchmark)} {detail}{chance}")
    return f"Items (metric): {'; '.join(parts)}."


def _evaluations(scores: pl.DataFrame) -> list[str]:
    notes = []
    measured = scores.sort(pl.col("backend").is_null(), maintain_order=True)  # an evaluated cell knows its backend
    for row in measured.unique("evaluation", keep="first", maintain_order=True).iter_rows(named=True):
        config = json.loads(row["evaluation_config"])
        backend = json.loads(row["backend"]) if row["backend"] is not None else {"name": config["backend"]}
        known = {"name", *config}
        versions = ", ".join(f"{key} {value}" for key, value in sorted(backend.items()) if key not in known)
        shots = "each benchmark's own shots" if config["fewshot"] is None else f"{config['fewshot']} shots"
        asked = ", the items that the paper asks" if config.get("protocol") == "paper" else ""
        notes.append(
            f"Evaluation: backend {backend['name']}{f' ({versions})' if versions else ''}, {config['dtype']}, "
            f"batch size {config['batch_size']}, up to {config['max_length']} tokens, {shots}, {items_asked(config)}, "
            f"questions from {config['source']}{asked}; id {row['evaluation']}."
        )
    return notes


def _versions(scores: pl.DataFrame) -> list[str]:
    """The versions that trained the cells; each distinct set on a line of its own."""
    notes = []
    for text in scores["versions"].drop_nulls().unique(maintain_order=True):
        versions = json.loads(text)
        cells = scores.filter(pl.col("versions") == text)["cell"].n_unique()
        if versions:
            listing = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
            notes.append(f"Trained with ({cells} cells): {listing}.")
    return notes
