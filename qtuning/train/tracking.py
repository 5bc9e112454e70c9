"""A copy of a cell's metrics on Weights & Biases. The only module that imports wandb.

The cell's own files (metrics.jsonl, train.json, scores.json) are the record; `replay` can send them again at any time.
If W&B fails, the training goes on, and the copy ends with one line on stderr. wandb sends from a process of its own,
and connecting and finishing have time limits, so W&B does not hold up a training.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import cell_id
from qtuning.files import read_json, short_hash, write_text

if TYPE_CHECKING:
    import wandb

MODES = ("auto", "online", "offline", "disabled")
CONNECT_SECONDS = 10.0  # how long wandb may try to reach its server before the mirror gives up
FINISH_SECONDS = 30.0  # how long a training may wait for an upload; the rest stays on disk for `wandb sync`


class Mirror:
    """One wandb run for one cell. Make it with `Mirror.open`; no method raises."""

    def __init__(self) -> None:
        self._run: wandb.Run | None = None
        self._known = 0  # updates that the server has from an earlier attempt
        self.failure: str | None = None  # why nothing is sent any more

    @classmethod
    def open(cls, mode: str, cell: Cell, groups: Sequence[str], folder: Path, *, wait: bool = False) -> "Mirror":
        """Start mirroring a cell below `folder`. Call it in the main process only.

        mode: see `resolve_mode`. groups: the experiments that the cell belongs to; the first becomes the run's group,
        and all become tags. The run's id is the cell's, so a resumed cell continues its run. wait: give an upload all
        the time it needs (for `replay`, where nothing else is waiting).
        """
        mirror = cls()
        with mirror._ending_on_failure():
            chosen = resolve_mode(mode)
            if chosen == "online" and not _logged_in():
                raise UserError("online needs `wandb login` or WANDB_API_KEY; use offline and replay the cell later")
            if chosen != "disabled":
                mirror._run = _start(chosen, cell, groups, folder, wait)
                mirror._known = mirror._run.step
        return mirror

    def log(self, record: Mapping[str, Any]) -> None:
        """Send the metrics of one optimizer update; record["update"] is the step."""
        with self._ending_on_failure():
            if self._run is not None and record["update"] >= self._known:
                self._run.log(dict(record), step=record["update"])

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set summary values; nested keys are joined with a slash."""
        with self._ending_on_failure():
            if self._run is not None:
                self._run.summary.update(flatten(values))

    def finish(self) -> None:
        """End the run, after what is still to be written."""
        with self._ending_on_failure():
            if self._run is not None:
                self._run.finish(exit_code=0)
        self._run = None

    @contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        """Tell in one line whatever wandb raises, SystemExit included, and send nothing more."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self._run = None
            text = " ".join(str(error).split()) or "no message"
            self.failure = f"{type(error).__name__}: {text[:200]}"
            print(f"wandb: not mirroring this run ({self.failure}); its own files are complete", file=sys.stderr)


def resolve_mode(mode: str) -> str:
    """`auto` -> WANDB_MODE if set, else `online` for who is logged in, else `offline`; other modes stay.

    Raises UserError for an unknown mode.
    """
    if mode not in MODES:
        raise UserError(f"tracking = {mode!r}: unknown mode (valid: {', '.join(MODES)})")
    if not os.environ.get("WANDB_MODE"):
        os.environ.pop("WANDB_MODE", None)  # wandb refuses an empty value
    if mode != "auto":
        return mode
    environment = os.environ.get("WANDB_MODE", "").lower()
    if environment:
        return {"disabled": "disabled", "offline": "offline", "dryrun": "offline"}.get(environment, "online")
    return "online" if _logged_in() else "offline"


def _logged_in() -> bool:
    """Whether wandb finds credentials (environment, settings, .netrc). Asks nobody: no prompt, no network."""
    import wandb

    # a login heeds these settings and not those of a run; it says False offline, whatever credentials there are
    wandb.setup(settings=wandb.Settings(silent=True, mode="online"))
    return wandb.login(prompt=False, verify=False)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"cost": {"updates": 3}} -> {"cost/updates": 3}"""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def replay(folder: Path, mode: str = "auto", groups: Sequence[str] = ()) -> bool:
    """Send a finished cell to wandb from its files: metrics.jsonl, train.json and every scores.json.

    Returns whether anything was sent. Doing it twice does no harm: online, steps that the server has are not sent
    again; offline, a cell whose files have not changed since is left alone.

    Raises UserError where the folder holds no cell, or where wandb refused.
    """
    if not (folder / "cell.json").exists():
        raise UserError(f"{folder / 'cell.json'}: no such file; give the folder of a cell (results/cells/...)")
    cell = Cell.model_validate(read_json(folder / "cell.json"))
    metrics, marker = folder / "metrics.jsonl", folder / "train.json"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    records = [json.loads(line) for line in lines]
    train = read_json(marker) if marker.exists() else {}
    summary = {key: train[key] for key in ("status", "updates", "loss", "cost") if key in train}
    for path in sorted(folder.glob("*/scores.json")):
        scores = read_json(path)
        for benchmark, result in scores["benchmarks"].items():
            summary[f"{scores['evaluation_id']}/{benchmark}"] = result["metrics"]
    chosen = resolve_mode(mode)
    if chosen == "disabled":
        return False
    target = folder.parent.parent / "wandb"
    # an offline run cannot be asked what it holds, so what was written is remembered
    sent = target / "replayed" / f"{folder.name}.txt"
    contents = short_hash({"records": records, "summary": summary, "groups": list(groups)})
    if chosen == "offline" and sent.exists() and sent.read_text(encoding="utf-8") == contents:
        return False
    mirror = Mirror.open(chosen, cell, groups, target, wait=True)
    for record in records:
        mirror.log(record)
    mirror.summary(summary)
    mirror.finish()
    if mirror.failure is not None:
        raise UserError(f"{folder.name}: not sent to wandb: {mirror.failure}")
    if chosen == "offline":
        write_text(sent, contents)
    return True


def _start(mode: str, cell: Cell, groups: Sequence[str], folder: Path, wait: bool) -> "wandb.Run":
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):  # wandb itself would write to /tmp instead
        raise PermissionError(f"{folder}: not writable")
    import wandb

    # nothing but the cell's configuration and metrics leaves this machine
    settings = wandb.Settings(
        silent=True,
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,
        host="",
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        init_timeout=CONNECT_SECONDS,
        login_timeout=CONNECT_SECONDS,
        finish_timeout=0.0 if wait else FINISH_SECONDS,  # 0: as long as it takes
        finish_timeout_raises=True,
    )
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "qtuning"),
        dir=str(folder),
        mode=mode,  # type: ignore[arg-type]  # online or offline
        id=cell_id(cell),
        name=cell_id(cell),
        resume="allow" if mode == "online" else None,  # an offline run has no server to ask
        group=groups[0] if groups else None,
        tags=list(groups),
        job_type="train",
        config={"cell": cell_id(cell)} | cell.model_dump(mode="json", by_alias=True),
        settings=settings,
    )
