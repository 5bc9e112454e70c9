"""The store: cells' folders -> a folder of parquet files, from which everything is drawn (docs/results.md lists them).

scores.parquet: experiment x cell x benchmark x metric. cells.parquet: experiment x cell, evaluated or not.
items.parquet, steps.parquet, planes.parquet, localisation.parquet: by cell, since experiments share cells.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from qtuning.errors import UserError
from qtuning.experiment.grid import Grid
from qtuning.experiment.yaml_files import nearest
from qtuning.files import atomic_path, exclusive
from qtuning.store.collect import (
    collect,
    collect_cells,
    collect_items,
    collect_localisation,
    collect_planes,
    collect_steps,
    thinned,
)
from qtuning.store.schema import SCHEMAS

DETAILS = ("items", "steps", "planes", "localisation")
"""The files that are keyed by cell."""


@dataclass(frozen=True)
class Store:
    """A store's files, each read once, when it is first asked for. UserError where one is missing or too old."""

    folder: Path

    @cached_property
    def scores(self) -> pl.DataFrame:
        """One row per experiment x cell x benchmark x metric."""
        return self._read("scores")

    @cached_property
    def cells(self) -> pl.DataFrame:
        """One row per experiment x cell: identity, end of training, costs; also of cells without evaluation."""
        return self._read("cells")

    @cached_property
    def items(self) -> pl.DataFrame:
        """One row per cell x evaluation x benchmark x item: score by the headline metric."""
        return self._read("items")

    @cached_property
    def steps(self) -> pl.DataFrame:
        """Up to 64 rows per cell: means over consecutive updates."""
        return self._read("steps")

    @cached_property
    def planes(self) -> pl.DataFrame:
        """Up to 3000 rows per cell: scored samples and what became of them."""
        return self._read("planes")

    @cached_property
    def localisation(self) -> pl.DataFrame:
        """How well scores and pruning find planted errors, per cell; empty where no experiment asks."""
        return self._read("localisation")

    def experiment(self, name: str) -> pl.DataFrame:
        """The rows of one experiment among `scores`; UserError if there are none."""
        rows = self.scores.filter(pl.col("experiment") == name)
        if rows.is_empty():
            known = self.scores["experiment"].unique(maintain_order=True).to_list()
            path = Path(self.folder) / "scores.parquet"
            raise UserError(f"{path}: experiment = {name!r}: no rows (collected: {', '.join(known) or 'none'})")
        return rows

    def cells_of(self, name: str) -> pl.DataFrame:
        """The rows of one experiment among `cells`, whether it has benchmarks or not; UserError if there are none."""
        rows = self.cells.filter(pl.col("experiment") == name)
        if rows.is_empty():
            known = self.cells["experiment"].unique(maintain_order=True).to_list()
            raise UserError(
                f"{Path(self.folder) / 'cells.parquet'}: experiment = {name!r}: no rows{nearest(name, known)}; "
                f"collect it first (`qtuning collect {name}`)"
            )
        return rows

    def require(self, experiments: Sequence[str]) -> None:
        """Raise UserError for an experiment that has no cells in the store."""
        known = self.cells["experiment"].unique(maintain_order=True).to_list()
        for name in experiments:
            if name not in known:
                path = Path(self.folder) / "cells.parquet"
                raise UserError(f"{path}: experiment = {name!r}: not collected{nearest(name, known)}")

    def _read(self, name: str) -> pl.DataFrame:
        path = Path(self.folder) / f"{name}.parquet"
        if not path.exists():
            raise UserError(f"{path}: no such file; collect the experiment first (`qtuning tables EXPERIMENT`)")
        table = pl.read_parquet(path)
        if list(table.columns) != list(SCHEMAS[name]):
            raise UserError(f"{path}: written by another version; collect the experiment again")
        return table.cast(dict(SCHEMAS[name]))  # type: ignore[arg-type]  # a plain mapping of columns


