"""What a cell left, compared with the digests beside it before it is collected; means compared with the answers."""

import hashlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.errors import UserError
from qtuning.experiment.finished import MARKER, check_outputs, marker_of
from qtuning.files import read_json
from qtuning.manifest import FILES, check_files, read_sealed, reading
from qtuning.store.schema import ITEM_SCHEMA

ITEMS, SCORES = "items.parquet", "scores.json"
ANSWERS = {name: dtype for name, dtype in ITEM_SCHEMA.items() if name not in ("cell", "evaluation")}
"""What the store takes of an items.parquet of a cell."""
COLLECTED = ("metrics.jsonl", "trace.parquet", "watch.jsonl")
CLOSE = 1e-9  # relative difference between two means of the same numbers, added in another order


@dataclass
class Unverified:
    """How many results an older version wrote, whose digests nobody knows."""

    results: int = 0

    def tell(self, where: Path) -> None:
        """One line about them, if there are any."""
        if self.results:
            print(
                f"{where}: {self.results} result(s) were written by an older version, without digests: what is damaged "
                "there, and can still be read, is not noticed",
                file=sys.stderr,
            )


def check_cell(folder: Path, unverified: Unverified) -> None:
    """UserError where something that is collected of a cell's training is damaged, or is another cell's."""
    if not (folder / MARKER).exists():
        return
    marker = marker_of(folder, cell=folder.name)
    if FILES in marker:
        check_outputs(folder, *COLLECTED, marker=marker)
    else:
        unverified.results += 1


def check_scores(folder: Path, unverified: Unverified) -> None:
    """UserError where the scores or the answers in an evaluation's folder are not what was written."""
    if not (folder / SCORES).exists():
        return
    scores = read_sealed(folder / SCORES, _evaluate_again(folder))
    if FILES in scores:
        check_files(folder, scores[FILES], _evaluate_again(folder))
    else:
        unverified.results += 1


def check_means(folder: Path) -> None:
    """UserError where the scores in an evaluation's folder are not the means of the answers beside them, if any are."""
    again, path = _evaluate_again(folder), folder / ITEMS
    if not path.exists():  # an older version kept none
        return
    with reading(path, again):
        answers = pl.read_parquet(path, columns=list(ANSWERS)).cast(dict(ANSWERS))  # type: ignore[arg-type]
        means = answers.group_by("benchmark", "metric").agg(pl.col("score").mean())
        found = {(benchmark, metric): mean for benchmark, metric, mean in means.iter_rows()}
        hashes = dict(_hashes(answers))
    with reading(folder / SCORES, again):
        scores = read_json(folder / SCORES)
        _compare(scores["benchmarks"], found, hashes, sure=FILES in scores)


def _evaluate_again(folder: Path) -> str:
    return f"delete {folder}: the same `snakemake` command evaluates again"


def _hashes(answers: pl.DataFrame) -> Iterator[tuple[str, list[str]]]:
    items = answers.select("benchmark", "item", "item_hash").unique(["benchmark", "item"]).sort("item")
    for (benchmark,), mine in items.group_by("benchmark"):
        yield str(benchmark), mine["item_hash"].to_list()


def _compare(
    benchmarks: Mapping[str, Any],
    means: Mapping[tuple[str, str], float | None],
    hashes: Mapping[str, list[str]],
    sure: bool,
) -> None:
    """ValueError for the first score that is not what the answers say.

    sure: that the answers are those that were written; else only benchmarks are compared whose items are the same.
    """
    for name, said in benchmarks.items():
        asked = hashes.get(name, [])
        digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()
        if (said["items"], said["digest"]) != (len(asked), digest):
            if not sure:
                continue
            raise ValueError(f"{name}: its items are not those of {ITEMS}")
        for metric, score in said["metrics"].items():
            mean = means.get((name, metric))
            same = mean == score if mean is None or score is None else math.isclose(mean, score, rel_tol=CLOSE)
            if not same:
                raise ValueError(f"{name}: {metric} = {score}, but the mean of the answers is {mean}")


def read_answer(path: Path) -> dict[str, Any]:
    """A JSON file that a probe or a measurement left in a cell's folder. UserError if it is damaged, or another's."""
    again = "delete it: the same `snakemake` command then makes it again"
    found = read_sealed(path, again)
    if (cell := found.get("cell", path.parent.name)) != path.parent.name:
        raise UserError(f"{path}: cell = {cell!r}: is a result of another cell; {again}")
    return found


@contextmanager
def collecting(path: Path) -> Iterator[None]:
    """Turn what a reader raises over a damaged file of a training into one line."""
    with reading(path, f"delete {path.parent / MARKER}: the same `snakemake` command then trains the cell anew"):
        yield


def files_of(cells: Iterable[str], results: Path, name: str) -> Iterator[tuple[str, Path]]:
    """(cell, file) of the cells that have such a file, sorted by cell."""
    paths = ((cell, results / "cells" / cell / name) for cell in sorted(set(cells)))
    return ((cell, path) for cell, path in paths if path.exists())
