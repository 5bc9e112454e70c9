"""A run on Weights & Biases, sent (online) or written to a folder (offline). The only module that imports wandb to log.

A cell is one run, whatever happens to it. Online it is resumed by its id. An offline run is a folder that nobody can
continue: each attempt starts a new one, so the folders of earlier attempts (fragments) are removed first, and whoever
opens the run logs all that is known again.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.errors import UserError
from qtuning.tracking.identity import RunIdentity

CONNECT_SECONDS = 10.0  # how long wandb may try to reach its server before the mirror gives up
FINISH_SECONDS = 30.0  # how long a job may wait for an upload; the rest stays on disk for `wandb sync`
FRAGMENT = re.compile(r"offline-run-\d{8}_\d{6}-(.+)")
DIGEST = "digest"  # key of the summary online, file of the fragment offline
STAGED = "WANDB_DATA_DIR"  # where wandb keeps the files of tables until they are sent


class WandbRun:
    """See `mirror.Run`. mode: online or offline. wait: give an upload all the time it needs."""

    def __init__(self, mode: str, identity: RunIdentity, results: Path, project: str, wait: bool) -> None:
        self._identity = identity
        self._offline = mode == "offline"
        folder = results / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # wandb itself would write to /tmp instead
            raise PermissionError(f"{folder}: not writable")
        if not self._offline and not logged_in():
            raise UserError("online needs `wandb login` or WANDB_API_KEY; use offline and replay the cell later")
        for fragment in fragments(results, identity.name) if self._offline else ():
            shutil.rmtree(fragment)
        self._run = _start(mode, identity, folder, project, wait)
        # curves have means in the summary, and not the last batch
        self._run.define_metric("*", summary="none")
        self._fragment = Path(self._run.dir).parent
        self.known = 0 if self._offline else self._run.step
        self.where = str(self._fragment) if self._offline else str(self._run.url)

    def log(self, record: Mapping[str, Any]) -> None:
        self._run.log(dict(record), step=record["update"])

    def summary(self, values: Mapping[str, Any]) -> None:
        if "evaluation" in values:  # scores of another evaluation, which a run that is continued may have
            for key in [key for key in self._run.summary.keys() if key.startswith(("score/", "score_"))]:  # noqa: SIM118
                if key not in values:
                    del self._run.summary[key]
        self._run.summary.update(dict(values))

    def table(self, name: str, table: pl.DataFrame) -> None:
        import wandb

        # in the summary, so that sending it twice adds no step
        with self._staging():
            rows = [list(row) for row in table.iter_rows()]
            self._run.summary[name] = wandb.Table(
                columns=list[str | int](table.columns), data=rows, allow_mixed_types=True
            )

    def artifact(self, kind: str, path: Path) -> None:
        import wandb

        # [-100:]: names have 128 characters at most, and a cell's ends in its hash
        name = re.sub(r"[^\w.-]", "-", self._identity.name)[-100:]
        artifact = wandb.Artifact(f"{kind}-{name}", type=kind.partition("-")[0])
        # immutable: sent from where it lies; a copy would double the results
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            artifact.add_file(str(file.resolve()), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def holds(self, digest: str) -> bool:
        return not self._offline and self._run.summary.get(DIGEST) == digest

    def finish(self, digest: str | None) -> None:
        if digest is not None and not self._offline:
            self._run.summary[DIGEST] = digest
        self._run.finish(exit_code=0)
        if digest is not None and self._offline:
            (self._fragment / DIGEST).write_text(digest, encoding="utf-8")

    @contextmanager
    def _staging(self) -> Iterator[None]:
        """Keep the files of tables in the fragment: they must be there when it is sent, and go when it goes."""
        from wandb.sdk.data_types._private import MEDIA_TMP

        before, shared = os.environ.get(STAGED), MEDIA_TMP.name
        if self._offline:
            os.environ[STAGED] = str((self._fragment / "staged").resolve())
        # wandb makes its folder for drafts when it is imported. In processes that the warm server forks it is the
        # server's, and the first of them that ends removes it
        with tempfile.TemporaryDirectory(prefix="wandb-media-") as own:
            MEDIA_TMP.name = own
            try:
                yield
            finally:
                MEDIA_TMP.name = shared
                os.environ.pop(STAGED, None)
                if before is not None:
                    os.environ[STAGED] = before


def fragments(results: Path, name: str) -> list[Path]:
    """The folders of the offline runs of that name, the oldest first: one, unless an older version wrote them."""
    found = (
        (path, FRAGMENT.fullmatch(path.name)) for path in sorted((results / "wandb" / "wandb").glob("offline-run-*"))
    )
    return [path for path, match in found if match is not None and match[1] == name]


def held_offline(results: Path, name: str, digest: str) -> bool:
    """Whether the offline run of that name was finished with this digest."""
    known = fragments(results, name)
    with suppress(FileNotFoundError):
        return len(known) == 1 and (known[0] / DIGEST).read_text(encoding="utf-8") == digest
    return False


def logged_in() -> bool:
    """Whether wandb finds credentials (environment, settings, .netrc). Asks nobody: no prompt, no network."""
    import wandb

    # a login heeds these settings and not those of a run; it says False offline, whatever credentials there are
    wandb.setup(settings=wandb.Settings(silent=True, mode="online"))
    return wandb.login(prompt=False, verify=False)


def _start(mode: str, identity: RunIdentity, folder: Path, project: str, wait: bool) -> Any:
    import wandb

    # nothing of this machine, of its code or of what it prints leaves it
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
        project=project,
        dir=str(folder),
        mode=mode,  # type: ignore[arg-type]  # online or offline
        id=identity.name,
        name=identity.name,
        resume="allow" if mode == "online" else None,  # an offline run has no server to ask
        group=identity.groups[0] if identity.groups else None,
        tags=list(identity.groups),
        job_type=identity.kind,
        config=dict(identity.config),
        settings=settings,
    )
