"""How well an experiment can tell methods apart, as a page: a verdict, and a row per metric and benchmark."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from qtuning.experiment.metrics import METRICS
from qtuning.statistics.instrument import DETECTS, SEEDS, TIMES_ITEMS
from qtuning.statistics.summary import Summary
from qtuning.tables.labels import benchmark_label, number, percent, subjects
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Block, Column, Field, Footnotes, Page, Table
from qtuning.tables.write import PageFiles

COLUMNS = (
    Column("Benchmark", words=True),
    Column("Items"),
    Column("methods", "Spread"),
    Column("seeds", "Spread"),
    Column("items", "Spread"),
    Column("found", "Ratio"),
    Column("noise", "Ratio"),
    Column("itself", "One seed"),
    Column("headline", "One seed"),
    Column("now", "Detects"),
    *(Column(f"{n} seeds", "Detects") for n in SEEDS),
    *(Column(f"{n}x items", "Detects") for n in TIMES_ITEMS),
    Column("Tells apart", words=True),
)

NOTES = (
    "Methods are compared at one budget, and pooled over budgets; full data, the model without training and controls "
    "are not among them.",
    "Spread: standard deviations in the metric's unit. Methods: between methods; what seeds and the choice of items "
    "add is taken out. Seeds: of one method's score from seed to seed; what a seed does to all methods cancels in a "
    "comparison and is left out. Items: the part of it that more items would remove (the squares add up).",
    "Ratio: signal to noise, methods over seeds. Noise: the ratio that equal methods stay below in 95% of the "
    "cases. Tells apart: the ratio is above it; a benchmark below it carries no information about these methods.",
    "One seed: share of the pairs of methods at a budget that one seed orders as the mean of the other seeds does, by "
    "the metric itself and by the headline metric (guessing: 50%).",
    "Detects: the smallest true difference of two methods that a single comparison finds with 80% power at 5%, with "
    "the seeds and items that there are, with other numbers of seeds, and with more items.",
)


def verdict(frame: pl.DataFrame, summary: Summary) -> list[str]:
    """What the frame of `instrument` says, in a sentence for each model and train set, the weak benchmarks after it."""
    told = []
    for rows in frame.filter(pl.col("metric") == "headline").partition_by("model", "train_set", maintain_order=True):
        overall = rows.row(by_predicate=pl.col("benchmark") == summary.overall, named=True)
        name, unit = benchmark_label(overall["benchmark"]), overall["unit"]
        whose = "" if frame.select("model", "train_set").n_unique() == 1 else f"{_subject(overall, summary)}: "
        if overall["informative"] is None:
            told.append(f"{whose}It cannot be said whether methods can be told apart: {overall['note']}.")
            continue
        tells = "can" if overall["informative"] else "CANNOT"
        told.append(
            f"{whose}This experiment {tells} tell methods apart. On {name} they differ by {overall['signal']:.1f} "
            f"{unit} and a seed moves one by {overall['seed_sd']:.1f}: {_ratios(overall)}. One seed orders "
            f"{percent(round(overall['decision'], 2))} of the pairs as the other seeds do. A true difference of "
            f"{overall['detects']:.1f} {unit} is found with 80% power."
        )
        weak = rows.filter(~pl.col("informative"))["benchmark"].to_list()
        if single := [benchmark_label(name) for name in weak if name != overall["benchmark"]]:
            told.append(f"{whose}No information about these methods: {', '.join(single)}.")
    return told


def instrument_files(frame: pl.DataFrame, controls: pl.DataFrame, summary: Summary) -> PageFiles:
    """The page and its CSV. frame, controls: of `instrument` and `control_distances` (statistics/instrument.py)."""
    footnotes = Footnotes()
    blocks = tuple(_blocks(frame, summary, footnotes))
    table = Table("instrument", "", COLUMNS, blocks, tuple(footnotes.texts), NOTES)
    # where there is nothing to compare, the verdict says so, and a table of dashes would add nothing
    tables = [table] if frame["informative"].is_not_null().any() else []
    tables += [] if controls.is_empty() else [_control_table(controls, summary)]
    lead = (*verdict(frame, summary), *told_of_controls(controls, summary), subjects(summary.scores))
    name = summary.experiment
    page = Page(f"{name}-instrument", f"{summary.title}: what it can tell apart", lead, tuple(tables))
    frames = {"instrument.csv": frame, "controls.csv": controls}
    rounded = {name: each.with_columns(pl.selectors.float().round(6)) for name, each in frames.items() if len(each)}
    return PageFiles(page, {"instrument.md": render_markdown}, rounded)


def told_of_controls(controls: pl.DataFrame, summary: Summary) -> list[str]:
    """How far the controls lie from random pruning by the headline metric, a sentence for each."""
    told = []
    rows = controls.filter((pl.col("metric") == "headline") & (pl.col("benchmark") == summary.overall))
    for row in rows.drop_nulls("distance").iter_rows(named=True):
        where = "above" if row["distance"] > 0 else "below"
        told.append(
            f"{row['control']} at {_budget(row['sample_ratio'], row['token_ratio'])}: {abs(row['distance']):.1f} "
            f"standard errors {where} random pruning ({row['difference']:+.1f} {row['unit']})."
        )
    return [" ".join(told)] if told else []


def _control_table(controls: pl.DataFrame, summary: Summary) -> Table:
    """A block per model, train set and metric, a row per benchmark, a column per control and budget."""
    places = controls.select("control", "sample_ratio", "token_ratio").unique(maintain_order=True).rows()
    columns = [Column("Benchmark", words=True)]
    columns += [Column(_budget(s, t), name) for name, s, t in places]
    footnotes, blocks = Footnotes(), []
    several = controls.select("model", "train_set").n_unique() > 1
    for rows in controls.partition_by("model", "train_set", "metric", maintain_order=True):
        first = rows.row(0, named=True)
        label = METRICS[first["metric"]].label
        found = {(r["benchmark"], r["control"], r["sample_ratio"], r["token_ratio"]): r for r in rows.to_dicts()}
        fields = [
            (benchmark_label(name), *(_distance(found.get((name, *place)), footnotes) for place in places))
            for name in rows["benchmark"].unique(maintain_order=True)
        ]
        blocks.append(Block(f"{_subject(first, summary)}: {label}" if several else label, tuple(fields)))
    note = (
        "Distance of a control from random pruning at the same budget in standard errors over seeds and items; "
        "positive: the control is better. Below 2 a benchmark does not even see a control."
    )
    return Table("controls", "Controls", tuple(columns), tuple(blocks), tuple(footnotes.texts), (note,))


def _budget(sample_ratio: float, token_ratio: float) -> str:
    return f"{percent(sample_ratio)} x {percent(token_ratio)}"


def _distance(row: dict[str, Any] | None, footnotes: Footnotes) -> str:
    if row is None or row["distance"] is None:
        return "–" + footnotes.mark((row or {}).get("note") or "not part of this experiment")
    return f"{row['distance']:+.1f}".replace("-", "−")


def _blocks(frame: pl.DataFrame, summary: Summary, footnotes: Footnotes) -> Iterator[Block]:
    """A block for each model, train set and metric."""
    several = frame.select("model", "train_set").n_unique() > 1
    for rows in frame.partition_by("model", "train_set", "metric", maintain_order=True):
        first = rows.row(0, named=True)
        metric = METRICS[first["metric"]]
        title = f"{metric.label}, {metric.unit}"
        yield Block(
            f"{_subject(first, summary)}: {title}" if several else title,
            tuple(_fields(row, footnotes) for row in rows.iter_rows(named=True)),
        )


def _fields(row: dict[str, Any], footnotes: Footnotes) -> tuple[Field, ...]:
    form = ".1f" if row["unit"] == "points" else ".3f"
    noise = None if row["ratio"] is None else row["critical"] / row["seed_sd"]
    return (
        benchmark_label(row["benchmark"]),
        number(row["n_items"], ",d"),
        *(number(row[name], form) for name in ("signal", "seed_sd", "of_items")),
        number(row["ratio"], ".2f"),
        number(noise, ".2f"),
        *(number(row[name], ".0%") for name in ("decision", "decision_headline")),
        *(number(row[name], form) for name in DETECTS),
        _tells_apart(row, footnotes),
    )


def _tells_apart(row: dict[str, Any], footnotes: Footnotes) -> str:
    if row["informative"] is None:
        return "–" + footnotes.mark(row["note"])
    if row["informative"]:
        return "yes"
    if row["seed_sd"] == 0:
        return "no" + footnotes.mark("All methods have the same score at all seeds.")
    of_items = (row["of_items"] / row["seed_sd"]) ** 2
    helps = "more items help" if of_items > 0.5 else "more seeds help"
    return "no" + footnotes.mark(f"Methods differ no more than noise alone lets them; {helps} most.")


def _ratios(row: dict[str, Any]) -> str:
    if row["ratio"] is None:
        return "no seed changes anything"
    return f"ratio {row['ratio']:.1f}, where noise alone reaches {row['critical'] / row['seed_sd']:.1f}"


def _subject(row: dict[str, Any], summary: Summary) -> str:
    return f"{summary.models[row['model']]} on {summary.train_sets[row['train_set']]}"
