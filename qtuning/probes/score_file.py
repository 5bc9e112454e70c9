"""`qtuning plane`: where the samples of an SFT file lie on the Error-Uncertainty plane of a model, without training."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from qtuning.data.limits import positions_of
from qtuning.data.prepare import prepare
from qtuning.data.samples import SAMPLES, StoredSamples, load_samples
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Model, Pruning, Seeds, Training, TrainSet
from qtuning.experiment.ids import ResultPaths, model_id
from qtuning.experiment.quadrants import QUADRANTS
from qtuning.locks import exclusive
from qtuning.model.load import MARKER, make_ready, model_path
from qtuning.pruners.base import DROPPED, Budget, Candidates
from qtuning.pruners.q_tuning import triage
from qtuning.scoring.plane import Plane, Thresholds
from qtuning.scoring.scores import NonFinite
from qtuning.train.accelerator import make_accelerator
from qtuning.train.candidates import load_for_scoring, score_all
from qtuning.train.decision import spearman
from qtuning.train.seeding import generator

BATCH = 8  # samples of one forward


@dataclass(frozen=True)
class ScoredFile:
    """The samples of a file under a model, one row each, in the order of the file (columns: see `score_file`).

    thresholds: of the triage. report: of the preparation (data/prepare.py).
    """

    samples: pl.DataFrame
    thresholds: Thresholds
    report: dict[str, Any]


def score_file(
    model: Model,
    train_set: TrainSet,
    paths: ResultPaths,
    *,
    sample_ratio: float,
    limit: int | None = None,
    cutoff: int = 2048,
    data_dir: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ScoredFile:
    """Score every sample (or a random `limit` of them) under `model`, and triage them all as one selection batch.

    Columns of the samples: row (0-based, in the file), line, id, kind, response_tokens, ppl, entropy (nats, mean over
    the response), quadrant (1 to 4, at a median split), quadrant_thresholds (0 between the thresholds), kept and
    supplement (what Q-Tuning would keep of `sample_ratio`). progress: called with (samples done, samples in all).

    The model is made ready below `paths`, once. The data is prepared in a temporary folder. Raises UserError if the
    model or the data cannot be used.
    """
    cell = Cell(
        model=model,
        train_set=train_set,
        limit_train=limit,
        pruning=Pruning(sample_pruner="full", token_pruner="none", sample_ratio=1, token_ratio=1),
        training=Training(cutoff=cutoff),
        seeds=Seeds(data=0, pruner=0, init=0),
    )
    folder, report, table, stored = prepare_apart(cell, paths, data_dir)
    samples, accelerator = stored.samples, make_accelerator()
    logging.disable_progress_bar()  # of transformers' loading of weights; ours counts samples
    packed = load_for_scoring(folder, model.dtype, samples, accelerator)
    try:
        scores, _ = score_all(packed, samples, accelerator, BATCH, progress=progress)
    except NonFinite as error:
        raise UserError(f"model {model.name}: {error}") from None
    candidates = Candidates(torch.tensor([sample.number for sample in samples]), scores.lengths, scores)
    budget = Budget.of(sample_ratio, 1.0, len(samples), int(scores.lengths.sum()))
    selection = triage(candidates, budget, generator(0, "plane"))
    on_plane = Plane(scores.ppl, scores.ent)
    columns = {
        "response_tokens": scores.lengths,
        "ppl": scores.ppl,
        "entropy": scores.ent,
        "quadrant": on_plane.quadrants(0.5),
        "quadrant_thresholds": selection.quadrant,
        "kept": selection.role != DROPPED,
        "supplement": selection.supplement,
    }
    rows = table.select(pl.col("sample").alias("row"), "line", "id", "kind")
    rows = rows.with_columns(pl.Series(name, values.numpy()) for name, values in columns.items())
    return ScoredFile(rows, on_plane.search(sample_ratio), report)


def prepare_apart(
    cell: Cell, paths: ResultPaths, data_dir: Path | None = None
) -> tuple[Path, dict[str, Any], pl.DataFrame, StoredSamples]:
    """(folder of the model's weights, report of the preparation, samples.parquet, its samples) of data to look at.

    The model is made ready below `paths`, once. The data is prepared in a temporary folder. Longer samples than the
    model has positions are cut there, since nothing is trained on them.
    """
    folder = paths.model(cell)
    with exclusive(paths.lock(model_id(cell.model)), f"base model {cell.model.name}"):
        if not (folder / MARKER).exists():
            make_ready(cell.model, folder, paths.hub)
    positions = positions_of(model_path(folder))
    if cell.training is not None and positions is not None and cell.training.cutoff > positions:
        cell = cell.model_copy(update={"training": cell.training.model_copy(update={"cutoff": positions})})
    with tempfile.TemporaryDirectory(prefix="qtuning-data-") as temporary:
        out = Path(temporary)
        report = prepare(cell, model_path(folder), out, data_dir=data_dir, hub=paths.hub)
        return model_path(folder), report, pl.read_parquet(out / SAMPLES), load_samples(out)


def print_plane(found: ScoredFile, sample_ratio: float, console: Console) -> None:
    """Print what was scored, the shares of the quadrants, the thresholds, and how the two axes correlate."""
    samples, lines = found.samples, found.thresholds
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Quadrant")
    table.add_column("At the\nmedians", justify="right")
    table.add_column(f"At the thresholds\nfor {100 * sample_ratio:g}%", justify="right")
    table.add_column("Meaning, and what Q-Tuning does")
    for quadrant in QUADRANTS["figure"]:
        meaning = f"{quadrant.sides}: {quadrant.meaning}"
        table.add_row(f"Q{quadrant.number}", *_shares(samples, quadrant.number), meaning)
    table.add_row("none", *_shares(samples, 0), "between the thresholds")
    console.print(table)
    bad = ", ".join(f"{count:,} {reason}" for reason, count in found.report["bad_by_reason"].items())
    kept, added = int(samples["kept"].sum()), int(samples["supplement"].sum())
    search = "converged" if lines.converged else "did not converge"
    rho = spearman(samples["ppl"].to_torch(), samples["entropy"].to_torch())
    text = (
        f"\nsamples      {len(samples):,} scored of {found.report['read']:,} rows{f' (unusable: {bad})' if bad else ''}"
        f"; {found.report['truncated_responses']:,} responses cut at {found.report['cutoff']:,} tokens\n"
        f"thresholds   level {lines.level:.3f} ({search}): PPL {lines.ppl_low:.4g} "
        f"and {lines.ppl_high:.4g}, entropy {lines.ent_low:.4g} and {lines.ent_high:.4g} nats\n"
        f"kept         {kept:,} samples: {kept - added:,} by the thresholds, {added:,} by the supplement\n"
        f"Spearman     {'not defined' if math.isnan(rho) else f'{rho:.2f}'} between perplexity and entropy\n"
    )
    if added > kept / 2:
        taken = samples.filter(samples["supplement"])["quadrant_thresholds"].value_counts(sort=True, name="count")
        places = [
            f"{count} {f'of Q{number}' if number else 'between the lines'}" for number, count in taken.iter_rows()
        ]
        text += (
            f"\nwarning: most of what is kept is the supplement's, from {' and '.join(places)}, whatever "
            "the table says of these: the lines hold too little in Q2 and Q4, as where error and uncertainty agree\n"
        )
    console.print(text, highlight=False, soft_wrap=True)


def _shares(samples: pl.DataFrame, quadrant: int) -> list[str]:
    columns = samples.select("quadrant", "quadrant_thresholds")
    return [f"{100 * ((column == quadrant).sum() / len(column)):.1f}%" for column in columns]
