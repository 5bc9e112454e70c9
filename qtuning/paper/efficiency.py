"""Time and memory of trainings, ours beside the published (table 6) and the planned: a table and a CSV."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import polars as pl

from qtuning.paper.published import Efficiency, read_efficiency
from qtuning.statistics.summary import labels_of
from qtuning.store.lines import FULL, cells_by_line
from qtuning.tables.costs import cost_of
from qtuning.tables.labels import budget_label, method_label, number, subjects
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Block, Column, Field, Page, Parts, Table
from qtuning.tables.write import PageFiles

GIB = 2**30
LONG = 600.0
"""Seconds from which on a table counts minutes."""

Budget = tuple[float, float]
"""(r_sample, r_token); (1, 1) is the full data."""


@dataclass(frozen=True)
class Planned:
    """What a plan predicts of the paper's own run (plan/efficiency.py): wall-clock minutes, per cent of memory."""

    minutes: float
    memory: float


EACH = ("total", "of full", "memory %")
MEASURES = ("sample_selection", "token_selection", "training", "total")

SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("train_set", "model", "method", "label", "variant"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    "budget": pl.String(),
    **{f"seconds_{name}{suffix}": pl.Float64() for name in MEASURES for suffix in ("", "_sd")},
    **dict.fromkeys(("share_of_full", "peak_memory_bytes", "memory_percent"), pl.Float64()),
    **dict.fromkeys(("published_sample_selection", "published_token_selection", "published_total"), pl.Float64()),
    **dict.fromkeys(("published_share_of_full", "published_memory_percent"), pl.Float64()),
    **dict.fromkeys(("planned_total", "planned_share_of_full", "planned_memory_percent"), pl.Float64()),
    **dict.fromkeys(("seeds", "missing"), pl.Int64()),
}
"""Columns of `efficiency_of_lines`.

Ours are means over the seeds, in seconds and bytes; published and planned are in minutes and per cent. share_of_full:
of the total time on the full data, seed by seed. missing: seeds that are not measured; the means are null then.
"""

NOTES = (
    "Ours: means over the seeds ± 1 sample standard deviation. Sample selection: forwards without gradient, triage, "
    "packing. Token selection: ranking and masking by the scores of the same forward. Training: forward, backward, "
    "optimizer of what is kept. Total: from the start of the process's work to its last update, loading the model and "
    "writing nothing; it is more than the sum of the others. On GPUs a stage ends when the GPU has done its work.",
    "Memory: the largest allocation on the GPU at any time, in one process, and its share of the GPU; without a GPU, "
    "the largest resident size of the process, Python and its libraries included, and its share of the machine's.",
)

PUBLISHED = (
    "Published: table 6 of arXiv 2509.23873v2, LLaMA2-7B on WizardLM, 8 x A100. Its selection times are one and the "
    "same share of the total at every budget, so they look derived and not measured (docs/audit.md). Planned: what "
    "qtuning plan predicts for that very run, without what has been measured here (docs/plan.md); –: not asked for."
)


def published_efficiency() -> dict[Budget, Efficiency]:
    """Budget -> its row of table 6."""
    return {(float(row.sample_ratio) / 100, float(row.token_ratio) / 100): row for row in read_efficiency()}


def efficiency_of_lines(
    measured: pl.DataFrame, cells: pl.DataFrame, planned: Mapping[Budget, Planned] | None = None
) -> pl.DataFrame:
    """One row per line and model, the full data last; empty where no cell is measured.

    measured: measured.parquet. cells: rows of one experiment in cells.parquet. planned: by budget, where it is known.
    """
    by_cell = {row["cell"]: row for row in measured.filter(pl.col("status") == "done").iter_rows(named=True)}
    lines, published, plans = cells_by_line(cells), published_efficiency(), planned or {}
    rows: list[dict[str, Any]] = []
    for (line, model), by_seed in lines.items():
        found = {seed: by_cell.get(row["cell"]) for seed, row in by_seed.items()}
        known = [row for row in found.values() if row is not None]
        row: dict[str, Any] = line.columns() | {"model": model, "label": method_label(line)}
        row |= {"budget": budget_label(line), "seeds": len(found), "missing": len(found) - len(known)}
        if len(known) == len(found):
            for name in MEASURES:
                values = [seed[f"seconds_{name}"] for seed in known]
                row |= {f"seconds_{name}": fmean(values)}
                row |= {f"seconds_{name}_sd": stdev(values) if len(values) > 1 else None}
            row["peak_memory_bytes"] = fmean(seed["peak_memory_bytes"] for seed in known)
            row["memory_percent"] = fmean(100 * s["peak_memory_bytes"] / s["device_memory_bytes"] for s in known)
            wholes = {seed: by_cell.get(cell["cell"]) for seed, cell in cost_of(line, model, lines).full.items()}
            of_full = [
                mine["seconds_total"] / whole["seconds_total"]
                for seed, mine in found.items()
                if mine is not None and (whole := wholes.get(seed)) is not None
            ]
            row["share_of_full"] = fmean(of_full) if len(of_full) == len(found) else None
        budget = (line.sample_ratio or 1.0, line.token_ratio or 1.0)
        if line.method in (FULL, "q-tuning"):
            row |= _beside(published, plans, budget)
        rows.append(row)
    frame = pl.DataFrame(rows, schema=SCHEMA)
    if frame["missing"].sum() == frame["seeds"].sum():
        return frame.clear()
    return frame.sort(pl.col("method") == FULL, maintain_order=True)


