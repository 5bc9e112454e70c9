"""What was observed of single cells -> tables of the store: watched samples, kinds of tokens, time and memory.

Experiments ask for it (`observe`, `measure`); a store without any has no such file.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.store.intact import collecting, files_of, read_answer
from qtuning.store.schema import MEASURED_SCHEMA, TOKEN_KINDS_SCHEMA, WATCHED_SCHEMA

QUARTILES = {"low": 0.25, "median": 0.5, "high": 0.75}


def collect_watched(cells: Iterable[str], results: Path) -> pl.DataFrame:
    """The looks at fixed training samples (watch.jsonl), a row each: mean and quartiles over the samples.

    A look at which a score was not finite has nulls.
    """
    frames = [pl.DataFrame(schema=WATCHED_SCHEMA)]
    for cell, path in files_of(cells, results, "watch.jsonl"):
        if path.stat().st_size:
            scores = {name: pl.List(pl.Float64) for name in ("ppl", "entropy")}
            with collecting(path):
                looks = pl.read_ndjson(path, schema_overrides=scores)
            samples = pl.col("sample").list.len().alias("samples")
            columns: list[Any] = [pl.lit(cell).alias("cell"), "update", "done", "epoch", samples]
            for name in scores:
                values = pl.when(~pl.col(name).list.eval(pl.element().is_null()).list.any()).then(pl.col(name))
                columns.append(values.list.mean().alias(name))
                columns += [
                    values.list.eval(pl.element().quantile(level, "linear")).list.first().alias(f"{name}_{which}")
                    for which, level in QUARTILES.items()
                ]
            frames.append(looks.select(columns).cast(dict(WATCHED_SCHEMA)))  # type: ignore[arg-type]
    return pl.concat(frames)


def collect_token_kinds(cells: Iterable[str], results: Path) -> pl.DataFrame:
    """The counts of token_kinds.json, a row per epoch, origin of the samples and kind."""
    rows = []
    for cell, path in files_of(cells, results, "token_kinds.json"):
        found = read_answer(path)
        for part in found["counts"]:
            for counts in zip(found["kinds"], part["kept"], part["pruned"], strict=True):
                rows.append((cell, part["epoch"], part["supplement"], *counts))
    return pl.DataFrame(rows, schema=TOKEN_KINDS_SCHEMA, orient="row")


def collect_measured(cells: Iterable[str], results: Path) -> pl.DataFrame:
    """Time and memory of the trainings that had the machine to themselves (measured.json), a row a cell.

    seconds_sample_selection: all that precedes training on a batch, but for the token pruner. Memory is that of one
    process, the mean over them.
    """
    rows = []
    for cell, path in files_of(cells, results, "measured.json"):
        found = read_answer(path)
        cost, where = found["cost"], found["provenance"]
        tokens = cost["seconds_token_selection"]
        seconds = cost["seconds_scoring"] - tokens, tokens, cost["seconds_training"], cost["seconds_total"]
        memory = cost["peak_memory_bytes"] // where["processes"], where["device_memory_bytes"]
        beside = where["device_name"], where["processes"], where["threads"], where["load_before"]
        rows.append((cell, found["status"], *seconds, *memory, *beside))
    return pl.DataFrame(rows, schema=MEASURED_SCHEMA, orient="row")
