"""What the doctor found, how it is printed, and what of it is repaired."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

SHOWN = 20  # findings of one level in one section; the others are counted


@dataclass(frozen=True)
class Finding:
    """A fact (`ok`), something to know (`note`), or something that will go wrong (`problem`).

    advice: what to type or do. repair: does what is safe, and returns what it did, or '' where nothing had to be done
    any more.
    """

    level: Literal["ok", "note", "problem"]
    text: str
    advice: str = ""
    repair: Callable[[], str] | None = None


def print_findings(sections: Mapping[str, Sequence[Finding]], console: Console) -> None:
    """Print a section a subject, a line a finding, the advice below it."""
    for title, findings in sections.items():
        console.print(title, style="bold")
        counts: dict[str, int] = {}
        for finding in findings:
            counts[finding.level] = counts.get(finding.level, 0) + 1
            if counts[finding.level] > SHOWN:
                continue
            console.print(f"  {finding.level:<8} {finding.text}", style="red" if finding.level == "problem" else None)
            if finding.advice:
                console.print(f"           -> {finding.advice}")
        for level, count in counts.items():
            if count > SHOWN:
                console.print(f"  {level:<8} ... and {count - SHOWN} more")


def repair(findings: Iterable[Finding]) -> tuple[list[str], int]:
    """Do the repairs that findings have. (What was done, how many problems are left.)"""
    done, left = [], 0
    for finding in findings:
        if finding.repair is not None:
            what = finding.repair()
            if what:
                done.append(what)
                continue
        left += finding.level == "problem"
    return done, left
