"""What a cell writes while it trains: metrics (JSONL) and the pruning trace (Parquet), both safe to resume."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.files import atomic_path, write_text

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
}


class Journal:
    """Metrics and trace of one cell below its state folder.

    One metrics line per optimizer update; one trace row per sample decision (`quadrant` 0: none, see plane.py;
    `weight`: factor of a kept sample's loss; `loss`: mean NLL of the tokens it was trained on).
    Lines and rows later than the checkpoint that training resumes from are dropped, so that nothing stands twice.
    """

    def __init__(self, folder: Path, resume_from: int) -> None:
        self._folder = folder
        self._metrics = folder / "metrics.jsonl"
        self._rows: list[tuple[Any, ...]] = []
        folder.mkdir(parents=True, exist_ok=True)
        # a kill may tear the last line inside a character; such a line is dropped below
        lines = (
            self._metrics.read_text(encoding="utf-8", errors="replace").splitlines() if self._metrics.exists() else []
        )
        kept = [line for line in lines if _update_of(line) < resume_from]
        write_text(self._metrics, "".join(f"{line}\n" for line in kept))
        for part in self._parts():
            if int(part.stem.split("-")[1]) > resume_from:
                part.unlink()
        self._handle = self._metrics.open("a", encoding="utf-8")

    def records(self) -> list[dict[str, Any]]:
        """The metrics of all updates so far."""
        return [json.loads(line) for line in self._metrics.read_text(encoding="utf-8").splitlines()]

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one update's metrics. Infinite values become null: JSON has none."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._handle.write(json.dumps(clean) + "\n")
        self._handle.flush()

    def trace(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Remember decisions, in the order of TRACE_SCHEMA, until the next checkpoint."""
        self._rows.extend(rows)

    def checkpoint(self, update: int) -> None:
        """Write the decisions since the last checkpoint. Called before the checkpoint itself is written."""
        os.fsync(self._handle.fileno())
        if self._rows:
            with atomic_path(self._folder / f"trace-{update:07d}.parquet") as temporary:
                _frame(self._rows).write_parquet(temporary)
            self._rows = []

    def publish(self, metrics: Path, trace: Path) -> None:
        """Write the finished metrics and trace to their final places."""
        self._handle.close()
        write_text(metrics, self._metrics.read_text(encoding="utf-8"))
        frames = [pl.read_parquet(part) for part in self._parts()]
        with atomic_path(trace) as temporary:
            pl.concat([*frames, _frame(self._rows)]).write_parquet(temporary)

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("trace-*.parquet"))


def _frame(rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=TRACE_SCHEMA, orient="row")


def _update_of(line: str) -> float:
    """The update a metrics line belongs to; infinity for a line torn by a kill."""
    try:
        return float(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):
        return math.inf
