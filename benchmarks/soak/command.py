"""`python -m benchmarks.soak`: each fault with its tries, how many were recovered from, and how many lost a result."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import cached_property, partial
from itertools import cycle, islice
from pathlib import Path
from random import Random

from rich.console import Console

from benchmarks.report import show
from benchmarks.soak.damage import KINDS, WAYS, damage, snapshots
from benchmarks.soak.micro import EXPERIMENT, SHARING, Run, checkout, differences, fingerprint, finish, kill_all
from benchmarks.soak.races import RACES, race
from benchmarks.soak.storage import disk_faults, unmount, with_private_mounts
from benchmarks.soak.strikes import CUT_OFF, KILLED, LAST, STAGES, STARVED, chain, lives
from benchmarks.soak.tally import Struck, Tally

LIMITED = ("launcher", "warm server", "Snakemake")
"""What limits may strike, beside the jobs."""
TOGETHER = ("processes=2",)
LINKS = 6
"""Faults of a chain, before its results are compared."""
PARTS = ("kills", "corruption", "races", "writes", "memory", "disk")


Work = Callable[[Path, Random, Struck], str]
"""Does faults in a folder of its own, counts what struck, and returns what is wrong then."""


class Soak:
    """A folder of runs; what an undisturbed one gives, and how long its processes live."""

    def __init__(self, work: Path, seed: int, workers: int, minutes: float) -> None:
        """minutes: after which no attempt begins."""
        self.work, self.seed, self.workers = work, seed, workers
        self.until = time.monotonic() + 60 * minutes
        self.tally, self.count = Tally(), 0
        self.finished = checkout(work / "undisturbed")
        self.life = _undisturbed(self.finished)
        self.expected = fingerprint(self.finished)

    def attempt(self, works: Sequence[Work]) -> None:
        """Do all of them, `workers` at a time."""
        numbers = range(self.count + 1, self.count + 1 + len(works))
        self.count += len(works)
        with ThreadPoolExecutor(self.workers) as pool:
            for struck, seconds, wrong in pool.map(self._attempt, works, numbers):
                self.tally.add(struck, seconds, wrong)

    def _attempt(self, work: Work, number: int) -> tuple[Struck, float, str]:
        folder, started, struck = self.work / f"{number:03}", time.monotonic(), Struck()
        if started > self.until:
            return struck, 0.0, ""
        try:
            wrong = work(folder, Random(f"{self.seed} {number}"), struck)
        except (RuntimeError, TimeoutError, OSError) as error:
            wrong = f"{type(error).__name__}: {error}"
        kill_all(folder)
        seconds = time.monotonic() - started
        print(f"{folder.name}: {dict(struck)}, {seconds:.0f} s: {wrong or 'recovered'}", file=sys.stderr, flush=True)
        if not wrong:
            shutil.rmtree(folder, ignore_errors=True)
        return struck, seconds, f"{wrong} (seed {self.seed}, folder {folder.name})" if wrong else ""

    def chain(self, act: str, roles: Sequence[str], settings: Sequence[str] = ()) -> Work:
        """A chain of faults of one kind, one for each role."""
        life, expected = (self.life, self.expected) if not settings else self.together

        def work(folder: Path, random: Random, struck: Struck) -> str:
            chain(checkout(folder), act, roles, random, life, struck, settings)
            return differences(folder, expected)

        return work

    def strikes(self, act: str, tries: int) -> None:
        """Chains until so many faults have struck, processes of all roles in turn; or until as many chains are done."""
        random, deck, before = Random(f"{self.seed} {act}"), list[str](), self.tally.sum(act)
        roles = [role for role in self.life if role in (LAST if act == KILLED else (*STAGES, *LIMITED))]
        for _ in range(tries):
            if (left := tries - self.tally.sum(act) + before) <= 0:
                return
            chains = []
            for _ in range(self.workers):
                while len(deck) < LINKS:
                    deck += random.sample(roles, len(roles))
                dealt, deck = deck[: min(LINKS, left)], deck[LINKS:]
                # what comes early in a run first: later there is none of it left
                stages = {role: STAGES.get(role) or random.uniform(1, LAST[role]) for role in roles}
                chains.append(self.chain(act, sorted(dealt, key=lambda role: stages[role])))
            self.attempt(chains)

    @cached_property
    def together(self) -> tuple[Mapping[str, float], Mapping[str, str]]:
        """Of trainings by two processes, which come to other bits than one: the lives, and the results."""
        whole = checkout(self.work / "together")
        return _undisturbed(whole, TOGETHER), fingerprint(whole)

    def ranks(self, tries: int) -> None:
        """Kills of the processes of trainings by two processes."""
        roles = [role for role in ("rank", "training", "launcher") if role in self.together[0]]
        self.attempt([self.chain(KILLED, [roles[number % len(roles)] for number in range(tries)], TOGETHER)])

    def disk(self, tries: int) -> None:
        """A disk that is full or read-only."""

        def work(folder: Path, random: Random, struck: Struck) -> str:
            disk_faults(folder, random, tries, struck)
            if not (wrong := differences(folder, self.expected)):
                unmount(folder)
            return wrong

        self.attempt([work])

    def corruption(self, tries: int) -> None:
        """Damage to files of each kind in turn."""
        random = Random(f"{self.seed} corruption")
        cases = [(state, pattern, way) for way in WAYS for state, kinds in KINDS.items() for pattern in kinds]
        random.shuffle(cases)
        places = snapshots(self.work, self.finished, random, self.life)
        self.attempt([self.damage(places[state], pattern, way) for state, pattern, way in islice(cycle(cases), tries)])

    def damage(self, place: Path, pattern: str, way: str) -> Work:
        """Damage to one file of a copy of `place`."""

        def work(folder: Path, random: Random, struck: Struck) -> str:
            struck[f"{pattern}, {way}"] = 1
            return damage(folder, place, pattern, way, random, self.expected)

        return work

    def races(self, tries: int) -> None:
        """Two of a kind at once."""
        finish(Run(self.finished, target=SHARING))
        expected = {EXPERIMENT: self.expected, SHARING: fingerprint(self.finished, SHARING)}

        def work_of(kind: str) -> Work:
            def work(folder: Path, random: Random, struck: Struck) -> str:
                struck[kind] = 1
                return race(folder, kind, random, expected)

            return work

        self.attempt([work_of(kind) for kind in islice(cycle(RACES), tries)])


def _undisturbed(folder: Path, settings: Sequence[str] = ()) -> Mapping[str, float]:
    run = Run(folder, settings)
    life = lives(run)
    finish(run)
    return life


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line. Exit status 1 where a fault lost a result."""
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description=__doc__)
    parser.add_argument("--tries", type=int, default=100, help="kills; of the other faults a share of it")
    parser.add_argument("--seed", type=int, default=0, help="of all moments, victims and places")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--minutes", type=float, default=60, help="after which nothing more is begun")
    parser.add_argument("--fast", action="store_true", help="two kills and a flipped bit, in less than a minute")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; may be repeated")
    parser.add_argument("--work", type=Path, help="folder for the runs; those that lost something stay there")
    parser.add_argument("--into", type=Path, help="page to write the table to, between its marks")
    args = parser.parse_args(arguments)
    parts = args.only or PARTS
    private = "disk" in parts and not args.fast and with_private_mounts("benchmarks.soak")
    if "disk" in parts and not args.fast and not private:
        print("no disks are tried: this machine allows no mounts of one's own", file=sys.stderr)
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="qtuning-soak-", dir=args.work)).resolve()
    soak = Soak(work, args.seed, args.workers, args.minutes)
    if args.fast:
        kills = soak.chain(KILLED, ["training", "Snakemake"])
        soak.attempt([kills, soak.damage(soak.finished, "cells/*/*/items.parquet", "a bit flipped")])
    else:
        few = max(1, args.tries // 10)
        todo = {
            "kills": [partial(soak.strikes, KILLED, args.tries), partial(soak.ranks, few)],
            "memory": [partial(soak.strikes, STARVED, few)],
            "writes": [partial(soak.strikes, CUT_OFF, few)],
            "disk": [partial(soak.disk, few)] if private else [],
            "corruption": [partial(soak.corruption, 3 * few)],
            "races": [partial(soak.races, max(1, few // 2))],
        }
        for part in parts:
            for step in todo[part]:
                step()
    table = soak.tally.table(f"Soak of {date.today()}, seed {args.seed}, {time.monotonic() - started:,.0f} seconds")
    show(table, Console(width=None if sys.stdout.isatty() else 160))
    if args.into:
        soak.tally.write(table, args.into)
    if soak.tally.any_lost:
        sys.exit(f"lost: see {work}")
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
