"""Scores and their differences from a rival, which claims are about, by the paper's numbers and by ours.

`Published` and `OurScores` answer the same questions, so that a claim is put to both in the same way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, nan
from statistics import fmean
from typing import Literal

from qtuning.errors import UserError
from qtuning.paper.beside import Number, compare_with_paper
from qtuning.paper.published import MODEL_LABEL, PaperRow, Published, Range, table_number
from qtuning.statistics.answers import AnswerSet, answer_sets
from qtuning.statistics.compare import interval
from qtuning.statistics.summary import AVERAGE, Summary, summarise
from qtuning.store.store import Store
from qtuning.tables.labels import benchmark_label

Rival = Literal["full", "zero-shot", "random", "best", "weakest"]
"""Training on the full data, the model without training; random pruning, the best and the weakest baseline at the
same budget."""


@dataclass(frozen=True)
class Recomputed:
    """A figure in words, its value, and its range; a str says why there is no range, and the value may be nan then.

    sign: 1, 0 or -1 of the value as printed, or where our whole interval is; None where it cannot be told. rival: what
    a change is from; None for a score.
    """

    text: str
    value: float
    range: Range | str
    sign: int | None = None
    rival: PaperRow | None = None


@dataclass(frozen=True)
class OurScores:
    """Our scores of the paper's models; the range of a figure is its 95% interval over seeds and items.

    numbers: the published numbers of these models beside ours. answers: ours, by table and model.
    """

    numbers: dict[tuple[PaperRow, str], Number]
    answers: dict[tuple[int, str], AnswerSet]

    def values(self, row: PaperRow, benchmark: str) -> tuple[float, ...] | str:
        """Our score at each seed, per cent; or why there is none that can be held against the paper's."""
        number = self.numbers.get((row, benchmark))
        if number is None:
            return f"no runs of {MODEL_LABEL[row.model]} for table {row.table}"
        return f"{row}, {benchmark_label(benchmark)}: {number.reason}" if number.reason else number.values

    def range_of(
        self, row: PaperRow, benchmark: str, rival: PaperRow | None = None, relative: bool = False
    ) -> Range | str:
        """The interval that `qtuning.statistics` gives for a score or a paired difference; or why there is none."""
        number = self.numbers[row, benchmark]
        if len(number.values) < 2:
            return "one seed"
        answers = self.answers.get((row.table, row.model))
        if answers is None or number.line is None:
            return "the store has no answers item by item"
        if rival is not None and (rival.table, rival.model) != (row.table, row.model):
            return f"the rows are of tables {row.table} and {rival.table}, which are paired by no seed"
        other = self.numbers[rival, benchmark].line if rival else None
        return interval(answers, number.line, benchmark, other, relative)


Scores = Published | OurScores


def read_ours(store: Store, published: Published) -> OurScores | None:
    """The scores of a store that stand beside the paper's; None if it has none of the paper's models.

    They are of editions of the paper's tables (`table1`, `table12-...`): for each table and model of the edition with
    the most scores that are comparable with the paper's. Raises UserError where `store` cannot be read.
    """
    chosen: dict[tuple[int, str], tuple[int, Summary, list[Number]]] = {}
    for experiment in store.scores["experiment"].unique(maintain_order=True):
        if (table := table_number(experiment)) is None:
            continue
        summary = summarise(store.experiment(experiment))
        numbers = compare_with_paper(summary, published, table)
        for model in summary.models:
            mine = [number for number in numbers if number.row.model == model]
            comparable = sum(number.status in ("matched", "off") for number in mine)
            if mine and comparable > chosen.get((table, model), (-1,))[0]:
                chosen[table, model] = comparable, summary, mine
    found: dict[tuple[int, str], AnswerSet] = {}
    for (table, model), (comparable, summary, numbers) in chosen.items():
        if comparable:
            try:
                of_experiment = {(each.model, each.train_set): each for each in answer_sets(summary, store.answers)}
            except UserError:
                continue  # a store without answers item by item still has scores, though no intervals
            found[table, model] = of_experiment[model, numbers[0].row.train_set]
    ours = {(number.row, number.benchmark): number for _, _, numbers in chosen.values() for number in numbers}
    return OurScores(ours, found) if ours else None


def rows_against(published: Published, row: PaperRow, rival: Rival) -> list[PaperRow]:
    """The rows that a row is compared with; of several, the best or the weakest counts."""
    if rival in ("full", "zero-shot"):
        return [published.row(row.table, row.model, rival)]
    if rival == "random":
        return [published.row(row.table, row.model, *row.place[:2], "random", "random")]
    return published.baselines(row)


def recompute(
    scores: Scores,
    published: Published,
    row: PaperRow,
    benchmark: str = AVERAGE,
    rival: Rival | Sequence[PaperRow] | None = None,
    relative: bool = False,
) -> Recomputed:
    """The score of a row by `scores`, the published ones or ours, or its change from a rival, in words and numbers.

    rival: of several rows the best counts, but for `weakest`. relative: in per cent of the rival.
    """
    rivals = rows_against(published, row, rival) if isinstance(rival, str) else list(rival or ())
    found: dict[PaperRow, float] = {}
    for each in (row, *rivals):
        values = scores.values(each, benchmark)
        # without one baseline it is not known which is the best
        if isinstance(values, str):
            return Recomputed(values, nan, values)
        found[each] = fmean(values)
    pick = min if rival == "weakest" else max
    value, other = found[row], pick(rivals, key=lambda each: found[each], default=None)
    text = f"{MODEL_LABEL[row.model]} {row.budget}: "
    if benchmark != AVERAGE:
        text = f"{benchmark_label(benchmark)}, {text}"
    if other is None:
        text += f"{value:.2f}"
    else:
        change = value - found[other]
        which = f", {'weakest' if pick is min else 'best'} of {len(rivals)}" if len(rivals) > 1 else ""
        text += f"{value:.2f} - {found[other]:.2f} ({other.method}{which}) = {change:+.2f}"
        if relative:
            change *= 100 / found[other] if found[other] else inf
            text += f", {change:+.2f}% of {found[other]:.2f}"
        value = change
    spread = scores.range_of(row, benchmark, other, relative)
    if isinstance(scores, Published):
        return Recomputed(text, value, spread, (value > 0) - (value < 0), other)
    if isinstance(spread, str):
        return Recomputed(f"{text}, no interval: {spread}", value, spread, None, other)
    low, high = spread
    text += f", 95% interval {low:.2f} to {high:.2f}"
    return Recomputed(text, value, spread, 1 if low > 0 else -1 if high < 0 else None, other)


def largest(found: Iterable[Recomputed]) -> Recomputed:
    """The one with the largest value; one that is missing would have to be known."""
    figures = list(found)
    return next((each for each in figures if each.value != each.value), None) or max(
        figures, key=lambda each: each.value
    )
