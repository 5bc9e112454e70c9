"""What a training writes and prints: metrics (JSONL) and pruning trace (Parquet), settings, warnings.

Metrics and trace survive a kill at any moment: `RunLog` drops what is later than the checkpoint that training goes on
from. `Diagnosis` looks at the metrics and says what a user should be warned of.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from accelerate import Accelerator
from torch import nn

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Pruning, Readings
from qtuning.experiment.ids import cell_id
from qtuning.experiment.needs import schedule_of
from qtuning.experiment.quadrants import LEAST_SHARE
from qtuning.files import atomic_path, file_digest
from qtuning.manifest import reading
from qtuning.pruners.habits import SAME_ROWS, budget_habit, unknown_habit
from qtuning.train.lines import Journal, LineFile, again, check_journal

TRACE_SCHEMA: dict[str, Any] = {
    "update": pl.Int32,
    "epoch": pl.Int32,
    "sample": pl.Int64,
    "ppl": pl.Float64,
    "entropy": pl.Float64,
    "quadrant": pl.Int8,
    "kept": pl.Boolean,
    "supplement": pl.Boolean,
    "response_tokens": pl.Int32,
    "kept_tokens": pl.Int32,
    "weight": pl.Float64,
    "loss": pl.Float64,
    "mask": pl.Binary,
    "token_nll": pl.Binary,
    "token_entropy": pl.Binary,
}

METRICS = "metrics.jsonl"
CONVERGED = 0.5  # share of the decisions in which the threshold search should converge
TIED = 0.1  # share of the decisions in which equal scores may decide who stays
ROW_GROUP = 100_000  # rows of the trace


class RunLog:
    """Metrics and trace of one cell, below its state folder until they are published.

    Metrics have one line an optimizer update, the trace one row a sample and update. In the trace, `quadrant` 0 means
    none (scoring/plane.py), `weight` is the factor of a kept sample's loss, and `loss` the mean NLL of its trained
    tokens. `mask` (decision.py, `pack_mask`) says which response tokens stay, of kept samples that may lose some; null
    at a token ratio of 1, unless the experiment asks for it (`observe`). `token_nll` and `token_entropy` are the scores
    of the response tokens, of a draw of the samples (token_scores.py). Lines and rows later than the checkpoint that
    training resumes from are dropped, so that none stands twice.
    """

    def __init__(self, folder: Path, resume_from: int, journal: Journal | None = None) -> None:
        """journal: of the checkpoint that is resumed from; None where there is none, or an older version wrote it.

        UserError if updates before it are missing.
        """
        self._folder = folder
        self._rows: list[tuple[Any, ...]] = []
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        found = path.read_bytes() if path.exists() else b""
        if journal is not None:
            kept = found[: journal[METRICS][0]]
        else:  # a kill may have torn the last line
            lines = [line for line in found.splitlines(keepends=True) if _update_of(line) < resume_from]
            if [_update_of(line) for line in lines] != [*range(resume_from)]:
                raise UserError(f"{path}: damaged (updates are missing); {again(folder)}")
            kept = b"".join(lines)
        self._metrics = LineFile(path, kept)
        for part in self._parts():
            if int(part.stem.split("-")[1]) > resume_from:
                part.unlink()
        self._written = {
            part.name: (part.stat().st_size, file_digest(part)) if journal is None else journal[part.name]
            for part in self._parts()
        }

    def records(self) -> list[dict[str, Any]]:
        """The metrics of all updates so far."""
        return [json.loads(line) for line in self._metrics.path.read_text(encoding="utf-8").splitlines()]

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one update's metrics. Values that are not finite become null, because JSON has none."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._metrics.add(json.dumps(clean))

    def trace(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Remember decisions, in the order of TRACE_SCHEMA, until the next checkpoint."""
        self._rows.extend(rows)

    def checkpoint(self, update: int) -> Journal:
        """Write the decisions since the last checkpoint; what a journal says of all files now.

        Call it before the checkpoint itself is written, which holds that.
        """
        if self._rows:
            part = self._folder / f"trace-{update:07d}.parquet"
            with atomic_path(part) as temporary:
                _frame(self._rows).write_parquet(temporary)
                self._written[part.name] = temporary.stat().st_size, file_digest(temporary)
            self._rows = []
        return {METRICS: self._metrics.sync(), **self._written}

    def publish(self, metrics: Path, trace: Path) -> None:
        """Write the finished metrics and trace to their final places. UserError if a file is not what was written."""
        self._metrics.publish(metrics)
        with reading(self._folder, again(self._folder)):
            check_journal(self._folder, self._written)
        parts = [*(pl.scan_parquet(self._folder / name) for name in self._written), _frame(self._rows).lazy()]
        # a training that an older version began has parts without the newer columns
        rows = pl.concat(parts, how="diagonal").select(*TRACE_SCHEMA)
        with atomic_path(trace) as temporary:  # in row groups, of which few are in memory at once
            rows.sink_parquet(temporary, row_group_size=ROW_GROUP)

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("trace-*.parquet"))


def _frame(rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=TRACE_SCHEMA, orient="row")


def _update_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):  # torn
        return math.inf


