"""Where the samples of an SFT file lie on the Error-Uncertainty plane of a model: no training, one forward each."""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from qtuning.data.prepare import prepare
from qtuning.data.samples import REPORT, SAMPLES, Sample, load_samples
from qtuning.errors import UserError
from qtuning.experiment.names import ResultPaths, model_id
from qtuning.experiment.schema import Cell, Model, Pruning, Seeds, Training, TrainSet
from qtuning.files import exclusive, read_json
from qtuning.model.load import MARKER, load_model, make_ready, model_path
from qtuning.model.packed import PackedModel, check_packed_forward
from qtuning.pruners.base import DROPPED, Budget, Candidates
from qtuning.pruners.q_tuning import triage
from qtuning.scoring import plane
from qtuning.scoring.plane import Thresholds
from qtuning.scoring.scores import BatchScores, NonFinite, observe
from qtuning.train.seeding import generator

BATCH = 8
"""Samples of one forward."""

PROBED = 64
"""Samples among which the shortest and the longest check that the packed forward is the model's own."""


@dataclass(frozen=True)
class Scan:
    """samples: one row each, in the order of the file (`scan`). thresholds: of the triage. report: of the preparation
    (data/prepare.py: read, bad rows by reason, truncated, ...)."""

    samples: pl.DataFrame
    thresholds: Thresholds
    report: dict[str, Any]


def scan(
    model: Model,
    train_set: TrainSet,
    paths: ResultPaths,
    *,
    sample_ratio: float,
    limit: int | None = None,
    cutoff: int = 1024,
    data_dir: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scan:
    """Score every sample (or a random `limit` of them) under `model`, and triage them all as one selection batch.

    samples: row (0-based, in the file), line, id, kind, response_tokens, ppl, entropy (nats, mean over the response),
    quadrant (1 to 4, of the median split), quadrant_thresholds (0 between them), kept, supplement: what Q-Tuning would
    keep of `sample_ratio`. progress: called with (samples done, of how many).

    The model is made ready in `paths` once; the data is prepared in a temporary folder. Raises UserError where the
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
    folder = paths.model(cell)
    with exclusive(paths.lock(model_id(model)), f"base model {model.name}"):
        if not (folder / MARKER).exists():
            make_ready(model, folder)
    with tempfile.TemporaryDirectory(prefix="qtuning-plane-") as temporary:
        out = Path(temporary)
        prepare(cell, model_path(folder), out, data_dir=data_dir, console=_quiet())
        table, stored, report = pl.read_parquet(out / SAMPLES), load_samples(out), read_json(out / REPORT)
    samples = stored.samples
    scores = _score(model_path(folder), model, samples, progress)
    columns, thresholds = _triage(scores, samples, sample_ratio)
    rows = table.select(pl.col("sample").alias("row"), "line", "id", "kind").with_columns(**columns)
    return Scan(rows, thresholds, report)


def _quiet() -> Any:
    from rich.console import Console

    return Console(file=sys.stderr, quiet=True)


def _score(path: Path, model: Model, samples: list[Sample], progress: Callable[[int, int], None]) -> BatchScores:
    """Scores of all samples, BATCH a forward."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # of the loading of weights; ours is of the samples
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wrapped = PackedModel(load_model(path, model.dtype)).to(device)
    check_packed_forward(wrapped, samples[:PROBED], device)
    parts = []
    for start in range(0, len(samples), BATCH):
        try:
            observed = observe(wrapped, samples[start : start + BATCH], {"scores"}, None, device)
        except NonFinite as error:
            raise UserError(f"model {model.name}: {error}") from None
        assert observed.scores is not None
        parts.append(observed.scores)
        progress(min(start + BATCH, len(samples)), len(samples))
    return BatchScores(
        torch.cat([part.nll for part in parts]),
        torch.cat([part.entropy for part in parts]),
        torch.cat([part.lengths for part in parts]),
    )


def _triage(scores: BatchScores, samples: list[Sample], sample_ratio: float) -> tuple[dict[str, pl.Series], Thresholds]:
    """What is known of each sample, and the lines of the triage at this ratio."""
    candidates = Candidates(
        numbers=torch.tensor([sample.number for sample in samples]),
        lengths=scores.lengths,
        prompts=torch.tensor([sample.prompt for sample in samples]),
        scores=scores,
    )
    budget = Budget.of(sample_ratio, 1.0, len(samples), int(scores.lengths.sum()))
    selection = triage(candidates, budget, generator(0, "plane"))
    columns = {
        "response_tokens": scores.lengths,
        "ppl": scores.ppl,
        "entropy": scores.ent,
        "quadrant": plane.quadrants(scores.ppl, scores.ent, 0.5),
        "quadrant_thresholds": selection.quadrant,
        "kept": selection.role != DROPPED,
        "supplement": selection.supplement,
    }
    found = plane.find_thresholds(scores.ppl, scores.ent, sample_ratio)
    return {name: pl.Series(name, values.numpy()) for name, values in columns.items()}, found
