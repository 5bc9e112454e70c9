"""The edition of a table by cost: the same rows against what they really cost, scoring included.

A nominal budget is not a saving: a method that scores every sample to keep a quarter of them may cost more than half
of full training. Here the rows are sorted by FLOPs, and those that nothing cheaper beats are marked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from qtuning.store.comparable import training_warnings
from qtuning.tables.labels import (
    Footnotes,
    benchmark_label,
    hole_text,
    method_label,
    named,
    score_parts,
    subjects,
)
from qtuning.tables.lines import (
    Cells,
    budget_label,
    cells_by_line,
    cost_share,
    flops_text,
    full_data,
    mean_cost,
)
from qtuning.tables.page import Block, Column, Field, Page, Table, check
from qtuning.tables.pareto import front_of
from qtuning.tables.summary import Entry, Hole, Line, Summary, summarise

SORTED = (
    "Sorted by FLOPs, means over the seeds; FLOPs and seconds include the forward passes that score samples and tokens."
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
    "the means: neighbours may lie within the spread of the seeds.{untrained}"
)
UNTRAINED = " The model without training costs nothing, and is on no front."
MACHINE = "Seconds are those of the machine that each cell ran on."

COMPARED = ("FLOPs share", "Seconds share", "Score per cost", "Gain per cost")
"""Columns that need training on the full data to compare with."""


@dataclass(frozen=True)
class Priced:
    """One method with one model: its overall score and its cost. None: not known, because a cell is missing.

    flops, seconds: means over the seeds; shares of full training as fractions. nominal: r_sample * r_token.
    score_per_cost, gain_per_cost: points per full training's worth of FLOPs. compared: whether the experiment trains on
    the full data, too; without, there are no shares. front: on the Pareto front.
    """

    line: Line
    model: str
    entry: Entry | Hole | None
    nominal: float | None
    flops: float | None
    flops_scoring: float | None
    flops_share: float | None
    seconds: float | None
    seconds_share: float | None
    score_per_cost: float | None
    gain_per_cost: float | None
    compared: bool = True
    front: bool = False


def priced(scores: pl.DataFrame, summary: Summary) -> list[list[Priced]]:
    """A block per train set and model, each sorted by FLOPs; rows whose cost is not known come last, in table order."""
    cells = cells_by_line(scores)
    train_sets = dict.fromkeys(line.train_set for line in summary.lines)
    blocks = []
    for train_set in train_sets:
        lines = [line for line in summary.lines if line.train_set == train_set]
        for model in summary.models:
            rows = _with_front([_price(line, model, summary, cells) for line in lines])
            blocks.append(sorted(rows, key=lambda row: (row.flops is None, row.flops or 0.0)))
    return blocks


def cost_page(scores: pl.DataFrame) -> Page:
    """The rows of one experiment by cost; the columns of shares only where it trains on the full data, too."""
    summary = summarise(scores)
    models, train_sets = named(scores, "model"), named(scores, "train_set")
    footnotes = Footnotes()
    priced_blocks = priced(scores, summary)
    trained = {row.compared for rows in priced_blocks for row in rows if row.line.method != "zero-shot"}
    spent = ("Nominal", "FLOPs", "FLOPs share", "of it scoring", "Seconds", "Seconds share")
    scored = (benchmark_label(summary.overall), "Score per cost", "Gain per cost", "Pareto")
    names = ("Samples x Tokens", "Method", *spent, *scored)
    shown = [name for name in names if True in trained or name not in COMPARED]
    blocks = []
    for rows in priced_blocks:
        title = [train_sets[rows[0].line.train_set]] if len(train_sets) > 1 else []
        title += [models[rows[0].model]] if len(models) > 1 else []
        fields = [dict(zip(names, _fields(row, footnotes), strict=True)) for row in rows]
        blocks.append(Block(", ".join(title), tuple(tuple(row[name] for name in shown) for row in fields)))
    columns = tuple(Column(name, words=name in names[:2]) for name in shown)
    experiment = scores["experiment"][0]
    table = Table("by-cost", "", columns, tuple(blocks), tuple(footnotes.texts), _notes(summary, trained))
    lead = f"Experiment {experiment}, by cost. {subjects(scores)}"
    warnings = tuple(training_warnings(scores))
    return check(Page(f"{experiment}-cost", f"{scores['title'][0]}: by cost", (lead,), (table,), warnings))


def _fields(row: Priced, footnotes: Footnotes) -> tuple[Field, ...]:
    """All fields of a row, shares and all."""
    return (
        budget_label(row.line) or "–",
        method_label(row.line),
        _percent(row.nominal),
        flops_text(row.flops),
        _percent(row.flops_share),
        _percent(None if row.flops_scoring is None or not row.flops else row.flops_scoring / row.flops),
        "–" if row.seconds is None else f"{row.seconds:,.1f}",
        _percent(row.seconds_share),
        score_parts(row.entry, False, footnotes),
        "–" if row.score_per_cost is None else f"{row.score_per_cost:.1f}",
        "–" if row.gain_per_cost is None else f"{row.gain_per_cost:.1f}",
        "●" if row.front else "",
    )


def _notes(summary: Summary, compared: set[bool]) -> tuple[str, ...]:
    """compared: whether there is training on the full data to compare with, of any line and of any not."""
    first = [SORTED]
    if True in compared:
        first.append(SHARES)
    if False in compared:
        first.append(WITHOUT_SHARES.format(Which="Some rows have" if True in compared else "This experiment has"))
    untrained = UNTRAINED if any(line.method == "zero-shot" for line in summary.lines) else ""
    per_cost = (PER_COST,) if True in compared else ()
    return (" ".join(first), NOMINAL, *per_cost, FRONT.format(untrained=untrained), MACHINE)


def tidy_costs(scores: pl.DataFrame) -> pl.DataFrame:
    """One row per line and model of the edition by cost, in its order, unrounded."""
    summary = summarise(scores)
    rows = [
        {
            "experiment": scores["experiment"][0],
            "train_set": row.line.train_set,
            "model": row.model,
            "sample_ratio": row.line.sample_ratio,
            "token_ratio": row.line.token_ratio,
            "method": row.line.method,
            "variant": row.line.variant,
            "benchmark": summary.overall,
            "nominal": row.nominal,
            "flops": row.flops,
            "flops_scoring": row.flops_scoring,
            "flops_share": row.flops_share,
            "seconds": row.seconds,
            "seconds_share": row.seconds_share,
            "mean": row.entry.mean if isinstance(row.entry, Entry) else None,
            "sd": row.entry.sd if isinstance(row.entry, Entry) else None,
            "score_per_cost": row.score_per_cost,
            "gain_per_cost": row.gain_per_cost,
            "pareto": row.front,
            "reason": hole_text(row.entry) if isinstance(row.entry, Hole) else None,
        }
        for block in priced(scores, summary)
        for row in block
    ]
    return pl.DataFrame(rows, schema=CSV_SCHEMA).with_columns(pl.selectors.float().round(6))


CSV_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("experiment", "train_set", "model"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("method", "variant", "benchmark"), pl.String()),
    **dict.fromkeys(("nominal", "flops", "flops_scoring", "flops_share", "seconds", "seconds_share"), pl.Float64()),
    **dict.fromkeys(("mean", "sd", "score_per_cost", "gain_per_cost"), pl.Float64()),
    "pareto": pl.Boolean(),
    "reason": pl.String(),
}
"""Columns of the CSV edition by cost, in order."""


def _price(line: Line, model: str, summary: Summary, cells: Cells) -> Priced:
    entry = summary.entries.get((line, model, summary.overall))
    if line.method == "zero-shot":
        return Priced(line, model, entry, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, None, None)
    by_seed, full = cells.get((line, model), {}), full_data(cells, line, model)
    if not by_seed:
        return Priced(line, model, entry, _nominal(line), None, None, None, None, None, None, None, bool(full))
    share = cost_share(by_seed, full, "flops_total")
    untrained = next(
        (
            found.mean
            for other in summary.lines
            if (other.train_set, other.method) == (line.train_set, "zero-shot")
            and isinstance(found := summary.entries.get((other, model, summary.overall)), Entry)
        ),
        None,
    )
    score = entry.mean if isinstance(entry, Entry) else None
    return Priced(
        line=line,
        model=model,
        entry=entry,
        nominal=_nominal(line),
        flops=mean_cost(by_seed, "flops_total"),
        flops_scoring=mean_cost(by_seed, "flops_scoring"),
        flops_share=share,
        seconds=mean_cost(by_seed, "seconds_total"),
        seconds_share=cost_share(by_seed, full, "seconds_total"),
        score_per_cost=score / share if score is not None and share else None,
        gain_per_cost=(score - untrained) / share if score is not None and untrained is not None and share else None,
        compared=bool(full),
    )


def _with_front(rows: Sequence[Priced]) -> list[Priced]:
    """The rows with `front` set, by FLOPs; the model without training is on none."""
    costs = [None if row.line.method == "zero-shot" else row.flops for row in rows]
    means = [row.entry.mean if isinstance(row.entry, Entry) else None for row in rows]
    return [replace(row, front=front) for row, front in zip(rows, front_of(costs, means), strict=True)]


def _nominal(line: Line) -> float | None:
    return None if line.sample_ratio is None or line.token_ratio is None else line.sample_ratio * line.token_ratio


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"
