"""A copy of a cell on a dashboard, which can fail without the cell failing.

The cell's own files (metrics.jsonl, train.json, scores.json) are the record; `qtuning replay` can send them again at
any time. If a dashboard fails, the work goes on, and the copy ends with one line on stderr. wandb sends from a process
of its own, and connecting and finishing have time limits, so that no server holds up a training or an evaluation.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from qtuning.errors import UserError
from qtuning.tracking.identity import RunIdentity

MODES = ("auto", "online", "offline", "disabled", "trackio", "tensorboard")
WANDB_MODES = {"online": "online", "shared": "online", "run": "online", "offline": "offline", "dryrun": "offline",
               "disabled": "disabled"}  # fmt: skip
"""What WANDB_MODE may say, and what it means to us."""
"""Values of the setting `tracking`: the first three are W&B's."""


class Run(Protocol):
    """One run of a dashboard, open for writing. Its methods may raise anything.

    known: how many updates it has from an earlier attempt. where: the folder or the URL that it can be seen at.
    """

    known: int
    where: str

    def log(self, record: Mapping[str, Any]) -> None: ...

    def summary(self, values: Mapping[str, Any]) -> None: ...

    def table(self, name: str, table: pl.DataFrame) -> None: ...

    def artifact(self, kind: str, path: Path) -> None: ...

    def holds(self, digest: str) -> bool: ...

    def finish(self, digest: str | None) -> None: ...


class Mirror:
    """One run of one cell. Make it with `Mirror.open`; no method raises."""

    def __init__(self, name: str = "wandb") -> None:
        self._name = name
        self._run: Run | None = None
        self.where: str | None = None  # where the run can be seen; None if there is none
        self.failure: str | None = None  # why nothing is sent any more

    @classmethod
    def open(cls, mode: str, identity: RunIdentity, results: Path, *, wait: bool = False) -> "Mirror":
        """Start or continue the run of `identity` below `results`. Call it in the main process only.

        mode: see `resolve_mode`. wait: give an upload all the time it needs, where nothing else is waiting.
        A run that is written to a file (offline, trackio, tensorboard) starts anew: log what is known of earlier
        attempts again.
        """
        mirror = cls(mode if mode in ("trackio", "tensorboard") else "wandb")
        with mirror.guarded():
            chosen = resolve_mode(mode)
            if chosen != "disabled":
                mirror._run = _open(chosen, identity, results, wait)
                mirror.where = mirror._run.where
        return mirror

    @property
    def active(self) -> bool:
        """Whether what is sent arrives anywhere."""
        return self._run is not None

    def log(self, record: Mapping[str, Any]) -> None:
        """Send the metrics of one optimizer update; record["update"] is the step."""
        with self.guarded():
            if self._run is not None and record["update"] >= self._run.known:
                self._run.log(record)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set values of the whole run; nested keys are joined with a slash. None is left out."""
        with self.guarded():
            if self._run is not None:
                self._run.summary({key: value for key, value in flatten(values).items() if value is not None})

    def table(self, name: str, table: pl.DataFrame) -> None:
        """Add a table that the dashboard shows, or replace it."""
        with self.guarded():
            if self._run is not None:
                self._run.table(name, table)

    def artifact(self, kind: str, path: Path) -> None:
        """Add a file or a folder. kind: what it is; with the run's name, that of the artifact."""
        with self.guarded():
            if self._run is not None:
                self._run.artifact(kind, path)

    def holds(self, digest: str) -> bool:
        """Whether the run was finished with this digest, and so has nothing to gain."""
        with self.guarded():
            return self._run is not None and self._run.holds(digest)
        return False

    def finish(self, digest: str | None = None) -> None:
        """End the run, after what is still to be written. digest: of what it holds, if it is whole."""
        with self.guarded():
            if self._run is not None:
                self._run.finish(digest)
        self._run = None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Tell in one line whatever is raised, SystemExit included, and send nothing more."""
        try:
            yield
        except (Exception, SystemExit) as error:
            run, self._run = self._run, None
            if run is not None:
                with suppress(Exception, SystemExit):
                    run.finish(None)  # or the library would go on with it in the next run of this process
            text = " ".join(str(error).split()) or "no message"
            self.failure = f"{type(error).__name__}: {text[:200]}"
            print(f"{self._name}: not mirroring this run ({self.failure}); its own files are complete", file=sys.stderr)


def resolve_mode(mode: str) -> str:
    """`auto` -> WANDB_MODE if set, else `online` for who is logged in, else `offline`; other modes stay.

    Raises UserError for an unknown mode, or a WANDB_MODE that is none: a misspelt `disabled` must send nothing.
    """
    if mode not in MODES:
        raise UserError(f"tracking = {mode!r}: unknown mode (valid: {', '.join(MODES)})")
    if not os.environ.get("WANDB_MODE"):
        os.environ.pop("WANDB_MODE", None)  # wandb refuses an empty value
    if mode != "auto":
        return mode
    environment = os.environ.get("WANDB_MODE", "").lower()
    if environment:
        if environment not in WANDB_MODES:
            raise UserError(f"WANDB_MODE = {environment!r}: unknown (valid: {', '.join(WANDB_MODES)})")
        return WANDB_MODES[environment]
    from qtuning.tracking.wandb_run import logged_in

    return "online" if logged_in() else "offline"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"cost": {"updates": 3}} -> {"cost/updates": 3}"""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def project() -> str:
    """The project that runs belong to: WANDB_PROJECT, else qtuning."""
    return os.environ.get("WANDB_PROJECT") or "qtuning"


def _open(mode: str, identity: RunIdentity, results: Path, wait: bool) -> Run:
    if mode == "trackio":
        from qtuning.tracking.trackio_run import TrackioRun

        return TrackioRun(identity, results, project())
    if mode == "tensorboard":
        from qtuning.tracking.tensorboard_run import TensorboardRun

        return TensorboardRun(identity, results)
    from qtuning.tracking.wandb_run import WandbRun

    return WandbRun(mode, identity, results, project(), wait)
