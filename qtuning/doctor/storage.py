"""Where files lie: space, whether locks work there, and what can be had from the hub."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qtuning.doctor.finding import Finding
from qtuning.errors import one_line

LEAST = 5 * 10**9  # bytes; an adapter of a 7B model with its resume states
# file systems that several machines share, whose locks one machine cannot try
SHARED = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "afs", "orangefs", "9p", "fuse")
SECONDS = 5.0  # that the hub may take to answer


def look_at_results_folder(results: Path) -> tuple[list[Finding], bool]:
    """(space and locks where the results are, or would be; whether locks tell there who is at work)."""
    folder = nearest_folder(results)
    space = _space("results", folder)
    if not os.access(folder, os.W_OK):
        advice = "choose another: snakemake --config results=FOLDER"
        return [space, Finding("problem", f"{folder}: this user may not write here", advice)], False
    problem, system = try_locks(folder), file_system(folder)
    if problem is not None:
        text = (
            f"{folder} ({system}): {problem}, so jobs go by the holder that a lock file names (docs/cluster.md), and "
            "two that start within a second could write one cell at once"
        )
        advice = "mount Lustre with `-o flock`, NFS with its lock service; or put the results elsewhere"
        return [space, Finding("problem", text, advice)], True
    if system.startswith(SHARED):
        text = f"{folder} ({system}): locks work on this machine; between machines one cannot try them"
        return [space, Finding("note", text)], True
    return [space, Finding("ok", f"{folder} ({system}): locks work")], True


def look_at_hub() -> Iterator[Finding]:
    """What can be fetched, and where it would lie. Asks the hub for nothing but a sign of life."""
    from huggingface_hub import constants, get_session, get_token
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library it uses

    cache = Path(constants.HF_HUB_CACHE)
    yield _space("hub cache", nearest_folder(cache), cache)
    if not os.access(nearest_folder(cache), os.W_OK):
        yield Finding("problem", f"{cache}: this user may not write here", "set HF_HOME to a folder of yours")
    halves = list(cache.glob("*/blobs/*.incomplete"))
    if halves:
        size = sum(path.stat().st_size for path in halves)
        yield Finding("note", f"{len(halves)} file(s) half fetched, {size / 1e9:.1f} GB; fetching goes on from there")
    if constants.HF_HUB_OFFLINE:
        yield Finding("note", "HF_HUB_OFFLINE is set: only what the cache has can be used")
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
        yield Finding("ok", f"{constants.ENDPOINT} answers")
    except (OSError, HTTPError) as error:
        yield Finding(
            "note",
            f"{constants.ENDPOINT} does not answer ({one_line(error)}): only what the cache has can be used",
            "set HF_HUB_OFFLINE=1, so that no job waits for it",
        )
    if get_token() is None:
        yield Finding("note", "not logged in at the hub: gated models (LLaMA) cannot be fetched", "hf auth login")


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _space(what: str, folder: Path, shown: Path | None = None) -> Finding:
    free, total = shutil.disk_usage(folder).free, shutil.disk_usage(folder).total
    text = f"{what} {shown or folder}: {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if free < LEAST:
        return Finding("problem", text, "make room; `qtuning plan EXPERIMENT` says how much is needed")
    return Finding("ok", text)


def file_system(folder: Path) -> str:
    """Type of the file system that `folder` is on, as the kernel calls it; 'unknown' without /proc."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    path, best = folder.resolve(), ("", "unknown")
    for _, point, kind, *_ in (line.split() for line in mounts):
        point = point.encode().decode("unicode_escape")  # a space is written \040
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def try_locks(folder: Path) -> str | None:
    """None if flock works in `folder`, else what goes wrong: Lustre without `-o flock` refuses it."""
    with (
        tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-", suffix=".tmp") as file,
        open(file.name, "r+") as other,
    ):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None  # the second was refused, as it should be
        except OSError as error:
            return f"locks do not work here ({errno.errorcode.get(error.errno or 0, 'unknown')})"
    return "two holders got one lock"
