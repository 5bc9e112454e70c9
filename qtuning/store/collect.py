"""Cell folders -> the tables of the store that every experiment has (observed.py has the others)."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from qtuning.errors import UserError
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import Cell, Evaluation, Model, Pruning, Readings, Scoring
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import AUXILIARY, ResultPaths, cell_id, evaluation_id
from qtuning.experiment.metrics import METRICS, metric_of
from qtuning.experiment.yaml_files import validate
from qtuning.files import canonical_json
from qtuning.locks import settled
from qtuning.store.comparable import check_comparable
from qtuning.store.intact import (
    ANSWERS,
    Unverified,
    check_cell,
    check_means,
    check_scores,
    collecting,
    files_of,
    read_answer,
)
from qtuning.store.lines import changed_options, option_text
from qtuning.store.schema import (
    CELL_SCHEMA,
    COST_COLUMNS,
    ITEM_SCHEMA,
    LOCALISATION_SCHEMA,
    PLANE_SCHEMA,
    SCHEMA,
    SELECTION_COLUMNS,
    SELECTION_STEPS,
    STEP_SCHEMA,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Nats = Annotated[float | None, Field(ge=0, allow_inf_nan=False)]

HASH_DIGITS = 16
"""How much of an item's hash is kept: 64 bits tell the items of a benchmark apart, in a quarter of the space."""
BINS = 64
"""Most rows of steps.parquet per cell."""
PLANE_ROWS = 3000
"""Most rows of planes.parquet per cell."""


class _File(BaseModel):
    """Base of what is read from a cell's folder: keys that the table does not need are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None if the file does not exist. UserError, which says what to delete, if it is no such file."""
        if not path.exists():
            return None
        try:
            return validate(cls, path.read_bytes(), str(path))
        except UserError as error:
            raise UserError(f"{error}; delete the file: the same `snakemake` command makes it again") from None


class _Metrics(_File):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Fraction]

    nll: Nats = None
    nll_answer: Nats = None
    bits_per_character: Nats = None


class _Benchmark(_File):
    items: int = Field(gt=0)
    headline: str
    metrics: _Metrics
    digest: str
    truncated_prompts: int = Field(0, ge=0)
    cut_answers: int | None = Field(None, ge=0)


class _Scores(_File):
    cell: str
    evaluation: dict[str, Any]
    evaluation_id: str
    status: Literal["done", "skipped"] = "done"
    reason: str | None = None
    backend: dict[str, Any] = Field(default_factory=dict)
    benchmarks: dict[str, _Benchmark]


class _Train(_File):
    status: Literal["done", "diverged"]
    reason: str | None = None
    cost: dict[str, float | None]
    selection: dict[str, float] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)


class _Samples(_File):
    used: int = Field(1, gt=0)
    truncated_responses: int = Field(0, ge=0)


class _Failed(_File):
    status: Literal["failed", "diverged"]
    reason: str


