"""The page by cost: the rows of an experiment against what they really cost, scoring included.

A nominal budget is not a saving: a method that scores every sample to keep a quarter of them may cost more than half
of full training. Here the rows are sorted by FLOPs. Rows that no cheaper row outscores (the Pareto front) are marked.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from qtuning.statistics.compare import rival_of
from qtuning.statistics.summary import Entry, Summary
from qtuning.store.comparable import training_warnings
from qtuning.store.lines import ZERO_SHOT, Line
from qtuning.tables.costs import cost_of, explain_shares, flops_text
from qtuning.tables.cut import cut_notes
from qtuning.tables.labels import benchmark_label, budget_label, method_label, number, score_parts, subjects
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Block, Column, Field, Footnotes, Page, Table
from qtuning.tables.write import PageFiles

SORTED = (
    "Sorted by FLOPs, means over the seeds; FLOPs and seconds include the forward passes that score samples and "
    "tokens. FLOPs also include what a method trains beforehand (reference models; for LESS, warm-up and influence), "
    "in full though cells share it; seconds do not."
)
SHARES = "Shares are of training on the full data with the same seed."
WITHOUT_SHARES = (
    "{Which} no training on the full data to compare with: FLOPs and seconds are absolute, and no score is put in "
    "relation to them."
)
NOMINAL = "Nominal: the share of the tokens that the budget asks for, samples x tokens. It is not what was spent."
PER_COST = (
    "Score per cost: the score divided by the FLOPs, in units of one full training. Gain per cost: the same for what "
    "the score is above the model without training."
)
FRONT = (
    "Pareto ●: no other row of the block has at least the score for at most the FLOPs (and one of the two better). Of "
    "the means: neighbours may lie within the spread of the seeds.{untrained}{controls}"
)
UNTRAINED = " The model without training costs nothing, and is on no front."
CONTROLS = " Controls know what no method knows, and are on no front."
MACHINE = (
    "Seconds are those of the machine that each cell ran on. CPU seconds: processor time there, which other work on "
    "the machine hardly changes."
)

WORDS = ("Samples x Tokens", "Method")
COMPARED = ("FLOPs share", "Seconds share", "Score per cost", "Gain per cost")
"""Columns that need training on the full data to compare with."""

CSV_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("experiment", "train_set", "model"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("method", "variant", "benchmark"), pl.String()),
    **dict.fromkeys(("nominal", "flops", "flops_scoring", "flops_share", "seconds", "seconds_share"), pl.Float64()),
    "cpu_seconds": pl.Float64(),
    **dict.fromkeys(("mean", "sd", "score_per_cost", "gain_per_cost"), pl.Float64()),
    "pareto": pl.Boolean(),
    "reason": pl.String(),
}
"""Columns of the CSV by cost, in order."""


def cost_files(summary: Summary) -> PageFiles:
    """The page by cost, and its numbers."""
    return PageFiles(cost_page(summary), {"cost.md": render_markdown}, {"cost.csv": tidy_costs(summary)})


def cost_page(summary: Summary) -> Page:
    """The rows of one experiment by cost; the columns of shares only where it trains on the full data, too."""
    footnotes = Footnotes()
    blocks = _blocks(summary)
    compared = {row["compared"] for rows in blocks for row in rows if row["line"].method != ZERO_SHOT}
    drawn = []
    for rows in blocks:
        title = [summary.train_sets[rows[0]["line"].train_set]] if len(summary.train_sets) > 1 else []
        title += [summary.models[rows[0]["model"]]] if len(summary.models) > 1 else []
        fields = [_fields(row, footnotes) for row in rows]
        names = [name for name in fields[0] if True in compared or name not in COMPARED]
        drawn.append(Block(", ".join(title), tuple(tuple(row[name] for name in names) for row in fields)))
    columns = tuple(Column(name, words=name in WORDS) for name in names)
    untrained = UNTRAINED if any(line.method == ZERO_SHOT for line in summary.lines) else ""
    controls = CONTROLS if any(line.control for line in summary.lines) else ""
    first = " ".join([SORTED, *explain_shares(compared, SHARES, WITHOUT_SHARES)])
    per_cost = (PER_COST,) if True in compared else ()
    front = FRONT.format(untrained=untrained, controls=controls)
    notes = (first, NOMINAL, *per_cost, front, MACHINE, *cut_notes(summary.scores))
    table = Table("by-cost", "", columns, tuple(drawn), tuple(footnotes.texts), notes)
    lead = f"Experiment {summary.experiment}, by cost. {subjects(summary.scores)}"
    warnings = tuple(training_warnings(summary.scores))
    return Page(f"{summary.experiment}-cost", f"{summary.title}: by cost", (lead,), (table,), warnings)


def tidy_costs(summary: Summary) -> pl.DataFrame:
    """One row per line and model: its cost, its overall score, and whether it is on the Pareto front; unrounded."""
    rows = [row for rows in _blocks(summary) for row in rows]
    return pl.DataFrame(rows, schema=CSV_SCHEMA).with_columns(pl.selectors.float().round(6))


def pareto_front(points: Sequence[tuple[float | None, float | None]]) -> list[bool]:
    """Whether each (cost, score) is on the Pareto front: no other point costs at most as much, scores at least as high,
    and is strictly better in one of the two. Equal points are on the front together; a point of which something is not
    known is on no front.

    Points are trained cells. The model without training costs nothing and would be on every front: leave it out.
    """
    known = [
        (cost, score, index) for index, (cost, score) in enumerate(points) if cost is not None and score is not None
    ]
    front = [False] * len(points)
    best: tuple[float, float] | None = None  # the last point found on the front
    for cost, score, index in sorted(known, key=lambda point: (point[0], -point[1])):
        if best is None or score > best[1] or (cost, score) == best:
            front[index], best = True, (cost, score)
    return front


def _blocks(summary: Summary) -> list[list[dict[str, Any]]]:
    """Rows by train set and model, each block sorted by FLOPs; rows whose cost is not known come last, in table order.

    A row has the columns of CSV_SCHEMA, its `line` and `entry`, and `compared`: whether there is training on the full
    data to compare with.
    """
    blocks = []
    for train_set in dict.fromkeys(line.train_set for line in summary.lines):
        for model in summary.models:
            rows = [_row(line, model, summary) for line in summary.lines if line.train_set == train_set]
            # the model without training costs nothing, and controls know what nobody does: neither is a way to train
            points = [(None if row["line"].method == ZERO_SHOT or row["line"].control else row["flops"], row["mean"])
                      for row in rows]  # fmt: skip
            for row, on_front in zip(rows, pareto_front(points), strict=True):
                row["pareto"] = on_front
            blocks.append(sorted(rows, key=lambda row: (row["flops"] is None, row["flops"] or 0.0)))
    return blocks


def _row(line: Line, model: str, summary: Summary) -> dict[str, Any]:
    """One line with one model: its score and its cost, None where a cell is missing.

    flops, seconds: means over the seeds; shares of full training as fractions. nominal: r_sample * r_token.
    score_per_cost, gain_per_cost: points per full training's worth of FLOPs.
    """
    entry = summary.entries.get((line, model, summary.overall))
    row = dict.fromkeys(CSV_SCHEMA) | line.columns() | {"experiment": summary.experiment, "model": model}
    row |= {"benchmark": summary.overall, "line": line, "entry": entry, "compared": True}
    if isinstance(entry, Entry):
        row |= {"mean": entry.mean, "sd": entry.sd}
    elif entry is not None:
        row["reason"] = str(entry)
    if line.sample_ratio is None or line.token_ratio is None:  # the model without training
        free = ("nominal", "flops", "flops_scoring", "flops_share", "seconds", "seconds_share", "cpu_seconds")
        return row | dict.fromkeys(free, 0.0)
    cost = cost_of(line, model, summary.cells)
    share = cost.share_of_full("flops_total")
    if isinstance(entry, Entry) and share:
        row["score_per_cost"] = entry.mean / share
        untrained = rival_of(line, summary.lines, ZERO_SHOT)
        start = summary.entries.get((untrained, model, summary.overall)) if untrained else None
        row["gain_per_cost"] = (entry.mean - start.mean) / share if isinstance(start, Entry) else None
    return row | {
        "nominal": line.sample_ratio * line.token_ratio,
        "flops": cost.mean("flops_total"),
        "flops_scoring": cost.mean("flops_scoring"),
        "flops_share": share,
        "seconds": cost.mean("seconds_total"),
        "seconds_share": cost.share_of_full("seconds_total"),
        "cpu_seconds": cost.mean("cpu_seconds"),
        "compared": bool(cost.full),
    }


def _fields(row: dict[str, Any], footnotes: Footnotes) -> dict[str, Field]:
    scoring = None if row["flops_scoring"] is None or not row["flops"] else row["flops_scoring"] / row["flops"]
    return {
        "Samples x Tokens": budget_label(row["line"]) or "–",
        "Method": method_label(row["line"]),
        "Nominal": number(row["nominal"], ".1%"),
        "FLOPs": flops_text(row["flops"]),
        "FLOPs share": number(row["flops_share"], ".1%"),
        "of it scoring": number(scoring, ".1%"),
        "Seconds": number(row["seconds"], ",.1f"),
        "Seconds share": number(row["seconds_share"], ".1%"),
        "CPU seconds": number(row["cpu_seconds"], ",.1f"),
        benchmark_label(row["benchmark"]): score_parts(row["entry"], False, footnotes),
        "Score per cost": number(row["score_per_cost"], ".1f"),
        "Gain per cost": number(row["gain_per_cost"], ".1f"),
        "Pareto": "●" if row["pareto"] else "",
    }
