"""The store: cells' folders -> a folder of parquet files, from which everything is drawn (docs/results.md lists them).

scores.parquet: experiment x cell x benchmark x metric. cells.parquet: experiment x cell, evaluated or not.
items.parquet, steps.parquet, planes.parquet, localisation.parquet: by cell, since experiments share cells. So are
watched.parquet, token_kinds.parquet and measured.parquet, which are there only if an experiment asks for them.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from io import BufferedReader
from pathlib import Path

import polars as pl

from qtuning.errors import UserError
from qtuning.experiment.grid import Grid
from qtuning.experiment.metrics import METRICS, MetricName
from qtuning.experiment.yaml_files import nearest
from qtuning.files import atomic_path
from qtuning.locks import exclusive, settled
from qtuning.manifest import check_open, reading
from qtuning.store.collect import collect, collect_items, collect_localisation, collect_planes, collect_steps, thinned
from qtuning.store.fresh import collected, digest_in_store, is_collected, mark_collected, states_of
from qtuning.store.observed import collect_measured, collect_token_kinds, collect_watched
from qtuning.store.planted_kinds import collect_kinds
from qtuning.store.schema import ITEM_SCHEMA, LATER, OPTIONAL, SCHEMAS

LOCK = ".store.lock"
AGAIN = "`qtuning tables EXPERIMENT` collects it anew"
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
    collecting: bool = False
    """Whether this process writes the store, and holds its lock."""

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

    @property
    def answers(self) -> pl.LazyFrame:
        """The same rows as `items`, read when some of them are asked for: all may be larger than memory."""
        known: pl.DataFrame | None = vars(self).get("items")
        return self.scan("items") if known is None else known.lazy()

    def read(self, name: str) -> pl.DataFrame:
        """A file (without .parquet) as it is now."""
        with reading(self.folder / f"{name}.parquet", AGAIN):
            return self.scan(name).collect()

    def scan(self, name: str) -> pl.LazyFrame:
        """A file (without .parquet) as it is now, read when rows are asked for."""
        path, columns = self.folder / f"{name}.parquet", list(SCHEMAS[name])
        try:
            file = self._open(name)
        except FileNotFoundError:
            if name in OPTIONAL:
                return pl.LazyFrame(schema=SCHEMAS[name])
            raise UserError(
                f"{path}: no such file; collect the experiment first (`qtuning tables EXPERIMENT`), "
                "or name another store (--store FOLDER)"
            ) from None
        with reading(path, AGAIN), file:  # polars keeps a descriptor of its own
            table = pl.scan_parquet(file)
            found = table.collect_schema().names()
        later = [column for column in LATER if column in columns and column not in found]
        table = table.with_columns(pl.lit(None).alias(column) for column in later)
        if sorted([*found, *later]) != sorted(columns):
            raise UserError(f"{path}: written by another version; collect the experiment again")
        return table.select(columns).cast(dict(SCHEMAS[name]))  # type: ignore[arg-type]  # a plain mapping of columns

    @cached_property
    def _intact(self) -> set[tuple[int, ...]]:
        """Files that are what was collected. Each is compared once, since readers ask for them often."""
        return set()

    def _open(self, name: str) -> BufferedReader:
        """A file that is what was collected; UserError if it is not, FileNotFoundError if there is none.

        Who reads what was opened reads what was compared, though another process may put a new file in its place.
        """
        if self.collecting:
            return self._open_intact(name)
        # another process may not have written the digests yet
        return settled(partial(self._open_intact, name), self.folder / LOCK, "collecting scores")

    def _open_intact(self, name: str) -> BufferedReader:
        import pyarrow.parquet

        path = self.folder / f"{name}.parquet"
        with ExitStack() as opened:
            file = opened.enter_context(path.open("rb"))
            found = os.fstat(file.fileno())
            identity = (found.st_dev, found.st_ino, found.st_mtime_ns)
            if identity not in self._intact:
                if (digest := digest_in_store(self.folder, name)) is not None:
                    check_open(file, path, digest, AGAIN)
                else:  # not known: whether it can be read
                    with reading(path, AGAIN):
                        for _ in pyarrow.parquet.ParquetFile(file).iter_batches():
                            pass
                    file.seek(0)
                self._intact.add(identity)
            opened.pop_all()
            return file

    def rows_to_extend(self) -> dict[str, pl.LazyFrame]:
        """All files as they are now, each empty if it does not exist. All are empty if one of them cannot be used."""
        try:
            return {name: self.scan(name) for name in SCHEMAS if (self.folder / f"{name}.parquet").exists()}
        except UserError as error:
            print(f"{error}: the store is made anew, without what it held of other experiments", file=sys.stderr)
            return {}


def write_store(grids: Sequence[Grid], results: Path) -> None:
    """Collect these experiments into the store below `results`: all its files.

    Rows of other experiments, and of cells that only they have, stay as they are; details of cells that no experiment
    of the store has any more go. The same cells give the same bytes, in whatever order experiments are collected.

    Nothing is done if no file has changed since these experiments were collected (fresh.py). Raises UserError where a
    cell's file is malformed or an experiment mixes evaluations that cannot be compared; the store is then left as it
    was.
    """
    states, lock = states_of(grids, results), results / LOCK
    with exclusive(lock, "collecting scores"):
        if is_collected(states, results):
            return
    scores, cells = collect(grids, results)
    mine = cells["cell"].unique().to_list()
    quadrant_kinds, found_kinds = collect_kinds(grids, results)
    found: dict[str, pl.DataFrame | pl.LazyFrame] = {
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
    names = [grid.experiment.name for grid in grids]
    with exclusive(lock, "collecting scores"):
        known_rows = Store(results, collecting=True).rows_to_extend()

        def held(name: str) -> pl.LazyFrame:
            return known_rows.get(name, pl.LazyFrame(schema=SCHEMAS[name]))

        merged: dict[str, pl.DataFrame | pl.LazyFrame] = {}
        for name, table in (("scores", scores), ("cells", cells)):
            others = held(name).filter(~pl.col("experiment").is_in(names)).collect()
            merged[name] = pl.concat([others, table]).sort("experiment", maintain_order=True)
        for name, (of, key) in DETAILS.items():
            rest = held(name).join(found[of].lazy(), on=key, how="anti", maintain_order="left")
            # cells that no experiment has any more go
            known = rest.join(merged["cells"].lazy(), on="cell", how="semi", maintain_order="left")
            together = pl.concat([known, found[name].lazy()])
            merged[name] = together if name == "items" else together.collect()
        kept = collected(results)
        _write(merged, results)
        mark_collected({**kept, **states}, results, grids)


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
    scores, cells = store.scores.filter(chosen), store.cells.filter(chosen)
    tables: dict[str, pl.DataFrame] = {"scores": scores, "cells": cells}
    for name, (table, key) in DETAILS.items():
        tables[name] = store.scan(name).join(tables[table].lazy(), on=key, how="semi", maintain_order="left").collect()
    if metrics is not None:
        dropped = pl.col("metric").is_in([name for name in METRICS if name not in metrics])
        tables["scores"] = tables["scores"].filter(~dropped | pl.col("headline"))
        tables["items"] = tables["items"].filter(~dropped)
    if plane_rows is not None:
        groups = tables["planes"].group_by("cell", maintain_order=True)
        thin = [thinned(rows, plane_rows) for _, rows in groups]
        tables["planes"] = pl.concat([tables["planes"].clear(), *thin])
    _write(tables, out)
    mark_collected({}, out)  # for its digests: nothing is collected into this store


def _write(tables: Mapping[str, pl.DataFrame | pl.LazyFrame], folder: Path) -> None:
    """Sorted and small: measured values of updates and samples as 32-bit floats (7 digits), everything compressed."""
    if (items := tables.get("items")) is not None:  # first: their files are read now, and may turn out to be damaged
        _write_items(items.lazy(), folder / "items.parquet")
    for name, table in tables.items():
        if name == "items":
            continue
        table = table.lazy().collect()
        if name in ("steps", "planes"):
            table = table.sort("cell", maintain_order=True).with_columns(pl.col(pl.Float64).cast(pl.Float32))
        if name in OPTIONAL and table.is_empty():
            (folder / f"{name}.parquet").unlink(missing_ok=True)
            continue
        table = table.drop(column for column in LATER if column in table.columns and table[column].is_null().all())
        with atomic_path(folder / f"{name}.parquet") as temporary:
            table.write_parquet(temporary, compression="zstd", compression_level=9, statistics=False)


def _write_items(items: pl.LazyFrame, path: Path) -> None:
    """By evaluation, benchmark, metric and item: a question's answers stand together, which compresses best.

    One benchmark at a time is read, sorted and written: the items of thousands of cells are larger than memory.
    """
    import pyarrow.parquet

    parts = items.select("evaluation", "benchmark").unique().sort("evaluation", "benchmark").collect(engine="streaming")
    schema = pl.DataFrame(schema=ITEM_SCHEMA).to_arrow().schema
    options = {"compression": "zstd", "compression_level": 9, "write_statistics": False}
    with atomic_path(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema, **options) as writer:
        for evaluation, benchmark in parts.rows():
            chosen = items.filter(pl.col("evaluation") == evaluation, pl.col("benchmark") == benchmark)
            of_metric = chosen.select(*ITEM_SCHEMA).collect(engine="streaming").partition_by("metric", as_dict=True)
            for key in sorted(of_metric):
                writer.write_table(of_metric.pop(key).sort("item", "cell").to_arrow())
