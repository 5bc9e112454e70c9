"""What an experiment found, in sentences: what is ahead, of what, by how much, how sure, at what cost; and what it
could not see. Every number is one of `compare`, `instrument` or the costs.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from qtuning.report.places import Places, p_text
from qtuning.statistics.answers import answer_sets
from qtuning.statistics.families import EXPLORATORY, PRIMARY
from qtuning.statistics.instrument import instrument
from qtuning.statistics.summary import Entry, Hole, Summary
from qtuning.store.lines import FULL, RANDOM, ZERO_SHOT, Line
from qtuning.tables.controls import controls_line
from qtuning.tables.cut import cut_notes
from qtuning.tables.instrument import verdict as instrument_verdict
from qtuning.tables.labels import benchmark_label, budget_label, method_label, number
from qtuning.tables.page import Block, Column, Field, Table

Standing = Literal["ahead", "behind", "not told apart", "not compared"]
OF = {"ahead": " of", "behind": "", "not told apart": " from", "not compared": " with"}
"""What joins a standing to the name of what it is to."""

NAMED = 3
"""Most exploratory comparisons of a standing that are named."""

EXPECTED: dict[str, Standing] = {FULL: "behind", ZERO_SHOT: "ahead"}
"""Where everybody is expected to stand, so that nobody is named for it."""

COLUMNS = (
    *(Column(name, words=True) for name in ("Method", "Samples x Tokens", "Standing", "Against")),
    *map(Column, ("Difference", "95% interval", "p, corrected", "FLOPs, ratio")),
)
NOTES = (
    "Difference: of the average, method minus what it is compared with, paired by seed and test item; interval over "
    "seeds and items. p: two-sided, after Holm's correction over the primary comparisons of the experiment.",
    "FLOPs, ratio: the training FLOPs of the method, scoring included, divided by those of what it is compared with.",
)


Told = tuple[str, str]
"""A statement: what it says, and of what, with the numbers."""


@dataclass(frozen=True)
class Verdict:
    """found: what is ahead of what. sight: what the experiment can see and what not. table: primary comparisons."""

    found: tuple[Told, ...]
    sight: tuple[str, ...]
    table: Table


def verdict_of(summary: Summary, comparisons: pl.DataFrame, items: pl.DataFrame | pl.LazyFrame) -> Verdict:
    """comparisons: of `statistics.compare.compare`. items: items.parquet of the store."""
    places = Places(summary)
    rows = comparisons.filter(pl.col("benchmark") == summary.overall).to_dicts()
    primary = [row for row in rows if row["family"] == PRIMARY]
    others = [row for row in rows if row["family"] == EXPLORATORY and not places.line(row).control]
    found = (*_primary(primary, places), *_highest(places, rows), *_exploratory(others, places))
    table = Table("primary", "Primary comparisons", COLUMNS, (Block("", _fields(primary, places)),), notes=NOTES)
    found = found or (("Nothing is compared", "no pruned method has scores beside something to compare it with"),)
    return Verdict(found, tuple(_sight(summary, comparisons, items, primary)), table)


def standing(row: dict[str, Any]) -> Standing:
    """Where a comparison puts its line; with one seed nothing is told apart."""
    if row["difference"] is None:
        return "not compared"
    if not row["significant"]:
        return "not told apart"
    return "ahead" if row["better"] else "behind"


def _primary(rows: Sequence[dict[str, Any]], places: Places) -> Iterator[Told]:
    """A statement for each standing and for what is compared with."""
    for (where, rival), members in _grouped(rows, places).items():
        yield f"{where[0].upper()}{where[1:]}{OF[where]} {rival}", "; ".join(_member(row, places) for row in members)


def _highest(places: Places, rows: Sequence[dict[str, Any]]) -> Iterator[Told]:
    """The pruned method with the best average, for each model and train set, and where it stands to random pruning."""
    summary = places.summary
    better = max if summary.metric.higher_is_better else min
    for model, train_set in places.subjects:
        scored: list[tuple[float, Line]] = []
        for line in summary.lines:
            entry = summary.entries.get((line, model, summary.overall))
            if line.train_set == train_set and not (line.reference or line.control) and isinstance(entry, Entry):
                scored.append((entry.mean, line))
        if len(scored) < 2:
            continue
        mean, line = better(scored, key=lambda pair: pair[0])
        text = f"{places.whose(model, train_set)}{_named(line)}, {mean:.{summary.metric.decimals}f}"
        if (share := places.cost(line, model).share_of_full("flops_total")) is not None:
            text += f", at {share:.1%} of the full data's FLOPs"
        for row in rows:
            if (row["model"], row["against"], places.line(row)) == (model, RANDOM, line):
                text += f"; {standing(row)}{OF[standing(row)]} random + random at its budget"
                text += f" ({_difference(row, summary)})" if row["difference"] is not None else ""
        yield f"Highest {benchmark_label(summary.overall)} of the pruned methods", text


def _exploratory(rows: Sequence[dict[str, Any]], places: Places) -> Iterator[Told]:
    """For each thing that is compared with, how many are ahead and behind; the furthest of them by name."""
    by_rival: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["against"] != RANDOM):
        by_rival.setdefault(row["against"], []).append(row)
    for rival, members in by_rival.items():
        counts = Counter[str](map(standing, members))
        text = ", ".join(f"{counts[where]} {where}" for where in OF if counts[where])
        for where in ("ahead", "behind"):
            there = sorted((row for row in members if standing(row) == where), key=lambda row: -abs(row["difference"]))
            if there and EXPECTED.get(rival) != where:
                text += f". Furthest {where}: {'; '.join(_member(row, places) for row in there[:NAMED])}"
        yield f"Other comparisons with {places.rival_label(members[0])}", text


def _grouped(rows: Sequence[dict[str, Any]], places: Places) -> dict[tuple[Standing, str], list[dict[str, Any]]]:
    groups: dict[tuple[Standing, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((standing(row), places.rival_label(row)), []).append(row)
    return groups


def _member(row: dict[str, Any], places: Places) -> str:
    """`Q-Tuning at 25% x 50% (+3.10 points [+1.00, +5.20], p = 0.0040, for 1.40 times the FLOPs)`."""
    line = places.line(row)
    text = f"{places.whose(row['model'], line.train_set)}{_named(line)}"
    if row["difference"] is None:
        return f"{text} ({row['note']})"
    told = [_difference(row, places.summary)]
    told += [p_text(row["p_adjusted"])] if row["p_adjusted"] is not None else []
    ratio = places.flops_ratio(row)
    told += [f"for {ratio:.2f} times the FLOPs"] if ratio is not None else []
    return f"{text} ({', '.join(told)})"


def _difference(row: dict[str, Any], summary: Summary) -> str:
    form = f"+.{summary.metric.decimals}f"
    unit = "points" if summary.metric.scale == 100 else summary.metric.unit
    return f"{row['difference']:{form}} {unit} [{row['low']:{form}}, {row['high']:{form}}]"


def _named(line: Line) -> str:
    return f"{method_label(line)} at {budget_label(line)}"


def _fields(rows: Sequence[dict[str, Any]], places: Places) -> tuple[tuple[Field, ...], ...]:
    fields = []
    for row in rows:
        line, known = places.line(row), row["difference"] is not None
        decimals = places.summary.metric.decimals
        fields.append(
            (
                f"{places.whose(row['model'], line.train_set)}{method_label(line)}",
                budget_label(line),
                standing(row),
                places.rival_label(row),
                number(row["difference"], f"+.{decimals}f"),
                f"[{row['low']:+.{decimals}f}, {row['high']:+.{decimals}f}]" if known else (row["note"] or "–"),
                number(row["p_adjusted"], ".4f"),
                number(places.flops_ratio(row), ".2f"),
            )
        )
    return tuple(fields)


def _sight(
    summary: Summary, comparisons: pl.DataFrame, items: pl.DataFrame | pl.LazyFrame, primary: Sequence[dict[str, Any]]
) -> Iterator[str]:
    yield from instrument_verdict(instrument([{"headline": known} for known in answer_sets(summary, items)]), summary)
    if controls := controls_line(summary, comparisons):
        yield controls
    yield from dict.fromkeys(f"{row['note'][0].upper()}{row['note'][1:]}." for row in primary if row["note"])
    yield from cut_notes(summary.scores)
    overall = [entry for (_, _, name), entry in summary.entries.items() if name == summary.overall]
    if holes := sum(isinstance(entry, Hole) for entry in overall):
        what = f"{holes} of {len(overall)} scores of {benchmark_label(summary.overall)}"
        yield f"{what} are missing: dashes in the table, with the reason below it."