class Diagnosis:
    """Means over the updates of a training, and the warnings that follow from them.

    pruning: what was asked for. samples, tokens: how many samples and response tokens the train set has; None if only
    those that the updates saw are known.
    """

    def __init__(self, pruning: Pruning, samples: int | None = None, tokens: int | None = None) -> None:
        self._pruning, self._samples, self._tokens = pruning, samples, tokens
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._epochs = 0
        self._told: set[str] = set()

    def feed(self, record: Mapping[str, Any]) -> None:
        """Take in the metrics of one update."""
        self._epochs = int(record["epoch"]) + 1
        for key, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._sums[key] += value
                self._counts[key] += 1

    def total(self, key: str) -> float:
        """Sum of a metric over all updates so far."""
        return self._sums[key]

    def kept_and_asked(self) -> dict[str, float]:
        """Samples and response tokens that were kept, and that the pruner was asked for, so far."""
        keys = ("samples_kept", "samples_asked", "tokens_kept", "tokens_asked")
        return {key: self._sums[key] for key in keys if key in self._sums}

    def warnings(self) -> dict[str, str]:
        """All warnings so far, by subject. Ask at the end of an epoch: budgets are compared over whole epochs."""
        found, pruning = {}, self._pruning
        converged, spread = self._mean("selection/converged"), self._mean("selection/spread")
        # at a ratio of 1 the tails cannot hold everything, and need not
        if converged < CONVERGED and pruning.sample_ratio < 1:
            found["convergence"] = (
                f"the threshold search converged in {converged:.0%} of the decisions only; the supplement decides the "
                "rest, or a surplus (larger selection batches help)"
            )
        for quadrant in (1, 2, 3, 4):
            share = self._mean(f"selection/median_q{quadrant}")
            if share < LEAST_SHARE:
                found[f"q{quadrant}"] = (
                    f"quadrant Q{quadrant} holds {share:.1%} of the samples at a median split "
                    f"(under {LEAST_SHARE:.0%}): error and uncertainty leave it nearly empty"
                )
        if spread < 1:
            found["variance"] = (
                f"the scores had no variance in {1 - spread:.0%} of the decisions (batches of one, or equal samples): "
                "ties, not scores, decided there"
            )
        ties = self._mean("selection/supp_ties")
        if TIED < ties < math.inf:
            found["ties"] = (
                f"equal supplement scores decided {ties:.0%} of the selections: there the sample stays that stands "
                "earlier in the train set"
            )
        whose = "those seen" if self._samples is None else "the train set's"
        available = self._available()
        for what, key, of, ratio in (
            ("samples", "samples_kept", available[0], pruning.sample_ratio),
            ("response tokens", "tokens_kept", available[1], pruning.sample_ratio * pruning.token_ratio),
        ):
            if (said := budget_habit(what, self._sums[key], ratio * of, ratio, whose)) is not None:
                found[f"budget of {what}"] = said
        # pruners of one's own alone log these (pruners/habits.py)
        if (said := unknown_habit(self._mean("selection/unknown"))) is not None:
            found["unknown"] = f"the pruner: {said}"
        if self._mean("selection/same_rows") == 1:
            found["same rows"] = f"the pruner: {SAME_ROWS}"
        return found

    def news(self) -> list[str]:
        """The warnings that `news` has not told before."""
        fresh = {subject: text for subject, text in self.warnings().items() if subject not in self._told}
        self._told |= set(fresh)
        return list(fresh.values())

    def summary(self) -> dict[str, float]:
        """How much there was to choose from in all epochs, and the means of what the sample pruner logged."""
        available = dict(zip(("samples_available", "tokens_available"), self._available(), strict=True))
        logged = (key for key in self._sums if key.startswith(("selection/", "agreement/")))
        return available | {key.removeprefix("selection/"): self._sums[key] / self._counts[key] for key in logged}

    def _available(self) -> tuple[float, float]:
        """How many samples and response tokens there were to choose from in all epochs so far."""
        if self._samples is None or self._tokens is None:
            return self._sums["samples"], self._sums["response_tokens"]
        return self._samples * self._epochs, self._tokens * self._epochs

    def _mean(self, key: str) -> float:
        return self._sums[key] / self._counts[key] if self._counts[key] else math.inf  # of nothing, so no warning


def print_derived(
    cell: Cell,
    running: Cell,
    accelerator: Accelerator,
    dataset: Sequence[Sample],
    updates: int,
    trainable: Sequence[nn.Parameter],
    start: int,
    difference: float,
) -> None:
    """Print every derived quantity once, at the start. running: the cell with what was decided here."""
    assert cell.training is not None and cell.pruning is not None
    assert running.training is not None and running.pruning is not None
    kept = "recomputed in the backward pass" if running.training.gradient_checkpointing else "kept"
    t, pruning, processes = cell.training, cell.pruning, accelerator.num_processes
    readings = pruning.model_dump(include=set(Readings.model_fields), exclude_defaults=True)
    options = pruning.sample_options | pruning.token_options | readings
    print(
        f"cell                {cell_id(cell)}\n"
        f"method              {pruning.method} at {pruning.budget} (samples x tokens, per cent)"
        f"{f', {options}' if options else ''}\n"
        f"samples             {len(dataset)}, {sum(s.response_length for s in dataset)} response tokens an epoch\n"
        f"updates             {updates} expected in {t.epochs} epochs; selection batch {t.batch_size}, window "
        f"{processes} process(es) x {t.accumulation(processes)} x {t.batch_size} samples\n"
        f"learning rate       {t.learning_rate:g}, {t.schedule}, warm-up {round(t.warmup * updates)} updates\n"
        f"trainable           {sum(p.numel() for p in trainable):,} parameters ({t.tuning}), weights {cell.dtype}, "
        f"autocast {t.mixed_precision}, on {accelerator.device}, {torch.get_num_threads()} thread(s)\n"
        f"activations         {kept}; batches are scored by schedule {schedule_of(running.pruning)}\n"
        f"packed = own model  within {difference:.1e} nats\n"
        + (f"resumed             at update {start}\n" if start else ""),
        flush=True,
    )
