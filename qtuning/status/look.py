"""Where experiments are: which jobs are done, at work, failed, stopped, and what is left in seconds."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qtuning.errors import UserError
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import ResultPaths
from qtuning.files import read_json
from qtuning.locks import is_held
from qtuning.plan.assumptions import Assumptions
from qtuning.plan.machines import Machine
from qtuning.progress import Progress, beside, read_progress
from qtuning.status.failures import logged_reason, noted_reason
from qtuning.status.left import Left, Measured, time_left
from qtuning.status.works import Work, works_of
from qtuning.train.launch import Launch

WORKFLOW = "workflow"  # name of the lock that a running workflow holds
STARTING = (
    600.0  # seconds after the last line of a log in which its job may import, or wait for a GPU, without its lock
)
FRESH = 600.0  # seconds for which a file of progress counts, where a lock cannot be asked


@dataclass(frozen=True)
class Running:
    """A job at work. progress: how far it is; None before it has begun, and of jobs that do not tell."""

    work: Work
    progress: Progress | None

    def text(self) -> str:
        """`train CELL: update 340/1,200 (28%), ...`"""
        return f"{self.work}: {'at work' if self.progress is None else self.progress.text()}"


@dataclass(frozen=True)
class Ended:
    """A job that ended without its result. reason: why it failed, or how far it was when it was stopped."""

    work: Work
    reason: str

    def text(self) -> str:
        """`train CELL: REASON (LOG)`"""
        log = next((path for path in reversed(self.work.logs) if path.is_file()), None)
        return f"{self.work}: {self.reason}" + (f" ({log})" if log is not None else "")


@dataclass(frozen=True)
class Status:
    """Where experiments are. cells: of them, and done, running, failed: how many of these; the rest waits.

    at_work: the workflow runs, or one of the jobs. left: None where nothing is planned, or nothing is left.
    """

    name: str
    cells: int
    done: int
    running: int
    failed: int
    runs: tuple[Running, ...]
    failures: tuple[Ended, ...]
    stopped: tuple[Ended, ...]
    at_work: bool
    left: Left | None


class Observer:
    """Looks at the results of some experiments again and again.

    since: only what was done from then on (Unix time) is measured, and failures before do not count while the workflow
    runs; None: since the workflow started that is running or ran last.
    """

    def __init__(
        self,
        grids: Sequence[Grid],
        paths: ResultPaths,
        assumptions: Assumptions,
        data_dir: Path | None,
        machine: Machine,
        launch: Launch | None = None,
        since: float | None = None,
    ) -> None:
        self.names = [grid.experiment.name for grid in grids]
        self._paths, self._since = paths, since
        self._works = works_of(grids, paths, assumptions, data_dir, machine, launch or Launch())
        self._finished = {work for work in self._works if work.done}
        self._cells: dict[str, list[Work]] = {}
        for work in self._works:
            if work.cell is not None:
                self._cells.setdefault(work.cell, []).append(work)
        self._measured: dict[Work, Measured | None] = {}
        self._before = {work: _time_of(work.marker) for work in self._works if work.again}

    def look(self) -> Status:
        """Read what there is now."""
        since, names = read_run(self._paths) if self._since is None else (self._since, self.names)
        lock = self._paths.lock(WORKFLOW)
        workflow = self._since is not None or (bool(set(names) & set(self.names)) and _runs(lock, since))
        runs, failures, stopped = [], [], []
        for work in self._works:
            if self._is_done(work):
                continue
            progress = read_progress(work.lock)
            written = max(
                (_time_of(path) for path in (*work.logs, *([work.failure] if work.failure else []))), default=0
            )
            told, taken = _time_of(beside(work.lock)), _time_of(work.lock)
            if _runs(work.lock, told):
                runs.append(Running(work, progress if told >= taken else None))  # else of an earlier attempt
            elif workflow and written < since:
                continue  # left by an earlier attempt, and about to be replaced
            elif (reason := self._reason(work)) is not None:
                failures.append(Ended(work, reason))
            elif work.halfway is not None and work.halfway.is_file():
                continue
            elif workflow and told < since and time.time() - written < STARTING:
                runs.append(Running(work, None))
            elif written or progress is not None:
                how_far = "before it began" if progress is None else f"at {progress.so_far}"
                stopped.append(Ended(work, f"stopped {how_far}"))
        took = (self._measure(work) for work in self._finished if work.seconds)
        measured = [each for each in took if each is not None and each.ended >= since > 0]
        busy, broken = {running.work for running in runs}, {each.work for each in failures}
        lost = (
            {work.cell or work.name for work in broken} if workflow else set()
        )  # this run comes back to no failed cell
        waiting = [
            work for work in self._works if work not in self._finished | busy and (work.cell or work.name) not in lost
        ]
        at_work = workflow or bool(runs)
        left = time_left(measured, [(running.work, running.progress) for running in runs], waiting, at_work)
        states = [self._state(works, busy, broken) for works in self._cells.values()]
        return Status(
            name=" + ".join(self.names),
            cells=len(states),
            done=states.count("done"),
            running=states.count("running"),
            failed=states.count("failed"),
            runs=tuple(runs),
            failures=tuple(failures),
            stopped=tuple(stopped),
            at_work=at_work,
            left=left,
        )

    def _state(self, works: Sequence[Work], busy: set[Work], broken: set[Work]) -> str:
        """Of a cell."""
        if self._finished.issuperset(works):
            return "done"
        return "failed" if broken.intersection(works) else "running" if busy.intersection(works) else "waiting"

    def _is_done(self, work: Work) -> bool:
        if work not in self._finished:
            made = _time_of(work.marker)
            if made and made != self._before.get(work):
                self._finished.add(work)
        return work in self._finished

    def _reason(self, work: Work) -> str | None:
        noted = None if work.failure is None else noted_reason(work.failure)
        # a job that ended before its training began notes nothing
        return noted or next((r for log in work.logs if (r := logged_reason(log)) is not None), None)

    def _measure(self, work: Work) -> Measured | None:
        """What a finished training or evaluation took; None if it does not say."""
        if work not in self._measured:
            try:
                found = read_json(work.marker)
                seconds = found["seconds"] if work.kind == "evaluate" else found["cost"]["seconds_total"]
                self._measured[work] = Measured(work, float(seconds), _time_of(work.marker))
            except (OSError, ValueError, KeyError, TypeError):
                self._measured[work] = None
        return self._measured[work]


def read_run(paths: ResultPaths) -> tuple[float, list[str]]:
    """(Unix time of its start, experiments) of the workflow that runs, or ran last; (0, []) if none did."""
    try:
        found = json.loads(beside(paths.lock(WORKFLOW)).read_text(encoding="utf-8"))
        return float(found["started"]), list(found["experiments"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0, []


def _runs(lock: Path, written: float) -> bool:
    """Whether a job holds its lock. written: when it last told of its progress, which counts if the lock is not ours
    to ask."""
    try:
        return is_held(lock)
    except UserError:  # the results of another user
        return time.time() - written < FRESH


def _time_of(path: Path) -> float:
    """When a file was written, in Unix time; 0 without one."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
