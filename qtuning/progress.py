"""How far a job has come: lines in its log, a bar at a terminal, and a small file that `qtuning status` reads.

The file lies beside the lock of the job and goes when the job ends. What a killed job leaves says how far it came; the
next attempt replaces it. No result depends on it.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

WRITE_SECONDS = 5.0  # between two writings of the file
FIRST_SECONDS, MOST_SECONDS = 5.0, 60.0
"""When a log gets its first line, and the longest time between two. The times in between double."""
PAIRS = ("samples", "tokens")  # what is kept of what was asked for


@dataclass(frozen=True)
class Progress:
    """How far a job has come with what it does now.

    doing: what it does, and what it counts. done, total: of these. first: how many were done when this process began
    with them, and seconds: how long ago that was. started: when the process began to tell, in Unix time. figures: what
    else is known: `loss`; `samples_kept`, `samples_asked`, `tokens_kept` and `tokens_asked`, sums over all updates;
    `tokens_per_second`, of the response tokens that were looked at.
    """

    doing: str
    done: int
    total: int
    first: int
    seconds: float
    started: float
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """How much of `total` is done, 0 to 1."""
        return self.done / self.total if self.total else 1.0

    @property
    def seconds_left(self) -> float | None:
        """Of what it does now, at the speed of this process; None as long as that is unknown."""
        made = self.done - self.first
        return None if made <= 0 else max(0, self.total - self.done) * self.seconds / made

    @property
    def so_far(self) -> str:
        """`update 340/1,200 (28%), loss 1.23, kept 680/680 samples and 9,100/9,000 tokens, 850 tokens/s`"""
        counted = f"{self.doing} {self.done:,}/{self.total:,} ({math.floor(100 * self.share)}%)"
        return ", ".join(filter(None, (counted, figures_text(self.figures))))

    def text(self) -> str:
        """The same, and `, 4 min left` once that is known."""
        left = self.seconds_left
        return self.so_far + ("" if left is None else f", {duration(left)} left")


def figures_text(figures: Mapping[str, float]) -> str:
    """What is known of a training beside its updates."""
    parts = [f"loss {figures['loss']:.3g}"] if "loss" in figures else []
    kept = [
        f"{figures[f'{what}_kept']:,.0f}/{figures[f'{what}_asked']:,.0f} {what}"
        for what in PAIRS
        if f"{what}_asked" in figures
    ]
    parts += [f"kept {' and '.join(kept)}"] if kept else []
    if "tokens_per_second" in figures:
        parts.append(f"{figures['tokens_per_second']:,.0f} tokens/s")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2.5 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes / 60 / 24:.1f} days"


def beside(lock: Path) -> Path:
    """The file of a job's progress, by the job's lock."""
    return lock.with_suffix(".progress")


def read_progress(lock: Path) -> Progress | None:
    """How far the job of this lock has come, or had come when it was killed; None if nothing is known."""
    try:
        return Progress(**json.loads(beside(lock).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


class Reporter:
    """Tells how far this process has come. Of several that share a job, the first one has it.

    file: where `qtuning status` looks; None for nowhere. `with` takes the file away in the end, unless the job was
    killed or stopped by Ctrl-C. At a terminal there is a bar; in a log, a line now and then without control characters.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file, self._terminal = file, sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._progress = Progress("", 0, 0, 0, 0.0, time.time())
        self._began = self._write_at = time.monotonic()
        self._wait, self._print_at = FIRST_SECONDS, self._began + FIRST_SECONDS

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._file is not None and (error is None or isinstance(error, Exception)):
            with contextlib.suppress(OSError):
                self._file.unlink()

    @contextlib.contextmanager
    def doing(self, what: str, total: int, first: int = 0) -> Iterator[None]:
        """While this is done. It may be a part of something else that is being done, and then goes on.

        what: for people, in the singular (`update`). total, first: see `Progress`.
        """
        outer = self._progress, self._began, self._bar
        self._began = self._write_at = time.monotonic()
        self._progress, self._bar = Progress(what, first, total, first, 0.0, self._progress.started), None
        if self._terminal:
            self._bar = tqdm(desc=what, initial=first, total=total, mininterval=0.2)
        self.at(first, total)
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.close()
            self._progress, self._began, self._bar = outer

    def at(self, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        """So much is done; cheap enough to be called after every update. figures: see `Progress`."""
        now = time.monotonic()
        known = {key: value for key, value in (figures or {}).items() if math.isfinite(value)}
        before = self._progress
        self._progress = Progress(before.doing, done, total, before.first, now - self._began, before.started, known)
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(figures_text(known), refresh=False)
            self._bar.update(done - self._bar.n)
        elif now >= self._print_at:
            print(self._progress.text(), file=sys.stderr, flush=True)
            self._wait = min(2 * self._wait, MOST_SECONDS)
            self._print_at = now + self._wait
        if self._file is not None and now >= self._write_at:
            self._write_at = now + WRITE_SECONDS
            _replace(self._file, json.dumps(asdict(self._progress)))

    def advance(self, count: int) -> None:
        """So many more are done."""
        self.at(self._progress.done + count, self._progress.total)


def _replace(file: Path, text: str) -> None:
    """Write a file at once, but do not wait for the disk: after a crash nobody needs it. A full disk stops no job."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with temporary.open("x", encoding="utf-8") as handle:  # through no link that another user put there
            handle.write(text)
        os.replace(temporary, file)
