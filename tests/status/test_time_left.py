"""The time that is left, against sums by hand."""

from pathlib import Path

import pytest

from qtuning.progress import Progress
from qtuning.status.left import Measured, time_left
from qtuning.status.works import Work

NOW = 10_000.0


def work(kind: str, seconds: float, cell: str) -> Work:
    return Work(kind, cell, Path("marker"), Path("lock"), (), cell, seconds=seconds)


def training(done: int, total: int, seconds: float, first: int = 0) -> Progress:
    return Progress("update", done, total, first, seconds, NOW - seconds)


def test_by_the_plan_alone_one_job_at_a_time() -> None:
    waiting = [work("train", 100, "a"), work("evaluate", 50, "a"), work("train", 100, "b")]
    found = time_left([], [], waiting, at_work=False, now=NOW)
    assert (found.seconds, found.measured) == (250, False)


def test_the_plan_is_corrected_by_kind_of_job() -> None:
    """Trainings took twice the plan, evaluations half of it. One after the other: 100 s and 10 s in 110 s."""
    finished = [
        Measured(work("train", 50, "a"), 100, NOW - 10),
        Measured(work("evaluate", 20, "a"), 10, NOW),
    ]
    waiting = [work("train", 60, "b"), work("evaluate", 30, "b"), work("train", 40, "c")]
    found = time_left(finished, [], waiting, at_work=True, now=NOW)
    assert found.measured
    assert found.seconds == pytest.approx(2 * 60 + 0.5 * 30 + 2 * 40)


def test_not_by_the_number_of_jobs() -> None:
    """One job of ten is left, and it is as long as the nine together."""
    finished = [Measured(work("train", 10, f"c{n}"), 10, NOW - 10 * n) for n in range(9)]
    found = time_left(finished, [], [work("train", 90, "x")], at_work=True, now=NOW)
    assert found.seconds == pytest.approx(90)


def test_jobs_at_a_time_and_pauses_between_them() -> None:
    """4 jobs of 50 s in 100 s: two at a time. With a pause of 100 s more: one at a time."""
    finished = [Measured(work("train", 50, f"c{n}"), 50, NOW - 50 * (n // 2)) for n in range(4)]
    waiting = [work("train", 50, f"d{n}") for n in range(8)]
    assert time_left(finished, [], waiting, at_work=True, now=NOW).seconds == pytest.approx(200)
    assert time_left(finished, [], waiting, at_work=True, now=NOW + 100).seconds == pytest.approx(400)
    # a run that ended long ago is not slower for that
    assert time_left(finished, [], waiting, at_work=False, now=NOW + 9999).seconds == pytest.approx(200)


def test_a_training_at_work_has_its_own_speed_and_corrects_the_plan() -> None:
    """A quarter of it took 30 s, planned were 15: 90 s are left of it, and the next one of 100 s takes 200."""
    running = [(work("train", 60, "a"), training(25, 100, 30))]
    found = time_left([], running, [work("train", 100, "b")], at_work=True, now=NOW)
    assert found.measured and found.seconds == pytest.approx(90 + 200)


def test_a_resumed_training_counts_what_this_process_made() -> None:
    """From update 50 on it made 25 in 30 s; of the plan's 60 s that is a quarter."""
    running = [(work("train", 60, "a"), training(75, 100, 30, first=50))]
    found = time_left([], running, [work("train", 100, "b")], at_work=True, now=NOW)
    assert found.seconds == pytest.approx(30 + 200)


def test_the_end_is_not_before_that_of_the_longest() -> None:
    """Three at a time, but the jobs of a cell wait for each other."""
    finished = [Measured(work("train", 10, f"c{n}"), 10, NOW) for n in range(3)]
    waiting = [work("train", 100, "a"), work("evaluate", 20, "a"), work("train", 10, "b")]
    assert time_left(finished, [], waiting, at_work=True, now=NOW).seconds == pytest.approx(120)


def test_an_evaluation_at_work_by_the_plan_and_by_what_it_does() -> None:
    asked = work("evaluate", 100, "a")
    scoring = Progress("scored answer", 10, 20, 0, 5.0, NOW - 30)
    assert time_left([], [(asked, scoring)], [], at_work=True, now=NOW).seconds == pytest.approx(70)
    slow = Progress("generated answer", 1, 21, 0, 10.0, NOW - 300)
    assert time_left([], [(asked, slow)], [], at_work=True, now=NOW).seconds == pytest.approx(200)


def test_nothing_is_left_or_planned() -> None:
    assert time_left([], [], [], at_work=False, now=NOW) is None
    assert time_left([], [], [work("prepare", 0, "a")], at_work=True, now=NOW) is None
