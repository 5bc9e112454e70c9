"""A mirror of a cell on Weights & Biases: the only module that knows wandb.

The truth is in the cell's own files (metrics.jsonl, train.json, scores.json). What is sent here is a copy, and losing
it loses nothing: `replay` sends it again. So a mirror never raises and never waits: all calls of wandb happen on a
thread of their own, and the first failure ends the mirror with one line on stderr while training goes on.
"""

import json
import netrc
import os
import queue
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from qtuning.errors import UserError
from qtuning.experiment.names import cell_id as identify
from qtuning.experiment.schema import Cell
from qtuning.files import canonical_json, read_json, short_hash, write_text

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]
MODES: tuple[Mode, ...] = ("auto", "online", "offline", "disabled")

PROJECT = "qtuning"
CONNECT_SECONDS = 10.0
"""How long wandb may try to reach its server before the mirror gives up."""
FINISH_SECONDS = 30.0
"""How long the end of a run may wait for an upload; the rest stays on disk for `wandb sync`."""


class Mirror:
    """One wandb run for one cell. Make it with `Mirror.open`; every method returns at once and none raises."""

    def __init__(self, settings: Mapping[str, Any] | None) -> None:
        """`settings`: arguments of wandb.init; None for a mirror that does nothing."""
        self._queue: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._settings = settings
        self._thread: threading.Thread | None = None
        self.failure: str | None = None
        """Why nothing is sent any more; None while all is well."""
        if settings is not None:
            self._thread = threading.Thread(target=self._work, name="wandb mirror", daemon=True)
            self._thread.start()

    @classmethod
    def open(
        cls,
        mode: str,
        *,
        cell: Cell,
        cell_id: str,
        groups: Iterable[str],
        folder: Path,
        job_type: str = "train",
        wait: bool = False,
    ) -> Self:
        """Start mirroring a cell below `folder`. Call it in the main process only.

        mode: see `resolve_mode`. groups: the experiments that the cell belongs to; the first becomes the run's group,
        and all become tags. The run's id is the cell's, so a resumed cell continues its run. wait: leave an upload all
        the time it needs (for `replay`, where nothing else is waiting).
        """
        try:
            chosen = resolve_mode(mode)
            if chosen == "disabled":
                return cls(None)
            if chosen == "online" and not logged_in():
                raise UserError("online needs `wandb login` or WANDB_API_KEY; use offline and replay the cell later")
            return cls(_init_arguments(chosen, cell, cell_id, tuple(groups), Path(folder), job_type, wait))
        except Exception as error:
            mirror = cls(None)
            mirror._fail(error)
            return mirror

    def log(self, record: Mapping[str, Any]) -> None:
        """Send the metrics of one optimizer update; record["update"] is the step."""
        self._put("log", dict(record))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set summary values; nested keys are joined with a slash."""
        self._put("summary", flatten(values))

    def finish(self, exit_code: int = 0, timeout: float | None = FINISH_SECONDS) -> None:
        """End the run, waiting at most `timeout` seconds for what is still to be written."""
        if self._thread is None:
            return
        self._put("finish", exit_code)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._fail(TimeoutError(f"not finished after {timeout:g} seconds"))
        self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(exit_code=0 if error is None else 1)

    def _put(self, what: str, value: Any) -> None:
        if self._thread is not None and self.failure is None:
            self._queue.put((what, value))

    def _work(self) -> None:
        """The thread: whatever wandb raises, SystemExit included, ends here."""
        try:
            run = _start(self._settings or {})
            known = run.step  # of a resumed run: the server has all earlier steps
            while True:
                what, value = self._queue.get()
                if what == "finish":
                    run.finish(exit_code=value)
                    return
                if self.failure is not None:
                    continue
                if what == "summary":
                    run.summary.update(value)
                elif value["update"] >= known:
                    run.log(value, step=value["update"])
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Say so once, and send nothing more."""
        if self.failure is None:
            text = " ".join(str(error).split()) or "no message"
            self.failure = f"{type(error).__name__}: {text[:200]}"
            print(f"wandb: not mirroring this run ({self.failure}); its own files are complete", file=sys.stderr)


