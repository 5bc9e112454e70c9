"""A finished cell on a dashboard: all that its files hold, as one run, however often it is sent."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.dashboard.turns import turn
from qtuning.errors import UserError
from qtuning.experiment.benchmarks import averaged
from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import ResultPaths
from qtuning.experiment.metrics import metric_of
from qtuning.files import file_digest, read_json, short_hash
from qtuning.model.load import model_path
from qtuning.statistics.estimate import Array, estimate_scores, of_clusters
from qtuning.statistics.summary import AVERAGE
from qtuning.tracking.identity import RunIdentity, run_of_cell
from qtuning.tracking.mirror import Mirror, resolve_mode
from qtuning.tracking.trained import TEXT, records_of, send_training
from qtuning.tracking.wandb_run import held_offline

SCORES: dict[str, pl.DataType] = {
    **dict.fromkeys(("evaluation", "benchmark", "metric"), pl.String()),
    **dict.fromkeys(("score", "low", "high"), pl.Float64()),
    "items": pl.Int64(),
    "headline": pl.Boolean(),
}
"""Columns of the table `scores`: every metric of every evaluation, in the metric's unit; `avg` is a benchmark, too.

headline: the metric that tables show. low, high: 95% interval of such a score over the items of this one cell; seeds
are not in it.
"""


@dataclass(frozen=True)
class Tracking:
    """How a cell is mirrored. mode: setting `tracking`. groups, variant: see `run_of_cell`.

    evaluation: the one whose scores are `score/*`: that of the experiment that was run. None: the only one, or the
    first by name.
    """

    mode: str
    groups: Sequence[str] = ()
    variant: str = ""
    evaluation: str | None = None


def mirror_cell(cell: Cell, paths: ResultPaths, how: Tracking, *, wait: bool = False) -> tuple[bool, Mirror]:
    """Write the run of a finished cell from its files. Returns whether anything was sent, and the finished mirror.

    Doing it twice does no harm: a run that holds just this is left alone, and any other is continued (online) or
    replaced. Nothing is raised: see `Mirror`. wait: as there.
    """
    folder = paths.cell(cell)
    mirror = Mirror()
    with mirror.guarded():
        mode = resolve_mode(how.mode)
        if mode == "disabled":
            return False, mirror
        identity = run_of_cell(cell, how.groups, how.variant)
        digest = _digest(folder, identity, how)
        with turn(paths.root, identity.name, wait):
            if mode == "offline" and held_offline(paths.root, identity.name, digest):
                return False, mirror
            mirror = Mirror.open(mode, identity, paths.root, wait=wait)
            known = mirror.holds(digest)
            if not known and mirror.active:
                with mirror.guarded():
                    _send(mirror, cell, paths, how)
            mirror.finish(digest)
            return not known and mirror.failure is None, mirror
    return False, mirror


def _send(mirror: Mirror, cell: Cell, paths: ResultPaths, how: Tracking) -> None:
    folder = paths.cell(cell)
    for record in records_of(folder):
        mirror.log(record)
    if cell.training is not None:
        try:
            tokenizer = model_path(paths.model(cell))
        except UserError:  # the base model is not here any more, where results were copied from elsewhere
            tokenizer = None
        send_training(mirror, folder, paths.samples(cell), tokenizer)
    scores = scores_of(folder)
    if not scores.is_empty():
        mirror.summary(score_summary(scores, how.evaluation))
        mirror.table("scores", scores)
    for items in sorted(folder.glob("*/items.parquet")) if os.environ.get(TEXT) != "0" else ():
        mirror.artifact(f"items-{items.parent.name}", items)


def scores_of(folder: Path) -> pl.DataFrame:
    """The scores of a cell by all its evaluations, with intervals: columns SCORES."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*/scores.json")):
        found, answers = read_json(path), path.with_name("items.parquet")
        items = pl.read_parquet(answers) if answers.exists() else pl.DataFrame(schema=_ANSWERS)
        arrays: dict[str, Array] = {}
        for name, result in found["benchmarks"].items():
            for metric, value in result["metrics"].items():
                headline = metric == result["headline"]
                row = {"benchmark": name, "metric": metric, "score": metric_of(metric).scale * value}
                row["headline"] = headline
                if headline:
                    arrays[name] = _by_cluster(items, name, metric)
                    row |= _interval([arrays[name]])
                rows.append({"evaluation": found["evaluation_id"], "items": result["items"]} | row)
        if parts := averaged(found["benchmarks"]):
            means = [found["benchmarks"][name] for name in parts]
            mean = sum(100 * result["metrics"][result["headline"]] for result in means) / len(parts)
            row = {"evaluation": found["evaluation_id"], "benchmark": AVERAGE, "score": mean, "headline": True}
            rows.append(
                row | {"items": sum(result["items"] for result in means)} | _interval([arrays[n] for n in parts])
            )
    return pl.DataFrame(rows, schema=SCORES, orient="row")


def score_summary(scores: pl.DataFrame, evaluation: str | None) -> dict[str, Any]:
    """`score/*`, `score_low/*` and `score_high/*` of one evaluation, and EVALUATION/* of each: headline scores.

    The first are for whoever looks at one experiment; the second never collide. scores: see `scores_of`.
    """
    known = scores["evaluation"].unique(maintain_order=True).to_list()
    chosen = evaluation if evaluation in known else known[0]
    values: dict[str, Any] = {"evaluation": chosen}
    for row in scores.filter(pl.col("headline")).iter_rows(named=True):
        values[f"{row['evaluation']}/{row['benchmark']}"] = row["score"]
        if row["evaluation"] == chosen:
            for key, column in (("score", "score"), ("score_low", "low"), ("score_high", "high")):
                values[f"{key}/{row['benchmark']}"] = row[column]
    return values


def _interval(arrays: Sequence[Array]) -> dict[str, float]:
    """95% interval of the mean over benchmarks of a cell's scores; nothing where one has under two clusters."""
    if any(len(scores) < 2 for scores in arrays):
        return {}
    estimate = estimate_scores([scores[None, None, :] for scores in arrays]).at(0)
    half = float(estimate.half_width())
    return {"low": max(float(estimate.mean) - half, 0.0), "high": min(float(estimate.mean) + half, 100.0)}


_ANSWERS = {"benchmark": pl.String, "metric": pl.String, "item": pl.Int64, "score": pl.Float64, "cluster": pl.String}


def _by_cluster(items: pl.DataFrame, benchmark: str, metric: str) -> Array:
    """Scores of the clusters of a benchmark's items, in per cent."""
    asked = items.filter((pl.col("benchmark") == benchmark) & (pl.col("metric") == metric)).sort("item")
    return of_clusters(100 * asked["score"].to_numpy(), asked["cluster"].to_list())


def _digest(folder: Path, identity: RunIdentity, how: Tracking) -> str:
    """Of all that a run is made from, and of where artifacts lie."""
    names = ("cell.json", "train.json", "metrics.jsonl", "trace.parquet")
    paths = [*(folder / name for name in names), *folder.glob("*/scores.json"), *folder.glob("*/items.parquet")]
    files = {str(path.relative_to(folder)): file_digest(path) for path in sorted(paths) if path.exists()}
    asked = [identity.groups, identity.config, how.evaluation, os.environ.get(TEXT)]
    return short_hash([str(folder.resolve()), files, *asked])
