"""Weights go after the last job that wants them, of all workflows that run on these results. Loads no torch.

Full weights are large, so a workflow keeps them only while a job of its own is to read them. Each workflow says which
jobs these are, in a file that counts while it lives:

    locks/weights-HOST-PROCESS.json    cell -> the jobs that want its weights, by the files they end in
    locks/weights-HOST-PROCESS.lock    held while the workflow lives

A job that has ended takes itself off the list of its workflow, and removes the weights if no workflow wants them any
more. All of this happens under one lock, so that no workflow plans with weights that are being removed.
"""

import atexit
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from qtuning.files import read_json, write_json
from qtuning.locks import exclusive, is_held

VARIABLE = "QTUNING_WORKFLOW"
"""Environment variable: the name of the workflow that a job belongs to."""

WORKFLOW = "workflow"  # among the jobs that want weights: the workflow itself, until it ends

Jobs = Mapping[str, Collection[str]]


def want_weights(
    results: Path, wanted: Callable[[], Jobs], cells: Collection[str], grouped: Collection[str] = ()
) -> None:
    """Say for this process, a workflow, and until it ends, which jobs want weights; then remove what nobody wants.

    wanted: cell -> jobs that are still to be done. It is asked now, before the workflow plans, and at the end. cells:
    whose weights go. grouped: those of them whose jobs are one job of a cluster. Snakemake looks for all outputs of
    such a group at its end, so these weights go with the workflow.
    """
    name = f"weights-{socket.gethostname()}-{os.getpid()}"
    lifetime, me = ExitStack(), os.getpid()
    with _guard(results):
        lifetime.enter_context(exclusive(results / "locks" / f"{name}.lock", "a workflow"))
        jobs = {cell: [*jobs, *[WORKFLOW] * (cell in grouped)] for cell, jobs in wanted().items()}
        write_json(results / "locks" / f"{name}.json", _listed(jobs))
    os.environ[VARIABLE] = name

    def close() -> None:
        if os.getpid() != me:  # a process that Snakemake has forked
            return
        with _guard(results):
            (results / "locks" / f"{name}.json").unlink(missing_ok=True)
            left = [cell for cell in cells if (results / "cells" / cell / "weights").is_dir()]
            if left:
                for cell in set(left) - wanted().keys() - _wanted_by_others(results, name):
                    _remove(results, cell)
        lifetime.close()
        (results / "locks" / f"{name}.lock").unlink(missing_ok=True)

    atexit.register(close)


def has_used(results: Path, cell: str, job: Path) -> None:
    """Say that a job has ended that read the weights of a cell. job: the file that it ends in, below `results`."""
    if (name := os.environ.get(VARIABLE)) is None:
        return  # nobody's weights go but those of a workflow
    own = results / "locks" / f"{name}.json"
    with _guard(results):
        if not own.is_file():
            return  # the workflow has ended, or has other results
        mine: dict[str, list[str]] = read_json(own)
        if cell not in mine:
            return
        mine[cell] = [other for other in mine[cell] if other != job.relative_to(results).as_posix()]
        write_json(own, _listed(mine))
        if not mine[cell] and cell not in _wanted_by_others(results, name):
            _remove(results, cell)


def _guard(results: Path) -> AbstractContextManager[None]:
    return exclusive(results / "locks" / "weights.lock", "weights that go")


def _listed(wanted: Jobs) -> dict[str, list[str]]:
    return {cell: sorted(jobs) for cell, jobs in wanted.items() if jobs}


def _wanted_by_others(results: Path, own: str) -> set[str]:
    """The cells whose weights other workflows want that live. The files of those that were killed are removed."""
    found: set[str] = set()
    for file in (results / "locks").glob("weights-*.json"):
        lock = file.with_suffix(".lock")
        if file.stem == own:
            continue
        if is_held(lock):
            found |= read_json(file).keys()
        else:
            file.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
    return found


def _remove(results: Path, cell: str) -> None:
    weights = results / "cells" / cell / "weights"
    aside = weights.with_name(f".weights.{uuid.uuid4().hex[:8]}.old")
    try:
        os.rename(weights, aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside)
