"""A run as TensorBoard's event files: curves, and at their end one point for each value of the whole run.

Written with the writer of the package `tensorboard`, which needs neither TensorFlow nor torch. It knows only numbers:
tables and files are left out.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.tracking.identity import RunIdentity


class TensorboardRun:
    """See `mirror.Run`. The run is results/tensorboard/NAME, written anew."""

    def __init__(self, identity: RunIdentity, results: Path) -> None:
        from tensorboard.summary import Writer

        folder = results / "tensorboard" / identity.name
        shutil.rmtree(folder, ignore_errors=True)
        self.known, self.where = 0, str(folder)
        self._writer, self._last = Writer(str(folder)), 0

    def log(self, record: Mapping[str, Any]) -> None:
        self._last = record["update"]
        self.summary({key: value for key, value in record.items() if key != "update"})

    def summary(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(key, value, self._last)

    def table(self, name: str, table: pl.DataFrame) -> None: ...

    def artifact(self, kind: str, path: Path) -> None: ...

    def holds(self, digest: str) -> bool:
        return False

    def finish(self, digest: str | None) -> None:
        self._writer.close()
