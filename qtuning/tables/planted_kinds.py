"""What becomes of planted kinds of samples, and what finds them: rows of the store over seeds, as tables and CSVs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

import polars as pl

from qtuning.experiment.quadrants import BETWEEN
from qtuning.experiment.truth import KINDS
from qtuning.statistics.summary import labels_of
from qtuning.store.lines import Line, cells_by_line
from qtuning.store.planted_kinds import CLAIMS
from qtuning.tables.labels import budget_label, method_label, subjects
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Block, Column, Field, Page, Parts, Table
from qtuning.tables.write import PageFiles

QUADRANTS = (1, 2, 3, 4, BETWEEN)
"""In the order of tables and figures; 0 is between the lines, in none."""

IDENTITY: dict[str, pl.DataType] = {
    **dict.fromkeys(("train_set", "model", "method", "label", "variant"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    "budget": pl.String(),
    "epoch": pl.Int32(),
    "kind": pl.String(),
}
SHARE_SCHEMA: dict[str, pl.DataType] = {
    **IDENTITY,
    "quadrant": pl.Int8(),
    **dict.fromkeys(("share", "share_sd"), pl.Float64()),
    "seeds": pl.Int64(),
}
"""Columns of `shares_of_lines`.

epoch: null for all of them. share: per cent of the kind's decided samples that lie in the quadrant; where `quadrant` is
null, of all its samples that are kept. Means over seeds with sample standard deviations; null where a seed has no
trace.
"""
FOUND = ("base_rate", "precision", "recall", "auc")
FOUND_SCHEMA: dict[str, pl.DataType] = {
    **IDENTITY,
    "rule": pl.String(),
    **{f"{name}{suffix}": pl.Float64() for name in FOUND for suffix in ("", "_sd")},
    "seeds": pl.Int64(),
}
"""Columns of `found_by_lines`: as those of found_kinds.parquet, means and standard deviations over the seeds."""

NOTES = (
    "± half the width of a 95% interval over the seeds (t). Kinds: clean is right and new; misconception is right "
    "where pretraining told otherwise; redundant is known already; ambiguous has several right answers; noise is "
    "wrong.",
    "Per cent of each kind, in all epochs together. Kept: of the samples there are. In a quadrant: of those that were "
    "decided on; between: on no side of a line. Bold: where Q-Tuning takes the quadrant for the kind.",
)
FOUND_NOTES = (
    "Q-Tuning takes Q1 for noise, Q2 for misconceptions, Q3 for redundant samples. The same question is asked of other "
    "rules on the same batches. Quadrant: at the lines that spend the budget. Median split: the quadrant where every "
    "sample is in one. Loss and entropy alone: the highest or lowest of each batch, as many as the quadrant holds. "
    "InfoBatch: below the mean loss of the batch.",
    "Precision: share of the kind among the flagged; guessing has the base rate. Recall: share of the kind that is "
    "flagged. AUC: probability that a sample of the kind scores above another of its batch, ties counting half; where "
    "a rule says yes or no only, it is that of the two answers.",
)

Place = tuple[int | None, str, int | None]
"""(epoch, kind, quadrant) of a share."""


def shares_of_lines(counts: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """One row per line, model, epoch, kind and quadrant; empty where no cell has counts.

    counts: quadrant_kinds.parquet. cells: rows of one experiment in cells.parquet.
    """
    known = {name[0]: _shares(rows) for name, rows in counts.group_by("cell")}
    rows = []
    for identity, found in _by_line(cells, known):
        places = dict.fromkeys(place for shares in found for place in shares or {})
        for epoch, kind, quadrant in sorted(places, key=_order):
            values = [None if shares is None else shares.get((epoch, kind, quadrant), 0.0) for shares in found]
            row = identity | {"epoch": epoch, "kind": kind, "quadrant": quadrant, "seeds": len(found)}
            rows.append(row | _over_seeds({"share": values}))
    return pl.DataFrame(rows, schema=SHARE_SCHEMA)


def found_by_lines(found: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """One row per line, model, epoch, kind and rule; empty where no cell has any. found: found_kinds.parquet."""
    known = {
        name[0]: {(r["epoch"], r["kind"], r["rule"]): r for r in rows.to_dicts()}
        for name, rows in found.group_by("cell")
    }
    rows = []
    for identity, by_seed in _by_line(cells, known):
        places = dict.fromkeys(place for answers in by_seed for place in answers or {})
        for epoch, kind, rule in places:
            answers = [None if seed is None else seed.get((epoch, kind, rule)) for seed in by_seed]
            values = {name: [None if one is None else one[name] for one in answers] for name in FOUND}
            row = identity | {"epoch": epoch, "kind": kind, "rule": rule, "seeds": len(by_seed)}
            rows.append(row | _over_seeds(values))
    return pl.DataFrame(rows, schema=FOUND_SCHEMA)


def planted_kinds_files(counts: pl.DataFrame, found: pl.DataFrame, cells: pl.DataFrame) -> PageFiles | None:
    """The kinds of one experiment: what is kept of each, where each lies, what finds it; None without any."""
    shares, rules = shares_of_lines(counts, cells), found_by_lines(found, cells)
    if shares.is_empty():
        return None
    whole, names = shares.filter(pl.col("epoch").is_null()), _names(cells)
    kinds = [kind for kind in KINDS if kind in set(shares["kind"])]
    kept = whole.filter(pl.col("quadrant").is_null())
    rows: list[tuple[Field, ...]] = [(*names(part.row(0, named=True)), *_fields(part, kinds)) for part in _parts(kept)]
    columns = (Column("Method", words=True), Column("Samples x Tokens", words=True), *map(Column, kinds))
    tables = [Table("kept", "", columns, (Block("", tuple(rows)),), notes=NOTES)]
    blocks = [
        Block(", ".join(names(part.row(0, named=True))), tuple(_quadrant_rows(part, kinds)))
        for part in _parts(whole.drop_nulls("quadrant"))
        if part.filter(pl.col("quadrant") != BETWEEN)["share"].sum()
    ]
    if blocks:
        columns = (Column("Quadrant", words=True), *map(Column, kinds))
        tables.append(Table("quadrants", "Where each kind lies", columns, tuple(blocks)))
    blocks = [
        Block(", ".join(names(part.row(0, named=True))), tuple(map(_rule_fields, part.iter_rows(named=True))))
        for part in _parts(rules.filter(pl.col("epoch").is_null()))
    ]
    if blocks:
        columns = (
            *(Column(name, words=True) for name in ("Kind", "Rule")),
            *map(Column, ("Base rate", "Precision", "Recall", "AUC")),
        )
        tables.append(Table("found", "What finds each kind", columns, tuple(blocks), notes=FOUND_NOTES))
    experiment = cells["experiment"][0]
    lead = f"Experiment {experiment}: what becomes of planted kinds of samples, and what finds them. {subjects(cells)}"
    page = Page(f"{experiment}-kinds", cells["title"][0], (lead,), tuple(tables))
    frames = {"kinds.csv": shares} | ({"found.csv": rules} if len(rules) else {})
    rounded = {name: frame.with_columns(pl.selectors.float().round(6)) for name, frame in frames.items()}
    return PageFiles(page, {"kinds.md": render_markdown}, rounded)


def _shares(rows: pl.DataFrame) -> dict[Place, float]:
    """Of one cell: the shares in each quadrant, and kept, by epoch and over all of them. rows: of quadrant_kinds."""
    epochs, of_kind = rows["epoch"].n_unique(), dict(rows.select("kind", "of_kind").iter_rows())
    inside, decided, kept = Counter[Place](), Counter[Place](), Counter[Place]()
    for row in rows.iter_rows(named=True):
        for epoch in (row["epoch"], None):
            inside[epoch, row["kind"], row["quadrant"]] += row["samples"]
            decided[epoch, row["kind"], None] += row["samples"]
            kept[epoch, row["kind"], None] += row["kept"]
    shares = {place: 100 * count / decided[place[0], place[1], None] for place, count in inside.items()}
    for place, count in kept.items():
        shares[place] = 100 * count / (of_kind[place[1]] * (epochs if place[0] is None else 1))
    return shares


def _order(place: Place) -> tuple[float, int, float]:
    epoch, kind, quadrant = place
    kinds: tuple[str, ...] = KINDS
    return (
        -1 if epoch is None else epoch,
        kinds.index(kind) if kind in kinds else len(kinds),
        -1 if quadrant is None else QUADRANTS.index(quadrant),
    )


def _by_line(cells: pl.DataFrame, known: Mapping[Any, Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """(identity of a line and model, what is known of its cells by seed); only lines of which anything is known."""
    for (line, model), by_seed in cells_by_line(cells).items():
        found = [known.get(row["cell"]) for row in by_seed.values()]
        if any(one is not None for one in found):
            yield _identity(line) | {"model": model}, found


def _identity(line: Line) -> dict[str, Any]:
    return line.columns() | {"label": method_label(line), "budget": budget_label(line)}


def _over_seeds(columns: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
    """Mean and sample standard deviation of each; null where any seed lacks it."""
    row: dict[str, float | None] = {}
    for name, values in columns.items():
        known = [value for value in values if value is not None]
        whole = len(known) == len(values)
        row |= {name: fmean(known) if whole else None}
        row[f"{name}_sd"] = stdev(known) if whole and len(known) > 1 else None
    return row


def _names(cells: pl.DataFrame) -> Any:
    """What a block or row is called: method, budget, and model and train set where there are several."""
    models, train_sets = labels_of(cells, "model"), labels_of(cells, "train_set")

    def names(row: Mapping[str, Any]) -> tuple[str, str]:
        more = [models[row["model"]]] * (len(models) > 1) + [train_sets[row["train_set"]]] * (len(train_sets) > 1)
        return ", ".join([row["label"], *more]), row["budget"]

    return names


def _parts(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows of each line and model."""
    return frame.partition_by("train_set", "model", "label", "budget", maintain_order=True)


