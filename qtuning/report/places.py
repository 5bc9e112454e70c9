"""Rows of `compare` -> the lines that they are of, what they are compared with, and what both cost."""

from functools import cached_property
from typing import Any

from qtuning.statistics.compare import rival_of
from qtuning.statistics.summary import Summary
from qtuning.store.lines import Line
from qtuning.tables.controls import LINE_KEY
from qtuning.tables.costs import LineCost, cost_of
from qtuning.tables.labels import method_label


def p_text(p: float) -> str:
    """`p = 0.0123`, or `p < 0.0001`."""
    return f"p = {p:.4f}" if p >= 0.0001 else "p < 0.0001"


class Places:
    """The lines of a summary by the columns that comparisons know them by."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self._lines = {
            tuple((line.columns() | {"model": model})[name] for name in LINE_KEY): line
            for line in summary.lines
            for model in summary.models
        }
        self._costs: dict[tuple[Line, str], LineCost] = {}

    @cached_property
    def subjects(self) -> list[tuple[str, str]]:
        """Model and train set of everything that was compared, in table order."""
        return [(model, train_set) for train_set in self.summary.train_sets for model in self.summary.models]

    def whose(self, model: str, train_set: str) -> str:
        """`Llama on MathInstruct: `; empty where there is one of each."""
        models, train_sets = self.summary.models, self.summary.train_sets
        names = [models[model]] if len(models) > 1 else []
        names += [train_sets[train_set]] if len(train_sets) > 1 else []
        return f"{' on '.join(names)}: " if names else ""

    def line(self, row: dict[str, Any]) -> Line:
        """The line of a row."""
        return self._lines[tuple(row[name] for name in LINE_KEY)]

    def rival(self, row: dict[str, Any]) -> Line | None:
        """What the line of a row is compared with."""
        return rival_of(self.line(row), self.summary.lines, row["against"])

    def rival_label(self, row: dict[str, Any]) -> str:
        """Its name; the method's where it is not there."""
        rival = self.rival(row)
        return row["against"] if rival is None else method_label(rival)

    def cost(self, line: Line, model: str) -> LineCost:
        """What a line cost."""
        if (line, model) not in self._costs:
            self._costs[line, model] = cost_of(line, model, self.summary.cells)
        return self._costs[line, model]

    def flops_ratio(self, row: dict[str, Any]) -> float | None:
        """FLOPs of the line over those of what it is compared with; None where one is not known or zero."""
        rival = self.rival(row)
        if rival is None:
            return None
        ours, theirs = (self.cost(line, row["model"]).mean("flops_total") for line in (self.line(row), rival))
        return ours / theirs if ours and theirs else None
