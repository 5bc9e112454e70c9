"""Tables of measurements: on the screen, as Markdown and as JSON, with targets beside the figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from qtuning.files import write_json, write_text


@dataclass(frozen=True)
class Checked:
    """A figure with its target: at most `bound`, or `at_least` it."""

    value: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def asked(self) -> str:
        """The target, `<= 0.48`."""
        return f"{'>=' if self.at_least else '<='} {shown(self.bound)}"

    @property
    def verdict(self) -> str:
        """`met`, or by how much it is missed, also in per cent of the target."""
        if self.met:
            return "met"
        gap = abs(self.value - self.bound)
        return f"missed by {shown(gap)} ({100 * gap / abs(self.bound):.0f}%)"


Value = float | int | str | Checked | None


@dataclass(frozen=True)
class Table:
    """Rows of one section. The first column names the row; None is shown as `-`.

    seconds: every time of every variant, in the order of the passes; for the JSON file alone.
    """

    title: str
    rows: Sequence[Mapping[str, Value]]
    notes: Sequence[str] = ()
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def cells(self) -> Iterator[tuple[str, ...]]:
        """Columns' names, then the rows, as text."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        yield tuple(columns)
        for row in self.rows:
            yield tuple(text(row.get(column)) for column in columns)

    def checked(self) -> Iterator[tuple[str, Checked]]:
        """(what, figure) of everything that has a target."""
        for row in self.rows:
            (_, name), *figures = row.items()
            for column, value in figures:
                if isinstance(value, Checked):
                    yield f"{self.title}: {name}, {column}", value


def shown(value: float) -> str:
    """1,234 or 12.3 or 1.234 or 0.0123 or 1.2e-07."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 0.1:
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.3g}"
    return f"{value:.1e}"


def text(value: Value) -> str:
    """A cell."""
    if value is None:
        return "-"
    if isinstance(value, Checked):
        return f"{shown(value.value)} ({value.asked}: {value.verdict})"
    return value if isinstance(value, str) else shown(value)


def targets(tables: Sequence[Table]) -> Table:
    """Every target of the run, with what was measured."""
    return Table(
        "Targets",
        [
            {"what": what, "measured": figure.value, "target": figure.asked, "verdict": figure.verdict}
            for table in tables
            for what, figure in table.checked()
        ],
    )


def show(table: Table, console: Console) -> None:
    """Print a table."""
    names, *rows = table.cells()
    grid = Grid(title=table.title, title_justify="left")
    for index, name in enumerate(names):
        grid.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
    for note in table.notes:
        console.print(f"  {note}", highlight=False)


def write(folder: Path, name: str, about: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Write NAME.md and NAME.json below `folder`, each atomically. about: command, date, versions, machine."""
    everything = [targets(tables), *tables]
    lines = [f"# Benchmarks: {about['device']}", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    for table in everything:
        names, *rows = (tuple(cell.replace("|", "\\|") for cell in cells) for cells in table.cells())
        lines += ["", f"## {table.title}", "", f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    write_text(folder / f"{name}.md", "\n".join(lines) + "\n")
    write_json(folder / f"{name}.json", {"about": dict(about), "tables": [_plain(table) for table in everything]})


def _plain(table: Table) -> dict[str, Any]:
    rows = [{key: _value(value) for key, value in row.items()} for row in table.rows]
    return {"title": table.title, "rows": rows, "notes": list(table.notes), "seconds": dict(table.seconds)}


def _value(value: Value) -> Any:
    if isinstance(value, Checked):
        return {"value": value.value, "target": value.asked, "verdict": value.verdict}
    return value
