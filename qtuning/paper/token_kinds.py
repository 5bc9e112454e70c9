"""What kinds of tokens are pruned and what kinds are kept, ours beside the published (figure 7): a table and a CSV."""

from statistics import fmean, stdev
from typing import Any, Literal

import polars as pl

from qtuning.data.kinds import KINDS
from qtuning.paper.published import read_figure7
from qtuning.statistics.summary import labels_of
from qtuning.store.lines import cells_by_line
from qtuning.tables.labels import budget_label, method_label, number, subjects
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Block, Column, Field, Page, Parts, Table
from qtuning.tables.write import PageFiles

LABELS = {
    "numbers-symbols": "numbers and symbols",
    "gold-answer-spans": "gold answer span",
    "boilerplate-templates": "template, boilerplate",
    "functional-words": "function words",
    "content-non-answer": "other content",
    "markdown-formatting": "formatting (Markdown)",
}
"""Kind -> what tables and figures call it, in their order."""

Side = Literal["pruned", "kept"]
SIDES: tuple[Side, ...] = ("pruned", "kept")

SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("train_set", "model", "method", "label", "variant"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("budget", "kind"), pl.String()),
    **{f"{side}{suffix}": pl.Float64() for side in SIDES for suffix in ("", "_sd", "_tokens", "_published")},
    "pruned_of_kind": pl.Float64(),
    **dict.fromkeys(("seeds", "missing"), pl.Int64()),
}
"""Columns of `kinds_of_lines`.

pruned, kept: per cent of the pruned and of the kept tokens that are of the kind, mean over the seeds, with its sample
standard deviation; *_tokens: their number in all epochs, mean over the seeds; *_published: the paper's per
cent, of Q-Tuning; null for other methods.
pruned_of_kind: per cent of the kind's tokens that are pruned. missing: seeds without counts; the means are null then.
"""

NOTES = (
    "Of the response tokens of samples that may lose some (Q2, and supplemented samples that count as Q2; with a "
    "baseline all kept samples), in all epochs: the share of the pruned and of the kept ones that is of each kind. "
    "Each column adds up to 100%. Means over the seeds ± 1 sample standard deviation. Ratio: pruned over kept, above "
    "1 where a kind is pruned more than others. Pruned of kind: share of the kind's tokens that is pruned.",
    "The kinds follow from rules on the text (docs/experiments.md), ours: the paper names its six kinds and gives no "
    "rule. Published: figure 7 of arXiv 2509.23873v2 (Q-Tuning, MathInstruct, Mistral-7B); which of its two rows of "
    "numbers is the pruned one, and which number is of which kind, is inferred, since the text keeps no legend.",
    "–: no token is counted, a seed has no counts (it is not trained to its end), or nothing is published.",
)


def kinds_of_lines(counts: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """One row per line, model and kind, in table order; empty where no cell has counts.

    counts: token_kinds.parquet. cells: rows of one experiment in cells.parquet.
    """
    totals = counts.group_by("cell", "kind").agg(pl.col(SIDES).sum())
    by_cell: dict[str, dict[str, dict[str, int]]] = {}
    for row in totals.iter_rows(named=True):
        by_cell.setdefault(row["cell"], {})[row["kind"]] = row
    published, rows = read_figure7(), list[dict[str, Any]]()
    for (line, model), by_seed in cells_by_line(cells).items():
        found = [by_cell.get(row["cell"]) for row in by_seed.values()]
        known = [kinds for kinds in found if kinds is not None]
        if not known:
            continue
        identity = line.columns() | {"model": model, "label": method_label(line), "budget": budget_label(line)}
        identity |= {"seeds": len(found), "missing": len(found) - len(known)}
        for kind in LABELS:
            row = identity | {"kind": kind}
            if line.method == "q-tuning":
                row |= {f"{side}_published": float(published[kind][side]) for side in SIDES}
            if len(known) == len(found):
                for side in SIDES:
                    totals_of = [sum(kinds[name][side] for name in KINDS) for kinds in known]
                    row[f"{side}_tokens"] = fmean(kinds[kind][side] for kinds in known)
                    if all(totals_of):
                        shares = [100 * kinds[kind][side] / of for kinds, of in zip(known, totals_of, strict=True)]
                        row |= {side: fmean(shares), f"{side}_sd": stdev(shares) if len(shares) > 1 else None}
                whole = row["pruned_tokens"] + row["kept_tokens"]
                row["pruned_of_kind"] = 100 * row["pruned_tokens"] / whole if whole else None
            rows.append(row)
    return pl.DataFrame(rows, schema=SCHEMA)


def token_kind_files(counts: pl.DataFrame, cells: pl.DataFrame) -> PageFiles | None:
    """The kinds of one experiment as a table, a block for each method, budget and model; None without any counts."""
    frame = kinds_of_lines(counts, cells)
    if frame.is_empty():
        return None
    models = labels_of(cells, "model")
    blocks = []
    for part in frame.partition_by("train_set", "model", "label", "budget", maintain_order=True):
        first = part.row(0, named=True)
        place = [first["label"], first["budget"], *([models[first["model"]]] if len(models) > 1 else [])]
        counted = [part[f"{side}_tokens"].sum() for side in SIDES if part[f"{side}_tokens"].null_count() == 0]
        told = ", ".join(f"{count:,.0f} {side}" for count, side in zip(counted, SIDES, strict=False))
        title = ", ".join(place) + (f" ({told} tokens)" if told else "")
        blocks.append(Block(title, tuple(_fields(row) for row in part.iter_rows(named=True))))
    columns = (
        Column("Kind", words=True),
        *(Column(name, "Ours") for name in ("pruned %", "kept %", "ratio", "pruned of kind %")),
        *(Column(name, "Published") for name in ("pruned %", "kept %", "ratio")),
    )
    experiment = cells["experiment"][0]
    table = Table("tokens", "", columns, tuple(blocks), notes=NOTES)
    lead = f"Experiment {experiment}: kinds of pruned and of kept tokens. {subjects(cells)}"
    page = Page(f"{experiment}-tokens", cells["title"][0], (lead,), (table,))
    rounded = frame.with_columns(pl.selectors.float().round(6))
    return PageFiles(page, {"tokens.md": render_markdown}, {"tokens.csv": rounded})


def _fields(row: dict[str, Any]) -> tuple[Field, ...]:
    ours = [Parts(number(row[side], ".1f"), _spread(row[f"{side}_sd"])) for side in SIDES]
    published = [row[f"{side}_published"] for side in SIDES]
    return (
        LABELS[row["kind"]],
        *ours,
        number(_quotient(row["pruned"], row["kept"]), ".2f"),
        number(row["pruned_of_kind"], ".1f"),
        *(number(share, ".1f") for share in published),
        number(_quotient(*published), ".2f"),
    )


def _spread(sd: float | None) -> str:
    return "" if sd is None else f" ± {sd:.1f}"


def _quotient(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
