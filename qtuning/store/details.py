"""Cell folders -> the fine-grained files of the store: single items, updates, and points of the plane."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from qtuning.files import read_json
from qtuning.store.schema import ITEM_SCHEMA, LOCALISATION_SCHEMA, PLANE_SCHEMA, SELECTION_STEPS, STEP_SCHEMA

HASH_DIGITS = 16
"""Of an item's hash: 64 bits tell the items of a benchmark apart and take a quarter of the space."""
BINS = 64
"""Most rows of steps.parquet per cell."""
PLANE_ROWS = 3000
"""Most rows of planes.parquet per cell."""


def collect_items(scores: pl.DataFrame, results: Path) -> pl.DataFrame:
    """Every item's score by the headline metric, of the evaluated cells among the rows of a score table.

    A cell whose evaluation left no items.parquet has no rows. Sorted by evaluation, benchmark, item and cell: a
    question's answers stand together, which is also what compresses best.
    """
    done = scores.filter(pl.col("headline") & (pl.col("status") == "done"))
    frames = [pl.DataFrame(schema=ITEM_SCHEMA)]
    for (cell, evaluation), rows in done.group_by("cell", "evaluation", maintain_order=True):
        path = Path(results) / "cells" / str(cell) / str(evaluation) / "items.parquet"
        if not path.exists():
            continue
        shown = rows.select("benchmark", "metric").unique()
        items = pl.read_parquet(path).join(shown, on=["benchmark", "metric"], how="semi")
        frames.append(
            items.select(
                pl.lit(cell).alias("cell"),
                pl.lit(evaluation).alias("evaluation"),
                "benchmark",
                "item",
                pl.col("item_hash").str.slice(0, HASH_DIGITS),
                "score",
            )
        )
    return pl.concat(frames).sort("evaluation", "benchmark", "item", "cell")


def collect_steps(cells: Iterable[str], results: Path) -> pl.DataFrame:
    """The metrics of the updates, as means over at most BINS bins of consecutive updates per cell.

    A mean leaves out the updates that do not know the value (the loss of an update of which nothing was kept); it is
    null where none does. Sorted by cell and update.
    """
    frames = [pl.DataFrame(schema=STEP_SCHEMA)]
    for cell in sorted(set(cells)):
        path = Path(results) / "cells" / cell / "metrics.jsonl"
        if path.exists() and path.stat().st_size:
            frames.append(_binned(cell, path))
    return pl.concat(frames)


def _binned(cell: str, path: Path) -> pl.DataFrame:
    logged = {name: f"selection/{name}" if name in SELECTION_STEPS else name for name in STEP_SCHEMA if name != "cell"}
    metrics = pl.read_ndjson(path, schema={key: STEP_SCHEMA[name] for name, key in logged.items()})
    metrics = metrics.rename({key: name for name, key in logged.items()}).sort("update")
    bins = min(BINS, len(metrics))
    places = pl.int_range(pl.len(), dtype=pl.Int64) * bins // pl.len()
    first, means = ("update", "epoch"), list(STEP_SCHEMA)[3:]
    return (
        metrics.group_by(places.alias("bin"), maintain_order=True)
        .agg(pl.col(first).first(), pl.col(means).mean())
        .select(pl.lit(cell).alias("cell"), *first, *means)
    )


def collect_planes(cells: Iterable[str], results: Path, rows: int = PLANE_ROWS) -> pl.DataFrame:
    """The samples that were scored, from the pruning traces; at most `rows` per cell. By cell, then as traced."""
    frames = [pl.DataFrame(schema=PLANE_SCHEMA)]
    for cell in sorted(set(cells)):
        path = Path(results) / "cells" / cell / "trace.parquet"
        if path.exists():
            trace = pl.read_parquet(path, columns=list(PLANE_SCHEMA)[1:])
            scored = trace.filter(pl.col("ppl").is_not_null())
            frames.append(thinned(scored, rows).select(pl.lit(cell).alias("cell"), *list(PLANE_SCHEMA)[1:]))
    return pl.concat(frames)


def thinned(table: pl.DataFrame, rows: int) -> pl.DataFrame:
    """At most `rows` rows, evenly spaced, in order: rows floor(k n / rows) of n."""
    if len(table) <= rows:
        return table
    return table[(pl.int_range(rows, eager=True) * len(table) // rows).to_list()]


def collect_localisation(cells: Iterable[str], results: Path) -> pl.DataFrame:
    """What localisation.json of each cell says, a row per model (base, trained) and score; sorted by cell.

    Among as many highest-scored tokens as there are wrong ones, precision and recall are the same number. Pruning ranks
    nothing, so it has no AUC, but a share of the tokens that it prunes; of kept samples there is only their share.
    """
    rows = []
    for cell in sorted(set(cells)):
        path = Path(results) / "cells" / cell / "localisation.json"
        answer = read_json(path) if path.exists() else {}
        for model in ("base", "trained"):
            if (found := answer.get(model)) is None:
                continue
            weight = answer["lambda"]
            for key, name in (("ppl", "token perplexity"), ("s", "smoothed score")):
                precision = found[key]["precision_at_planted"]
                rows.append((cell, model, name, precision, precision, found[key]["auc"], None, weight))
            for key, name in (("pruned", "pruned tokens"), ("pruned_in_kept", "pruned tokens of kept samples")):
                pruned = found[key]
                share = pruned["pruned"] / pruned["tokens"] if pruned["tokens"] else None
                rows.append((cell, model, name, pruned["precision"], pruned["recall"], None, share, weight))
            for key, name in (("with_error", "kept samples with an error"), ("without", "kept samples without")):
                rows.append((cell, model, name, None, None, None, found["kept_samples"][key], weight))
    return pl.DataFrame(rows, schema=LOCALISATION_SCHEMA, orient="row")