def resolve_mode(mode: str) -> Mode:
    """`auto` -> WANDB_MODE if set, else `online` for who is logged in, else `offline`; other modes stay.

    Raises UserError for an unknown mode.
    """
    if mode not in MODES:
        raise UserError(f"tracking = {mode!r}: unknown mode (valid: {', '.join(MODES)})")
    if mode != "auto":
        return mode  # type: ignore[return-value]  # mypy does not narrow a str by membership
    environment = os.environ.get("WANDB_MODE", "").lower()
    if environment in ("disabled", "offline", "online"):
        return environment  # type: ignore[return-value]
    if environment:  # older spellings: dryrun, run
        return "offline" if environment == "dryrun" else "online"
    return "online" if logged_in() else "offline"


def logged_in() -> bool:
    """Whether wandb finds credentials by itself. They are not read here, and never stored or printed."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if host in netrc.netrc(path).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"cost": {"updates": 3}} -> {"cost/updates": 3}"""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def replay(cell_folder: Path, mode: str = "auto", groups: Iterable[str] = ()) -> bool:
    """Send a finished cell to wandb from its files: metrics.jsonl, train.json and every scores.json.

    Returns whether anything was sent. Doing it twice does no harm: online, steps that the server has are not sent
    again; offline, a cell whose files have not changed since is left alone.

    Raises UserError where the folder holds no cell, or where wandb refused.
    """
    folder = Path(cell_folder)
    if not (folder / "cell.json").exists():
        raise UserError(f"{folder / 'cell.json'}: no such file; give the folder of a cell (results/cells/...)")
    cell = Cell.model_validate(read_json(folder / "cell.json"))
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    records = [json.loads(line) for line in lines]
    train = read_json(folder / "train.json") if (folder / "train.json").exists() else {}
    summary = {key: train[key] for key in ("status", "updates", "loss", "cost") if key in train}
    for path in sorted(folder.glob("*/scores.json")):
        scores = read_json(path)
        for benchmark, result in scores["benchmarks"].items():
            summary[f"{scores['evaluation_id']}/{benchmark}"] = result["metrics"]
    chosen = resolve_mode(mode)
    target = folder.parent.parent / "wandb"
    # an offline run cannot be asked what it holds, so what was written is remembered
    marker = target / "replayed" / f"{folder.name}.txt"
    contents = short_hash(json.loads(canonical_json({"records": records, "summary": summary, "groups": list(groups)})))
    if chosen == "offline" and marker.exists() and marker.read_text(encoding="utf-8") == contents:
        return False
    if chosen == "disabled":
        return False
    mirror = Mirror.open(chosen, cell=cell, cell_id=identify(cell), groups=groups, folder=target, wait=True)
    for record in records:
        mirror.log(record)
    mirror.summary(summary)
    mirror.finish(timeout=None)
    if mirror.failure is not None:
        raise UserError(f"{folder.name}: not sent to wandb: {mirror.failure}")
    if chosen == "offline":
        write_text(marker, contents)
    return True


def _init_arguments(
    mode: Mode, cell: Cell, cell_id: str, groups: tuple[str, ...], folder: Path, job_type: str, wait: bool
) -> dict[str, Any]:
    """Arguments of wandb.init: nothing but the cell's own configuration and metrics leaves this machine.

    No console output, no source code, no git state, no command line and machine (its metadata), no list of packages.
    """
    settings: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "host": "",
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
        "init_timeout": CONNECT_SECONDS,
        "login_timeout": CONNECT_SECONDS,
        "finish_timeout": 0.0 if wait else FINISH_SECONDS,
    }
    return {
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "dir": str(folder),
        "mode": mode,
        "id": cell_id,
        "name": cell_id,
        "resume": "allow" if mode == "online" else None,  # an offline run has no server to ask
        "group": groups[0] if groups else None,
        "tags": list(groups),
        "job_type": job_type,
        "config": {"cell": cell_id} | cell.model_dump(mode="json", by_alias=True),
        "settings": settings,
    }


def _start(arguments: Mapping[str, Any]) -> "wandb.Run":
    """Import wandb, make its folder and start the run."""
    folder = Path(arguments["dir"])
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):  # wandb itself would write to /tmp instead
        raise PermissionError(f"{folder}: not writable")
    import wandb

    settings = wandb.Settings(**arguments["settings"])
    wandb.setup(settings=wandb.Settings(silent=True))  # the login of an online run does not heed the run's settings
    return wandb.init(**{**arguments, "settings": settings})
