"""An experiment on a dashboard: a run of its own, with what only all of its cells together say."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from qtuning.dashboard.turns import turn
from qtuning.experiment.grid import Grid
from qtuning.files import file_digest, short_hash
from qtuning.statistics.compare import compare, score_intervals
from qtuning.statistics.summary import Summary, summarise
from qtuning.store.store import Store, export_store
from qtuning.tracking.identity import EXPERIMENT, RunIdentity
from qtuning.tracking.mirror import Mirror, resolve_mode
from qtuning.tracking.wandb_run import held_offline

INTERVALS = ("model", "train_set", "method", "variant", "sample_ratio", "token_ratio", "benchmark", "metric", "score",
             "low", "high", "n_seeds", "n_items", "note")  # fmt: skip
COMPARISONS = ("model", "train_set", "method", "variant", "sample_ratio", "token_ratio", "benchmark", "against",
               "family", "difference", "low", "high", "p_adjusted", "significant", "better", "note")  # fmt: skip
"""Columns of the tables `intervals` and `comparisons`; docs/statistics.md says what they are."""


def experiment_run(experiment: str, title: str = "") -> RunIdentity:
    """The run of an experiment."""
    config = {"experiment": experiment, "title": title, "experiments": [experiment]}
    return RunIdentity(f"experiment-{experiment}", (experiment,), config, EXPERIMENT)


def mirror_experiment(
    grid: Grid, results: Path, mode: str, compared: pl.DataFrame | None = None, *, wait: bool = False
) -> tuple[bool, Mirror]:
    """Write the run of an experiment that is in the store below `results`: scores with intervals over seeds and items,
    paired comparisons, and its part of the store. Returns whether anything was sent, and the finished mirror.

    Doing it twice does no harm, and nothing is raised (`mirror_cell`). compared: what `compare` says of it, if known.
    """
    name, mirror = grid.experiment.name, Mirror()
    with mirror.guarded():
        chosen, identity = resolve_mode(mode), experiment_run(name, grid.experiment.title)
        if chosen == "disabled":
            return False, mirror
        with turn(results, identity.name, wait):
            store = results / "wandb" / "stores" / name
            export_store([name], results, store)
            digests = {path.name: file_digest(path) for path in sorted(store.glob("*.parquet"))}
            digest = short_hash([str(store.resolve()), digests])
            if chosen == "offline" and held_offline(results, identity.name, digest):
                return False, mirror
            mirror = Mirror.open(chosen, identity, results, wait=wait)
            known = mirror.holds(digest)
            if not known and mirror.active:
                with mirror.guarded():
                    _send(mirror, name, Store(store), grid.evaluation is not None, compared)
                mirror.artifact("store", store)
            mirror.finish(digest)
            return not known and mirror.failure is None, mirror
    return False, mirror


def _send(mirror: Mirror, name: str, store: Store, evaluated: bool, compared: pl.DataFrame | None) -> None:
    mirror.summary({"cells": len(store.cells_of(name))})
    if not evaluated:
        return
    summary = summarise(store.experiment(name))
    scores = score_intervals(summary, store.answers)
    differences = compare(summary, store.answers) if compared is None else compared
    differences = differences.filter(pl.col("family").is_not_null())
    mirror.table("intervals", _shown(_labelled(scores, summary), INTERVALS))
    mirror.table("comparisons", _shown(_labelled(differences, summary), COMPARISONS))


def _labelled(table: pl.DataFrame, summary: Summary) -> pl.DataFrame:
    """The same rows, with methods called as the experiment calls them; others, and rivals, keep their names."""
    labels = {(line.method, line.variant): line.label for line in summary.lines if line.label is not None}
    named = [labels.get(key, key[0]) for key in table.select("method", "variant").iter_rows()]
    return table.with_columns(pl.Series("method", named, pl.String))


def _shown(table: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """These columns, with the budget in one and numbers as they are read."""
    budget = pl.when(pl.col("sample_ratio").is_not_null()).then(
        pl.format("{}x{}", _per_cent("sample_ratio"), _per_cent("token_ratio"))
    )
    kept = [name for name in columns if name not in ("sample_ratio", "token_ratio")]
    return table.with_columns(budget=budget).select("budget", *kept)


def _per_cent(column: str) -> pl.Expr:
    return (100 * pl.col(column)).round(3).cast(pl.String).str.strip_suffix(".0")
