"""A run on Trackio, the dashboard of Hugging Face that needs no account: a database below results/trackio.

`trackio show` opens it in a browser. Files are not copied into it: they lie beside it.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.hub.offline import go_offline
from qtuning.tracking.identity import RunIdentity

FOLDER = "TRACKIO_DIR"


class TrackioRun:
    """See `mirror.Run`. The run of that name is written anew."""

    def __init__(self, identity: RunIdentity, results: Path, project: str) -> None:
        folder = (results / "trackio").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if "trackio" in sys.modules and os.environ.get(FOLDER) != str(folder):  # it reads the variable once
            raise RuntimeError(f"trackio writes to {os.environ.get(FOLDER)} in this process already")
        os.environ[FOLDER] = str(folder)
        go_offline()  # it would ask the hub who is logged in
        with _quiet():
            import trackio

            with contextlib.suppress(ValueError):  # no such project yet
                for run in list(trackio.Api().runs(project)):
                    if run.name == identity.name:
                        run.delete()
            self._run = trackio.init(
                project=project,
                name=identity.name,
                group=identity.groups[0] if identity.groups else None,
                config=dict(identity.config),
                embed=False,  # no server of its own
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.known, self.where, self._last = 0, str(folder), -1
        self._values: dict[str, Any] = {}

    def log(self, record: Mapping[str, Any]) -> None:
        self._last = record["update"]
        self._run.log({key: value for key, value in record.items() if key != "update"}, step=self._last)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._values |= {key: value for key, value in values.items() if isinstance(value, int | float)}

    def table(self, name: str, table: pl.DataFrame) -> None:
        import trackio

        self._values[name] = trackio.Table(columns=table.columns, data=[list(row) for row in table.iter_rows()])

    def artifact(self, kind: str, path: Path) -> None: ...

    def holds(self, digest: str) -> bool:
        return False

    def finish(self, digest: str | None) -> None:
        import trackio

        with _quiet():
            if self._values:  # Trackio has no summary: what is said of the whole run stands at its last step
                self._run.log(self._values, step=max(self._last, 0))
            trackio.finish()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Trackio prints: a mirror is silent."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