def _fields(rows: pl.DataFrame, kinds: Iterable[str], bold: str | None = None) -> list[Field]:
    by_kind = {row["kind"]: row for row in rows.iter_rows(named=True)}
    return [_field(by_kind[kind], "share", ".1f", kind == bold) if kind in by_kind else Parts("–") for kind in kinds]


def _quadrant_rows(part: pl.DataFrame, kinds: Sequence[str]) -> Iterator[tuple[Field, ...]]:
    for quadrant in QUADRANTS:
        rows = part.filter(pl.col("quadrant") == quadrant)
        if len(rows):
            label = "between" if quadrant == BETWEEN else f"Q{quadrant}"
            yield (label, *_fields(rows, kinds, CLAIMS.get(quadrant)))


def _rule_fields(row: dict[str, Any]) -> tuple[Field, ...]:
    return (row["kind"], row["rule"], *(_field(row, name, ".2f") for name in FOUND))


def _field(row: Mapping[str, Any], name: str, form: str, bold: bool = False) -> Parts:
    """`62.1 ± 3.4`, with half the width of the 95% interval of the mean over seeds."""
    mean, sd = row[name], row[f"{name}_sd"]
    if mean is None:
        return Parts("–")
    if sd is None:
        return Parts(format(mean, form), best=bold)
    from scipy.special import stdtrit

    half = -float(stdtrit(row["seeds"] - 1, 0.025)) * sd / sqrt(row["seeds"])
    return Parts(format(mean, form), f" ± {half:{form}}", best=bold)
