"""The time that is left: what the plan says of each job, corrected by what jobs of this run took.

A job of kind k is expected to take c_k p, where p is what the plan says and c_k = sum of measured / sum of planned
seconds, over the jobs of that kind that this run has finished or is at. Of a training at work, the updates that it has
made count on both sides; what it has left follows from its own speed. The sum of what is left is divided by how many
jobs this run has had at work at a time, pauses between them counted. Jobs differ, so their number says little.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from qtuning.progress import Progress
from qtuning.status.works import Work

KINDS = {"train": "train", "measure": "train", "evaluate": "evaluate"}
"""Kinds of jobs that the plan knows, and with which of them each is measured."""


@dataclass(frozen=True)
class Measured:
    """A finished job: what it took, and when it ended (Unix time)."""

    work: Work
    seconds: float
    ended: float


@dataclass(frozen=True)
class Left:
    """Expected seconds, wall-clock. measured: whether the plan is corrected by anything."""

    seconds: float
    measured: bool


@dataclass(frozen=True)
class _AtWork:
    """A job at work. spent: seconds so far. made: share of the job that this process has made, in made_in seconds.

    stage_left: seconds until it has done what it does now.
    """

    work: Work
    spent: float
    made: float
    made_in: float
    stage_left: float


def time_left(
    finished: Sequence[Measured],
    running: Sequence[tuple[Work, Progress | None]],
    waiting: Sequence[Work],
    at_work: bool,
    now: float | None = None,
) -> Left | None:
    """Expected time until all is done; None if nothing is left, or nothing of it is planned.

    finished: by this run. at_work: whether jobs are being done; if not, it is as if they went on as before. now: Unix
    time.
    """
    now = time.time() if now is None else now
    finished = [each for each in finished if each.work.seconds]
    busy = [_at_work(work, progress, now) for work, progress in running if work.seconds]
    waiting = [work for work in waiting if work.seconds]
    if not busy and not waiting:
        return None
    factors = _factors(finished, busy)
    left = {each.work: _left_of(each, factors) for each in busy}
    by_cell: defaultdict[str, float] = defaultdict(float)  # jobs of one cell wait for each other
    for work in waiting:
        by_cell[work.cell or work.name] += factors[KINDS[work.kind]] * work.seconds
    everything = sum(left.values()) + sum(by_cell.values())
    longest = max([*left.values(), *by_cell.values()])
    measured = bool(finished) or any(each.made for each in busy)
    return Left(max(longest, everything / _at_a_time(finished, busy, now if at_work else None)), measured)


def _at_work(work: Work, progress: Progress | None, now: float) -> _AtWork:
    if progress is None:
        return _AtWork(work, 0.0, 0.0, 0.0, 0.0)
    stage_left = progress.seconds_left or 0.0
    if progress.doing != "update":  # a part of the job, of which nobody knows how large a part
        return _AtWork(work, max(0.0, now - progress.started), 0.0, 0.0, stage_left)
    made = (progress.done - progress.first) / progress.total if progress.total else 0.0
    return _AtWork(work, max(0.0, now - progress.started), made, progress.seconds, stage_left)


def _factors(finished: Sequence[Measured], busy: Sequence[_AtWork]) -> dict[str, float]:
    """Measured over planned by kind; a kind of which nothing is measured has that of all, or 1."""
    took: defaultdict[str, float] = defaultdict(float)
    planned: defaultdict[str, float] = defaultdict(float)
    for each in finished:
        took[KINDS[each.work.kind]] += each.seconds
        planned[KINDS[each.work.kind]] += each.work.seconds
    for job in busy:
        took[KINDS[job.work.kind]] += job.made_in if job.made else 0.0
        planned[KINDS[job.work.kind]] += job.made * job.work.seconds
    together = sum(took.values()) / sum(planned.values()) if sum(planned.values()) else 1.0
    return {kind: took[kind] / planned[kind] if planned[kind] else together for kind in KINDS.values()}


def _left_of(job: _AtWork, factors: dict[str, float]) -> float:
    """Seconds that a job at work has left: by its own speed where that is known, else by the plan."""
    if job.made:
        return job.stage_left
    return max(job.stage_left, factors[KINDS[job.work.kind]] * job.work.seconds - job.spent)


def _at_a_time(finished: Sequence[Measured], busy: Sequence[_AtWork], now: float | None) -> float:
    """How many jobs are done at a time. now: None if nothing is at work."""
    if not finished:
        return float(max(1, len(busy)))
    began = min([*(each.ended - each.seconds for each in finished), *(now - job.spent for job in busy if now)])
    until = max(each.ended for each in finished) if now is None else now
    spent = sum(each.seconds for each in finished) + sum(job.spent for job in busy)
    return spent / max(until - began, 1e-3)
