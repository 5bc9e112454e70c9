"""The store: cells' folders -> a folder of parquet files, from which everything is drawn (docs/results.md lists them).

scores.parquet: experiment x cell x benchmark x metric. cells.parquet: experiment x cell, evaluated or not.
items.parquet, steps.parquet, planes.parquet, localisation.parquet: by cell, since experiments share cells. So are
watched.parquet, token_kinds.parquet and measured.parquet, which are there only if an experiment asks for them.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from qtuning.errors import UserError
from qtuning.experiment.grid import Grid
from qtuning.experiment.metrics import METRICS, MetricName
from qtuning.experiment.yaml_files import nearest
from qtuning.files import atomic_path
from qtuning.locks import exclusive
from qtuning.store.collect import collect, collect_items, collect_localisation, collect_planes, collect_steps, thinned
from qtuning.store.observed import collect_measured, collect_token_kinds, collect_watched
from qtuning.store.planted_kinds import collect_kinds
from qtuning.store.schema import LATER, OPTIONAL, SCHEMAS

DETAILS = {
    "items": ("scores", ["cell", "evaluation"]),
    **dict.fromkeys(("steps", "planes", "localisation", *OPTIONAL), ("cells", ["cell"])),
}
"""The files that are keyed by cell: the table that says which rows they have, and their key."""


def _file(name: str) -> cached_property[pl.DataFrame]:
    return cached_property(lambda store: store.read(name))


@dataclass(frozen=True)
class Store:
    """A store's files, each read once, when it is first asked for. UserError where one is missing or too old."""

    folder: Path

    scores = _file("scores")
    """One row per experiment x cell x benchmark x metric."""
    cells = _file("cells")
    """One row per experiment x cell: identity, end of training, costs; also of cells without evaluation."""
    items = _file("items")
    """One row per cell x evaluation x benchmark x item x metric: the headline metric and the likelihood metrics."""
    steps = _file("steps")
    """Up to 64 rows per cell: means over consecutive updates."""
    planes = _file("planes")
    """Up to 3000 rows per cell: scored samples and what became of them."""
    localisation = _file("localisation")
    """How well scores and pruning find planted errors, per cell; empty where no experiment asks."""
    watched = _file("watched")
    """Scores of fixed training samples over training, a row a look; empty where no experiment asks."""
    token_kinds = _file("token_kinds")
    """Kinds of pruned and of kept tokens, per cell; empty where no experiment asks."""
    quadrant_kinds = _file("quadrant_kinds")
    """Planted kinds of samples by quadrant, per cell and epoch; empty where no train set says them."""
    found_kinds = _file("found_kinds")
    """How well rules find planted kinds, per cell and epoch; empty where no train set says them."""
    measured = _file("measured")
    """Time and memory of trainings that had the machine to themselves, a row a cell; empty where no experiment asks."""

    def experiment(self, name: str) -> pl.DataFrame:
        """The rows of one experiment among `scores`; UserError if there are none."""
        rows = self.scores.filter(pl.col("experiment") == name)
        if rows.is_empty():
            known = self.scores["experiment"].unique(maintain_order=True).to_list()
            path = self.folder / "scores.parquet"
            raise UserError(f"{path}: experiment = {name!r}: no rows (collected: {', '.join(known) or 'none'})")
        return rows

    def cells_of(self, name: str) -> pl.DataFrame:
        """The rows of one experiment among `cells`, whether it has benchmarks or not; UserError if there are none."""
        hint = f"; collect it first (`qtuning collect {name}`)"
        self._check_collected(name, "no rows", hint)
        return self.cells.filter(pl.col("experiment") == name)

    def require(self, experiments: Sequence[str]) -> None:
        """Raise UserError for an experiment that has no cells in the store."""
        for name in experiments:
            self._check_collected(name, "not collected")

    def _check_collected(self, name: str, problem: str, hint: str = "") -> None:
        known = self.cells["experiment"].unique(maintain_order=True).to_list()
        if name not in known:
            path = self.folder / "cells.parquet"
            raise UserError(f"{path}: experiment = {name!r}: {problem}{nearest(name, known)}{hint}")

    def read(self, name: str) -> pl.DataFrame:
        """A file (without .parquet) as it is now."""
        path = self.folder / f"{name}.parquet"
        if name in OPTIONAL and not path.exists():
            return pl.DataFrame(schema=SCHEMAS[name])
        if not path.exists():
            raise UserError(f"{path}: no such file; collect the experiment first (`qtuning tables EXPERIMENT`)")
        table, columns = pl.read_parquet(path), list(SCHEMAS[name])
        later = [column for column in LATER if column in columns and column not in table.columns]
        table = table.with_columns(pl.lit(None).alias(column) for column in later)
        if sorted(table.columns) != sorted(columns):
            raise UserError(f"{path}: written by another version; collect the experiment again")
        return table.select(columns).cast(dict(SCHEMAS[name]))  # type: ignore[arg-type]  # a plain mapping of columns

    def _read_to_extend(self, name: str) -> pl.DataFrame:
        """A file as it is now; empty if it does not exist or another version wrote it."""
        try:
            return self.read(name)
        except UserError:
            if (old := self.folder / f"{name}.parquet").exists():
                dropped = "what it held of other experiments is dropped"
                print(f"{old}: written by another version; {dropped}", file=sys.stderr)
            return pl.DataFrame(schema=SCHEMAS[name])


