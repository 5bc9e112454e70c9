"""Does the plane find what was planted? Pruning traces joined with the kinds of the samples, for train sets with kinds.

Q-Tuning takes its quadrants for something: Q1 for noise, Q2 for misconceptions, Q3 for redundant samples. Where the
kind of every sample is known (experiment/truth.py), the trace says how often that is right, and simpler rules can be
asked the same question on the same selection batches:

    quadrant      the quadrant of the triage, at the lines that spend the budget
    median split  the quadrant at a median split of the batch: every sample is in one
    loss          the highest mean NLL (noise, misconceptions) or the lowest (redundant) of the batch
    entropy       the highest mean entropy (noise) or the lowest (misconceptions, redundant)
    InfoBatch     below the mean loss of the batch (redundant; Qin et al. 2303.04947), as many as there are

Loss and entropy flag as many samples of each batch as the triage's quadrant holds. A batch is the samples of one
update.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qtuning.data.samples import AGAIN, REPORT, SAMPLES, check_samples
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import ResultPaths, cell_id
from qtuning.experiment.quadrants import BETWEEN, MISCONCEPTION, NOISE, QUADRANTS, REDUNDANT, Naming
from qtuning.experiment.truth import Kind
from qtuning.manifest import reading
from qtuning.store.intact import collecting
from qtuning.store.schema import FOUND_KINDS_SCHEMA, QUADRANT_KINDS_SCHEMA

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Values = np.ndarray[Any, np.dtype[np.float64]]
Block = Mapping[str, np.ndarray[Any, Any]]
"""Batches of one size: columns of a trace, with the kind of each sample, [k, B] each."""

CLAIMS: dict[int, Kind] = {NOISE: "noise", MISCONCEPTION: "misconception", REDUNDANT: "redundant"}
"""Quadrant -> the kind that Q-Tuning takes its samples for."""


def collect_kinds(grids: Sequence[Grid], results: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(quadrant x kind, what finds a kind) of every trained cell whose train set says the kind of each sample.

    Reads trace.parquet of the cell and samples.parquet of its prepared train set. The first frame has every method
    (quadrant 0 where it knows none), the second only Q-Tuning.
    """
    paths = ResultPaths(results)
    cells = {cell_id(cell): cell for grid in grids for cell in grid.cells if not cell.zero_shot}
    kinds: dict[Path, pl.DataFrame | None] = {}
    counts, found = [pl.DataFrame(schema=QUADRANT_KINDS_SCHEMA)], [pl.DataFrame(schema=FOUND_KINDS_SCHEMA)]
    for name in sorted(cells):
        trace, folder = paths.cell(cells[name]) / "trace.parquet", paths.samples(cells[name])
        if not trace.exists():
            continue
        if folder not in kinds:
            kinds[folder] = _kinds(folder)
        if (known := kinds[folder]) is None:
            continue
        with collecting(trace):
            rows = pl.read_parquet(trace).join(known, on="sample", maintain_order="left")
        whole = known.group_by("kind").agg(of_kind=pl.len().cast(pl.Int64))
        counted = count_kinds(rows).join(whole, on="kind", maintain_order="left")
        counts.append(counted.select(pl.lit(name).alias("cell"), *list(QUADRANT_KINDS_SCHEMA)[1:]))
        pruning = cells[name].pruning
        options = {} if pruning is None else pruning.sample_options
        naming: Naming = "text" if options.get("quadrants") == "text" else "figure"
        table = pl.DataFrame(list(find_kinds(rows, naming)), schema=FOUND_KINDS_SCHEMA, orient="row")
        found.append(table.with_columns(pl.lit(name).alias("cell")))
    return pl.concat(counts), pl.concat(found)


def _kinds(folder: Path) -> pl.DataFrame | None:
    """Columns `sample` and `kind`; None where no train set is there, or it does not say the kind of every sample."""
    if not (samples := folder / SAMPLES).exists():
        return None
    if (folder / REPORT).exists():
        check_samples(folder)
    with reading(samples, f"{AGAIN} (delete {folder})"):
        if "kind" not in pl.read_parquet_schema(samples):
            return None
        table = pl.read_parquet(samples, columns=["sample", "kind"])
    return None if table["kind"].null_count() else table


def count_kinds(trace: pl.DataFrame) -> pl.DataFrame:
    """Samples, and kept ones, by epoch, kind and quadrant. trace: rows of a trace with the column `kind`."""
    return (
        trace.group_by("epoch", "kind", "quadrant")
        .agg(samples=pl.len().cast(pl.Int64), kept=pl.col("kept").sum().cast(pl.Int64))
        .sort("epoch", "kind", "quadrant")
    )