def collect(grids: Sequence[Grid], results: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The scores and the cells of these experiments, read from `results/cells`; rows keep the order of the grid.

    Scores: one row per experiment x cell x benchmark x metric; `headline` marks the metric that tables show. A cell
    that is not finished has one row per benchmark with a null score, and `status` and `reason` say why. An experiment
    without evaluation has no rows.

    Cells: one row per experiment x cell. `status` is that of training, whatever became of the evaluation; a zero-shot
    cell has nothing to train and is done.

    Raises UserError where a file is malformed, or where an experiment mixes evaluations that cannot be compared.
    """
    tables, cells, unverified = [pl.DataFrame(schema=SCHEMA)], list[dict[str, Any]](), Unverified()
    for grid in grids:
        for cell in grid.cells:
            folder = results / "cells" / cell_id(cell)
            lock = ResultPaths(results).training_lock(cell)
            settled(partial(check_cell, folder, unverified), lock, f"training {folder.name}")
            train = _Train.read(folder / "train.json")
            base = identity(grid, cell) | _costs(train) | _cut_responses(cell, ResultPaths(results))
            done = cell.zero_shot or (train is not None and train.status == "done")
            status, reason = ("done", None) if done else _why_missing(cell, folder, train, None)
            cells.append(base | {"status": status, "reason": reason})
            if grid.evaluation is not None:
                rows = [base | row for row in _scores(grid.evaluation, cell, folder, train, unverified)]
                tables.append(pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    unverified.tell(results)
    table = pl.concat(tables)
    check_comparable(table)
    return table, pl.DataFrame(cells, schema=CELL_SCHEMA, orient="row")


def _scores(
    evaluation: Evaluation, cell: Cell, folder: Path, train: _Train | None, unverified: Unverified
) -> Iterator[dict[str, Any]]:
    path = folder / evaluation_id(evaluation) / "scores.json"
    lock = ResultPaths(folder.parent.parent).lock(f"{folder.name}-{path.parent.name}")
    settled(partial(check_scores, path.parent, unverified), lock, f"evaluating {folder.name}")
    scores = _Scores.read(path)
    if scores is None or scores.status == "skipped":
        status, reason = _why_missing(cell, folder, train, scores)
        for benchmark in evaluation.benchmarks:
            yield _hole(benchmark, status, reason)
        return
    for key, found, expected in (
        ("cell", scores.cell, folder.name),
        ("evaluation_id", scores.evaluation_id, path.parent.name),
    ):
        if found != expected:
            raise UserError(
                f"{path}: {key} = {found!r}: belongs to another folder than {expected}; delete it and evaluate again"
            )
    check_means(path.parent)
    base = {"backend": canonical_json(scores.backend), "evaluation_config": canonical_json(scores.evaluation)}
    for benchmark in evaluation.benchmarks:
        result = scores.benchmarks.get(benchmark)
        if result is None:
            yield base | _hole(benchmark, "not run", "the evaluation has no score of this benchmark")
            continue
        metrics = result.metrics.model_dump(exclude_none=True)
        if result.headline not in metrics:
            raise UserError(
                f"{path}: benchmarks.{benchmark}.headline = {result.headline!r}: "
                f"not among its metrics ({', '.join(metrics)})"
            )
        for metric in sorted(metrics, key=lambda name: (name != result.headline, name)):
            headline, score = metric == result.headline, metric_of(metric).scale * metrics[metric]
            found_here = {"benchmark": benchmark, "metric": metric, "headline": headline, "score": score}
            cut = {"cut_prompts": result.truncated_prompts or None, "cut_answers": result.cut_answers or None}
            yield base | found_here | cut | {"items": result.items, "digest": result.digest, "status": "done"}


def identity(grid: Grid, cell: Cell) -> dict[str, Any]:
    """The columns of a cell's rows that follow from the configuration alone."""
    columns: dict[str, Any] = dict.fromkeys(SCHEMA) | {
        "experiment": grid.experiment.name,
        "title": grid.experiment.title,
        "cell": cell_id(cell),
        "model": cell.model.name,
        "model_label": cell.model.label,
        "method": "zero-shot",
    }
    if grid.evaluation is not None:
        columns["evaluation"] = evaluation_id(grid.evaluation)
        columns["evaluation_config"] = canonical_json(grid.evaluation.model_dump(mode="json"))
        columns["primary"] = canonical_json(grid.experiment.primary.model_dump(mode="json"))
    if cell.pruning is None or cell.train_set is None or cell.seeds is None:
        return columns
    pruning, seeds = cell.pruning, cell.seeds
    apart = f"data{seeds.data}-pruner{seeds.pruner}-init{seeds.init}"
    return columns | {
        "train_set": cell.train_set.name,
        "train_set_label": cell.train_set.label,
        "method": pruning.method,
        "method_label": cell.label,
        "method_colour": cell.colour,
        "sample_pruner": pruning.sample_pruner,
        "token_pruner": pruning.token_pruner,
        "sample_ratio": pruning.sample_ratio,
        "token_ratio": pruning.token_ratio,
        "options": canonical_json(options_of(pruning)),
        "training": ", ".join(f"{key}={value}" for key, value in grid.variant(cell).items()),
        "seed": str(seeds.data) if seeds.data == seeds.pruner == seeds.init else apart,
        "seed_data": seeds.data,
        "seed_pruner": seeds.pruner,
        "seed_init": seeds.init,
    }


def options_of(pruning: Pruning) -> dict[str, Any]:
    """Options of both pruners, the readings that concern every method, and the reference model's name."""
    method_wide = pruning.model_dump(mode="json", include=set(Readings.model_fields))
    for role in AUXILIARY:
        if (model := getattr(pruning, role)) is not None:
            method_wide[role] = model.name if isinstance(model, Model) else model.label
    if (replayed := pruning.replay) is not None:
        options = canonical_json(options_of(replayed))
        changed = changed_options(replayed.method, replayed.sample_pruner, replayed.token_pruner, options)
        described = option_text(changed.values())
        method_wide["of"] = replayed.method + (f" ({described})" if described else "")
    if pruning.scoring != Scoring():
        method_wide["scoring"] = pruning.scoring.label
        method_wide["scoring_precision"] = pruning.scoring.precision
    return {"sample": pruning.sample_options, "token": pruning.token_options, "method": method_wide}


def _costs(train: _Train | None) -> dict[str, Any]:
    """Columns of costs and selection, and the versions that trained the cell; nothing for one that is not trained."""
    if train is None:
        return {}
    costs: dict[str, Any] = {}
    for key, dtype in COST_COLUMNS.items():
        value = train.cost.get(key)
        costs[key] = int(value) if value is not None and dtype == pl.Int64() else value
    costs |= {key: train.selection.get(key) for key in SELECTION_COLUMNS}
    versions = {name: train.provenance.get(name) for name in ("qtuning", "git", "python")}
    versions |= train.provenance.get("packages", {})
    return costs | {"versions": canonical_json({name: text for name, text in versions.items() if text is not None})}


def _cut_responses(cell: Cell, paths: ResultPaths) -> dict[str, Any]:
    samples = None if cell.zero_shot else _Samples.read(paths.samples(cell) / "report.json")
    return {} if samples is None else {"cut_responses": samples.truncated_responses / samples.used or None}


def _hole(benchmark: str, status: str, reason: str) -> dict[str, Any]:
    metric = BENCHMARKS[benchmark].metric if benchmark in BENCHMARKS else None
    return {"benchmark": benchmark, "metric": metric, "headline": True, "status": status, "reason": reason}


def _why_missing(cell: Cell, folder: Path, train: _Train | None, scores: _Scores | None) -> tuple[str, str]:
    if train is not None and train.status == "diverged":
        return "diverged", train.reason or "no reason recorded"
    if scores is not None:
        return "not run", f"evaluation skipped: {scores.reason or 'no reason recorded'}"
    if cell.zero_shot:
        return "not run", "not evaluated yet"
    if train is not None:  # a failed.json beside it is older: that failure was repeated with success
        return "not run", "trained, not evaluated yet"
    failed = _Failed.read(folder / "failed.json")
    return (failed.status, failed.reason) if failed is not None else ("not run", "not trained yet")


def collect_items(scores: pl.DataFrame, results: Path) -> pl.LazyFrame:
    """Every item's score by the metrics that a user chooses from, of the evaluated cells among a score table's rows.

    A cell whose evaluation left no items.parquet has no rows. The files are read when rows are asked for: those of
    thousands of cells are larger than memory.
    """
    done = scores.filter(pl.col("headline") & (pl.col("status") == "done"))
    root = results / "cells"
    places = done.select("cell", "evaluation").unique(maintain_order=True).rows()
    files = {root / cell / evaluation / "items.parquet": (cell, evaluation) for cell, evaluation in places}
    found = {path: place for path, place in files.items() if path.exists()}
    if not found:
        return pl.LazyFrame(schema=ITEM_SCHEMA)
    paths, (cells, evaluations) = list(map(str, found)), zip(*found.values(), strict=True)
    of_file = pl.LazyFrame({"file": paths, "cell": cells, "evaluation": evaluations})
    kept = pl.concat([
        done.select("cell", "evaluation", "benchmark", "metric"),
        done.select("cell", "evaluation", "benchmark").join(pl.DataFrame({"metric": list(METRICS)}), how="cross"),
    ])  # fmt: skip
    # a slice keeps its whole string in memory; by way of a category it becomes one of its own
    names = pl.col("item_hash", "cluster").str.slice(0, HASH_DIGITS).cast(pl.Categorical).cast(pl.String)
    rows = pl.scan_parquet(paths, include_file_paths="file", extra_columns="ignore", schema=ANSWERS)
    return (
        rows.join(of_file, on="file")
        .join(kept.lazy(), on=["cell", "evaluation", "benchmark", "metric"], how="semi")
        .with_columns(names)
        .select(*ITEM_SCHEMA)
    )


def collect_steps(cells: Iterable[str], results: Path) -> pl.DataFrame:
    """The metrics of the updates, as means over at most BINS bins of consecutive updates per cell.

    A mean leaves out updates without the value (an update that kept nothing has no loss); it is null where all lack it.
    Sorted by update.
    """
    names = {f"selection/{name}" if name in SELECTION_STEPS else name: name for name in STEP_SCHEMA if name != "cell"}
    first, means = list(STEP_SCHEMA)[1:3], list(STEP_SCHEMA)[3:]
    frames = [pl.DataFrame(schema=STEP_SCHEMA)]
    for cell, path in files_of(cells, results, "metrics.jsonl"):
        if path.stat().st_size:
            with collecting(path):
                metrics = pl.read_ndjson(path, schema={key: STEP_SCHEMA[name] for key, name in names.items()})
            place = (pl.int_range(pl.len(), dtype=pl.Int64) * min(BINS, len(metrics)) // pl.len()).alias("bin")
            groups = metrics.rename(names).sort("update").group_by(place, maintain_order=True)
            binned = groups.agg(pl.col(first).first(), pl.col(means).mean())
            frames.append(binned.select(pl.lit(cell).alias("cell"), *first, *means))
    return pl.concat(frames)


def collect_planes(cells: Iterable[str], results: Path) -> pl.DataFrame:
    """The samples that were scored, from the pruning traces: at most PLANE_ROWS a cell, in the order of its trace."""
    columns = list(PLANE_SCHEMA)[1:]
    frames = [pl.DataFrame(schema=PLANE_SCHEMA)]
    for cell, path in files_of(cells, results, "trace.parquet"):
        with collecting(path):
            scored = pl.read_parquet(path, columns=columns).filter(pl.col("ppl").is_not_null())
        frames.append(thinned(scored, PLANE_ROWS).select(pl.lit(cell).alias("cell"), *columns))
    return pl.concat(frames)


def thinned(table: pl.DataFrame, rows: int) -> pl.DataFrame:
    """At most `rows` rows, evenly spaced, in order: rows floor(k n / rows) of n."""
    if len(table) <= rows:
        return table
    return table[(pl.int_range(rows, eager=True) * len(table) // rows).to_list()]


def collect_localisation(cells: Iterable[str], results: Path) -> pl.DataFrame:
    """What localisation.json of each cell says, a row per model (base, trained) and score.

    The precision of a score is that of as many highest-scored tokens as there are wrong ones, so its recall is the
    same number. Pruning ranks nothing: it has no AUC, but a share of the tokens that it prunes. Of kept samples there
    is only their share.
    """
    rows = []
    for cell, path in files_of(cells, results, "localisation.json"):
        answer = read_answer(path)
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
            if (prunable := found.get("prunable")) is not None:  # not in answers of an older version
                for key, name in (("ppl", "token perplexity"), ("s", "smoothed score")):
                    precision = prunable[key]["precision_at_planted"]
                    rank = (precision, precision, prunable[key]["auc"], None, weight)
                    rows.append((cell, model, f"{name} of prunable samples", *rank))
                pruned = prunable["pruned"]
                share = pruned["pruned"] / pruned["tokens"] if pruned["tokens"] else None
                measures = (pruned["precision"], pruned["recall"], None, share, weight)
                rows.append((cell, model, "pruned tokens of prunable samples", *measures))
            for key, name in (("with_error", "kept samples with an error"), ("without", "kept samples without")):
                rows.append((cell, model, name, None, None, None, found["kept_samples"][key], weight))
    return pl.DataFrame(rows, schema=LOCALISATION_SCHEMA, orient="row")