def write_store(grids: Sequence[Grid], results: Path) -> None:
    """Collect these experiments into the store below `results`: all its files.

    Rows of other experiments, and of cells that only they have, stay as they are; details of cells that no experiment
    of the store has any more go. The same cells give the same bytes, in whatever order experiments are collected.

    Raises UserError where a cell's file is malformed or an experiment mixes evaluations that cannot be compared; the
    store is then left as it was.
    """
    folder = Path(results)
    scores, cells = collect(grids, folder), collect_cells(grids, folder)
    mine = cells["cell"].unique().to_list()
    found = {
        "scores": scores,
        "cells": cells,
        "items": collect_items(scores, folder),
        "steps": collect_steps(mine, folder),
        "planes": collect_planes(mine, folder),
        "localisation": collect_localisation(mine, folder),
    }
    names = [grid.experiment.name for grid in grids]
    with exclusive(folder / ".store.lock", "collecting scores"):
        merged = {}
        for name in ("scores", "cells"):
            others = _older(folder, name).filter(~pl.col("experiment").is_in(names))
            merged[name] = pl.concat([others, found[name]]).sort("experiment", maintain_order=True)
        for name in DETAILS:
            replaced, key = (scores, ["cell", "evaluation"]) if name == "items" else (cells, ["cell"])
            others = _older(folder, name).join(replaced, on=key, how="anti")
            # cells that no experiment has any more go
            merged[name] = pl.concat([others.join(merged["cells"], on="cell", how="semi"), found[name]])
        for name, table in merged.items():
            _write(table, folder / f"{name}.parquet", name)


def export_store(experiments: Sequence[str], results: Path, out: Path, plane_rows: int | None = None) -> None:
    """Copy the rows of these experiments from the store below `results` to one in the folder `out`.

    `out` holds nothing else afterwards of what was in its store. plane_rows: thin the planes to so many rows a cell.
    Raises UserError for an experiment that is not in the store.
    """
    store = Store(Path(results))
    store.require(experiments)
    chosen = pl.col("experiment").is_in(list(experiments))
    cells, scores = store.cells.filter(chosen), store.scores.filter(chosen)
    planes = store.planes.join(cells, on="cell", how="semi")
    if plane_rows is not None:
        groups = planes.group_by("cell", maintain_order=True)
        planes = pl.concat([planes.clear(), *(thinned(rows, plane_rows) for _, rows in groups)])
    tables = {
        "scores": scores,
        "cells": cells,
        "items": store.items.join(scores, on=["cell", "evaluation"], how="semi"),
        "steps": store.steps.join(cells, on="cell", how="semi"),
        "planes": planes,
        "localisation": store.localisation.join(cells, on="cell", how="semi"),
    }
    for name, table in tables.items():
        _write(table, Path(out) / f"{name}.parquet", name)


def _older(folder: Path, name: str) -> pl.DataFrame:
    """A file as it is now; empty if it does not exist or another version wrote it."""
    path = folder / f"{name}.parquet"
    schema = pl.Schema(SCHEMAS[name])
    if path.exists():
        table = pl.read_parquet(path)
        if list(table.columns) == list(schema):
            return table.cast(schema)  # type: ignore[arg-type]
        print(f"{path}: written by another version; what it held of other experiments is dropped", file=sys.stderr)
    return schema.to_frame()


def _write(table: pl.DataFrame, path: Path, name: str) -> None:
    """Sorted and small: measured values of updates and samples as 32-bit floats (7 digits), everything compressed."""
    if name in ("steps", "planes"):
        table = table.sort("cell", maintain_order=True).with_columns(pl.col(pl.Float64).cast(pl.Float32))
    if name == "items":
        table = table.sort("evaluation", "benchmark", "item", "cell")
    with atomic_path(path) as temporary:
        table.write_parquet(temporary, compression="zstd", compression_level=9, statistics=False)