def write_store(grids: Sequence[Grid], results: Path) -> None:
    """Collect these experiments into the store below `results`: all its files.

    Rows of other experiments, and of cells that only they have, stay as they are; details of cells that no experiment
    of the store has any more go. The same cells give the same bytes, in whatever order experiments are collected.

    Raises UserError where a cell's file is malformed or an experiment mixes evaluations that cannot be compared; the
    store is then left as it was.
    """
    scores, cells = collect(grids, results)
    mine = cells["cell"].unique().to_list()
    quadrant_kinds, found_kinds = collect_kinds(grids, results)
    found = {
        "scores": scores,
        "cells": cells,
        "items": collect_items(scores, results),
        "steps": collect_steps(mine, results),
        "planes": collect_planes(mine, results),
        "localisation": collect_localisation(mine, results),
        "watched": collect_watched(mine, results),
        "token_kinds": collect_token_kinds(mine, results),
        "quadrant_kinds": quadrant_kinds,
        "found_kinds": found_kinds,
        "measured": collect_measured(mine, results),
    }
    names, store = [grid.experiment.name for grid in grids], Store(results)
    with exclusive(results / ".store.lock", "collecting scores"):
        merged = {}
        for name in ("scores", "cells"):
            others = store._read_to_extend(name).filter(~pl.col("experiment").is_in(names))
            merged[name] = pl.concat([others, found[name]]).sort("experiment", maintain_order=True)
        for name, (table, key) in DETAILS.items():
            others = store._read_to_extend(name).join(found[table], on=key, how="anti")
            # cells that no experiment has any more go
            merged[name] = pl.concat([others.join(merged["cells"], on="cell", how="semi"), found[name]])
        _write(merged, results)


def export_store(
    experiments: Sequence[str],
    results: Path,
    out: Path,
    plane_rows: int | None = None,
    metrics: Sequence[MetricName] | None = None,
) -> None:
    """Copy the rows of these experiments from the store below `results` to one in the folder `out`.

    `out` holds nothing else afterwards of what was in its store. plane_rows: thin the planes to so many rows a cell.
    metrics: the likelihood metrics whose rows are kept in scores and items; None: all. Headline metrics always are.
    Raises UserError for an experiment that is not in the store.
    """
    store = Store(results)
    store.require(experiments)
    chosen = pl.col("experiment").is_in(list(experiments))
    tables = {"scores": store.scores.filter(chosen), "cells": store.cells.filter(chosen)}
    for name, (table, key) in DETAILS.items():
        tables[name] = store.read(name).join(tables[table], on=key, how="semi")
    if metrics is not None:
        dropped = pl.col("metric").is_in([name for name in METRICS if name not in metrics])
        tables["scores"] = tables["scores"].filter(~dropped | pl.col("headline"))
        tables["items"] = tables["items"].filter(~dropped)
    if plane_rows is not None:
        groups = tables["planes"].group_by("cell", maintain_order=True)
        thin = [thinned(rows, plane_rows) for _, rows in groups]
        tables["planes"] = pl.concat([tables["planes"].clear(), *thin])
    _write(tables, out)


def _write(tables: Mapping[str, pl.DataFrame], folder: Path) -> None:
    """Sorted and small: measured values of updates and samples as 32-bit floats (7 digits), everything compressed.

    Items by benchmark, metric and item: a question's answers stand together, which is also what compresses best.
    """
    for name, table in tables.items():
        if name in ("steps", "planes"):
            table = table.sort("cell", maintain_order=True).with_columns(pl.col(pl.Float64).cast(pl.Float32))
        if name == "items":
            table = table.sort("evaluation", "benchmark", "metric", "item", "cell")
        if name in OPTIONAL and table.is_empty():
            (folder / f"{name}.parquet").unlink(missing_ok=True)
            continue
        table = table.drop(column for column in LATER if column in table.columns and table[column].is_null().all())
        with atomic_path(folder / f"{name}.parquet") as temporary:
            table.write_parquet(temporary, compression="zstd", compression_level=9, statistics=False)