def find_kinds(trace: pl.DataFrame, naming: Naming) -> Iterator[dict[str, Any]]:
    """A row of FOUND_KINDS_SCHEMA (without the cell) per epoch, and over all of them (epoch null), claim and rule.

    Nothing where no sample is in a quadrant: only Q-Tuning knows them. naming: reading A1, which of the quadrants of
    high error is called Q1.
    """
    scored = trace.filter(pl.col("ppl").is_not_null() & pl.col("entropy").is_not_null())
    if (scored["quadrant"] == BETWEEN).all():
        return
    blocks = blocks_of(scored)
    epochs = scored["epoch"].unique().sort().to_list()
    for quadrant, kind in CLAIMS.items():
        truth = [block["kind"] == kind for block in blocks]
        for rule, judge in rules_of(quadrant, naming).items():
            judged = [judge(block) for block in blocks]
            for epoch in (None, *epochs):
                chosen = [
                    np.full(len(block["epoch"]), True) if epoch is None else block["epoch"][:, 0] == epoch
                    for block in blocks
                ]
                of_epoch = [(flags[mine], score[mine]) for (flags, score), mine in zip(judged, chosen, strict=True)]
                row = found_by(of_epoch, [true[mine] for true, mine in zip(truth, chosen, strict=True)])
                yield {"epoch": epoch, "kind": kind, "rule": rule} | row


def blocks_of(scored: pl.DataFrame) -> list[Block]:
    """Selection batches, those of one size together: column -> [k, B]. A batch is the rows of one update."""
    columns = scored.select("update", "epoch", "kind", "quadrant", "ppl", "entropy")
    sized = columns.with_columns(pl.len().over("update").alias("size")).sort("size", "update", maintain_order=True)
    return [
        {name: rows[name].to_numpy().reshape(-1, size) for name in columns.columns}
        for (size,), rows in sized.group_by("size", maintain_order=True)
    ]


def found_by(judged: Sequence[tuple[Mask, Values]], truth: Sequence[Mask]) -> dict[str, float | int | None]:
    """How well a rule finds a kind. judged: (flagged, score) of batches, [k, B] each. truth: [k, B], who is of it.

    precision: share of the kind among the flagged; recall: share of the flagged among the kind; base_rate: share of the
    kind among all, the precision of guessing. auc: probability that a sample of the kind scores above another one of
    its batch, ties counting half (Mann-Whitney U / (n m), numerators and denominators added up over batches). Null for
    0 / 0.
    """
    from scipy.stats import rankdata

    flagged = np.concatenate([flags.ravel() for flags, _ in judged])
    true = np.concatenate([of_kind.ravel() for of_kind in truth])
    above, pairs = 0.0, 0
    for (_, score), of_kind in zip(judged, truth, strict=True):
        n = of_kind.sum(axis=-1)
        above += float(rankdata(score, axis=-1)[of_kind].sum() - (n * (n + 1) / 2).sum())
        pairs += int((n * (of_kind.shape[-1] - n)).sum())
    hits, chosen, wanted = int((flagged & true).sum()), int(flagged.sum()), int(true.sum())
    return {
        "samples": len(true),
        "of_kind": wanted,
        "flagged": chosen,
        "hits": hits,
        "base_rate": wanted / len(true) if len(true) else None,
        "precision": hits / chosen if chosen else None,
        "recall": hits / wanted if wanted else None,
        "auc": above / pairs if pairs else None,
    }


def rules_of(quadrant: int, naming: Naming) -> dict[str, Callable[[Block], tuple[Mask, Values]]]:
    """Rule -> (flagged, score), [k, B] each, of batches, for the kind that a quadrant is taken for."""
    (sides,) = (each for each in QUADRANTS[naming] if each.number == quadrant)

    def by_triage(batches: Block) -> tuple[Mask, Values]:
        flagged = batches["quadrant"] == quadrant
        return flagged, flagged.astype(np.float64)

    def by_median(batches: Block) -> tuple[Mask, Values]:
        error, uncertainty = batches["ppl"], batches["entropy"]
        high = [values > np.quantile(values, 0.5, axis=-1, keepdims=True) for values in (error, uncertainty)]
        flagged = (high[0] == sides.high_error) & (high[1] == sides.high_uncertainty)
        return flagged, flagged.astype(np.float64)

    def by_score(name: str, high: bool) -> Callable[[Block], tuple[Mask, Values]]:
        def judge(batches: Block) -> tuple[Mask, Values]:
            score = batches[name] * (1 if high else -1)
            counts = (batches["quadrant"] == quadrant).sum(axis=-1, keepdims=True)
            first = np.arange(score.shape[-1]) < counts
            flagged = np.zeros(score.shape, dtype=bool)
            np.put_along_axis(flagged, np.argsort(-score, axis=-1, kind="stable"), first, axis=-1)
            return flagged, score

        return judge

    def by_infobatch(batches: Block) -> tuple[Mask, Values]:
        loss = np.log(batches["ppl"])
        flagged = loss < loss.mean(axis=-1, keepdims=True)
        return flagged, flagged.astype(np.float64)

    rules = {
        "quadrant": by_triage,
        "median split": by_median,
        "loss": by_score("ppl", sides.high_error),  # PPL is exp(mean NLL): the same order
        "entropy": by_score("entropy", sides.high_uncertainty),
    }
    return rules | {"InfoBatch": by_infobatch} if quadrant == REDUNDANT else rules
