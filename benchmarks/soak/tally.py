"""What a soak has tried, as a table, on the screen and in a page of the documentation."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import Table, Value
from qtuning.files import write_text

Struck = Counter[str]
"""How often each fault struck."""
MARKS = "<!-- soak -->", "<!-- end of soak -->"


class Tally:
    """Tries, losses and seconds by fault; notes say what was lost."""

    def __init__(self) -> None:
        self.tries, self.lost, self.seconds = Struck(), Struck(), dict[str, float]()
        self.notes: list[str] = []

    def add(self, struck: Struck, seconds: float, wrong: str) -> None:
        """Of one folder: what struck it, and what is wrong with its results at the end, if anything.

        Which of the faults did it is not known then: all of them count as lost.
        """
        self.tries += struck
        for fault, count in struck.items():
            self.seconds[fault] = self.seconds.get(fault, 0.0) + seconds * count / max(1, struck.total())
        if wrong:
            self.lost += struck
            self.notes.append(f"{', '.join(struck)}: {wrong}")

    @property
    def any_lost(self) -> bool:
        """Whether a result was lost, be it by a fault that did not strike."""
        return bool(self.lost)

    def sum(self, act: str) -> int:
        """How often faults of this kind struck."""
        return sum(count for fault, count in self.tries.items() if fault.endswith(act))

    def table(self, title: str) -> Table:
        """A row for each fault, then sums."""
        kills = [fault for fault in self.tries if fault.endswith("killed")]
        rows = [self._row(fault, [fault]) for fault in sorted(self.tries)]
        rows += [self._row("all kills", kills), self._row("all faults", [*self.tries])]
        return Table(title, rows, self.notes)

    def _row(self, name: str, faults: Sequence[str]) -> Mapping[str, Value]:
        tries, lost = (sum(counter[fault] for fault in faults) for counter in (self.tries, self.lost))
        seconds = round(sum(self.seconds.get(fault, 0.0) for fault in faults))
        return {"fault": name, "tries": tries, "recovered": tries - lost, "lost": lost, "seconds": seconds}

    def write(self, table: Table, page: Path) -> None:
        """Put the table between the marks of a page."""
        names, *rows = table.cells()
        lines = [f"{table.title}.", "", f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        begin, end = MARKS
        text = page.read_text(encoding="utf-8")
        made = f"{begin}\n\n" + "\n".join(lines) + f"\n\n{end}"
        write_text(page, re.sub(f"{begin}.*{end}", lambda _: made, text, flags=re.DOTALL))