def _beside(
    published: Mapping[Budget, Efficiency], planned: Mapping[Budget, Planned], budget: Budget
) -> dict[str, Any]:
    """The columns of published and planned numbers that a budget has."""
    row: dict[str, Any] = {}
    if (paper := published.get(budget)) is not None:
        names = ("sample_selection", "token_selection", "total")
        row |= {f"published_{name}": float(getattr(paper, name)) for name in names}
        row["published_share_of_full"] = float(paper.total / published[1.0, 1.0].total)
        row["published_memory_percent"] = float(paper.peak_memory)
    if (plan := planned.get(budget)) is not None:
        row |= {"planned_total": plan.minutes, "planned_memory_percent": plan.memory}
        row["planned_share_of_full"] = plan.minutes / planned[1.0, 1.0].minutes if (1.0, 1.0) in planned else None
    return row


def efficiency_files(
    measured: pl.DataFrame, cells: pl.DataFrame, planned: Mapping[Budget, Planned] | None = None
) -> PageFiles | None:
    """Time and memory of one experiment as a table, a row per line and model; None where no cell is measured."""
    frame = efficiency_of_lines(measured, cells, planned)
    if frame.is_empty():
        return None
    models = labels_of(cells, "model")
    long = max(frame["seconds_total"].drop_nulls(), default=0.0) >= LONG
    unit, divisor = ("min", 60.0) if long else ("s", 1.0)
    words = ["Samples x Tokens", "Method", *(["Model"] if len(models) > 1 else [])]
    rows, beside = [], {}
    for row in frame.iter_rows(named=True):
        place = [row["budget"], row["label"], *([models[row["model"]]] if len(models) > 1 else [])]
        rows.append((*place, *(_seconds(row, name, divisor) for name in MEASURES), *_shares(row)))
        if row["published_total"] is not None:
            beside[row["budget"], row["label"]] = (*place[:2], *_paper(row), *_plan(row))
    ours = (
        *(Column(word, words=True) for word in words),
        *(Column(f"{name.replace('_', ' ').capitalize()} {unit}") for name in MEASURES),
        *map(Column, ("Of full", "Memory GiB", "Memory %")),
    )
    paper = (
        *(Column(word, words=True) for word in words[:2]),
        *(
            Column(name, "Published")
            for name in ("sample selection", "token selection", "total", "of full", "memory %")
        ),
        *(Column(name, "Planned") for name in EACH),
    )
    used = measured.filter(pl.col("cell").is_in(cells["cell"].implode()))
    tables = [Table("efficiency", "", ours, (Block("", tuple(rows)),), notes=(_how(used), *NOTES))]
    if beside:
        blocks = (Block("", tuple(beside.values())),)
        tables.append(Table("published", "The paper's own run, minutes", paper, blocks, notes=(PUBLISHED,)))
    experiment = cells["experiment"][0]
    lead = f"Experiment {experiment}: time and memory. {subjects(cells)}"
    page = Page(f"{experiment}-efficiency", cells["title"][0], (lead,), tuple(tables))
    rounded = frame.with_columns(pl.selectors.float().round(6))
    return PageFiles(page, {"efficiency.md": render_markdown}, {"efficiency.csv": rounded})


def _how(measured: pl.DataFrame) -> str:
    """On what, and in what company, ours were measured."""
    places = measured.select("device", "processes", "threads").unique(maintain_order=True)
    told = "; ".join("{}, {} process(es), {} CPU thread(s)".format(*place) for place in places.iter_rows())
    load = max(measured["load_before"].to_list())
    return (
        f"Measured on: {told}. Each training was repeated for this table alone, one after the other: the workflow runs "
        "nothing beside it. What others ran on the machine it cannot know: the load average was at most "
        f"{load:g} when a training began."
    )


def _seconds(row: dict[str, Any], name: str, divisor: float) -> Field:
    mean, sd = row[f"seconds_{name}"], row[f"seconds_{name}_sd"]
    digits = ".2f" if name == "token_selection" else ".1f"
    if mean is None:
        return Parts("–")
    return Parts(format(mean / divisor, digits), "" if sd is None else f" ± {format(sd / divisor, digits)}")


def _shares(row: dict[str, Any]) -> tuple[Field, ...]:
    memory = row["peak_memory_bytes"]
    gib = None if memory is None else memory / GIB
    return number(row["share_of_full"], ".2f"), number(gib, ".2f"), number(row["memory_percent"], ".1f")


def _paper(row: dict[str, Any]) -> tuple[Field, ...]:
    minutes = [number(row[f"published_{name}"], "g") for name in ("sample_selection", "token_selection", "total")]
    return *minutes, number(row["published_share_of_full"], ".2f"), number(row["published_memory_percent"], "g")


def _plan(row: dict[str, Any]) -> tuple[Field, ...]:
    total, share = number(row["planned_total"], ".0f"), number(row["planned_share_of_full"], ".2f")
    return total, share, number(row["planned_memory_percent"], ".0f")
