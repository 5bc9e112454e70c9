"""Q-Tuning's scores and their changes from a rival, which claims are about, by the paper's numbers and by ours.

`Published` and `OurScores` answer the same questions, so that a claim is put to both in the same way.
"""

from dataclasses import dataclass
from math import inf, nan
from statistics import fmean
from typing import Literal

from qtuning.errors import UserError
from qtuning.paper.beside import Number, compare_with_paper
from qtuning.paper.published import MODEL_LABEL, PaperRow, Published, Range, table_number
from qtuning.statistics.compare import AnswerSet, answer_sets, interval
from qtuning.statistics.summary import AVERAGE, Summary, summarise
from qtuning.store.store import Store
from qtuning.tables.labels import benchmark_label


@dataclass(frozen=True)
class Recomputed:
    """A figure in words, its value, and its range; a str says why there is no range, and the value may be nan then."""

    text: str
    value: float
    range: Range | str


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
        other = self.numbers[rival, benchmark].line if rival else None
        return interval(answers, number.line, benchmark, other, relative)


Scores = Published | OurScores


def read_ours(store: Store, published: Published) -> OurScores | None:
    """The scores of a store that stand beside the paper's; None if it has none of the paper's models.

    They are of editions of the paper's tables (`table1`, `table2-...`): for each table and model of the edition with
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
                of_experiment = {(each.model, each.train_set): each for each in answer_sets(summary, store.items)}
            except UserError:
                continue  # a store without answers item by item still has scores, though no intervals
            found[table, model] = of_experiment[model, numbers[0].row.train_set]
    ours = {(number.row, number.benchmark): number for _, _, numbers in chosen.values() for number in numbers}
    return OurScores(ours, found) if ours else None


def recompute(
    scores: Scores,
    published: Published,
    row: PaperRow,
    benchmark: str = AVERAGE,
    rival: Literal["full", "best"] | None = None,
    relative: bool = False,
) -> Recomputed:
    """The score of a row by `scores`, the published ones or ours, or its change from a rival, in words and numbers.

    rival: training on the full data, or the best baseline at the same budget. relative: in per cent of the rival.
    """
    rivals: list[PaperRow] = []
    if rival is not None:
        full = [published.row(row.table, row.model, "full")]
        rivals = full if rival == "full" else published.baselines(row)
    found: dict[PaperRow, float] = {}
    for each in (row, *rivals):
        values = scores.values(each, benchmark)
        # without one baseline it is not known which is the best
        if isinstance(values, str):
            return Recomputed(values, nan, values)
        found[each] = fmean(values)
    value, best = found[row], max(rivals, key=lambda each: found[each], default=None)
    text = f"{MODEL_LABEL[row.model]} {row.budget}: "
    if best is None:
        text += f"{value:.2f}"
    else:
        other = found[best]
        label = best.method if rival == "full" else f"{best.method}, best of {len(rivals)} baselines"
        change = value - other
        if relative:
            change *= 100 / other if other else inf
            text += f"({value:.2f} - {other:.2f}) / {other:.2f} ({label}) = {change:+.2f}%"
        else:
            text += f"{value:.2f} - {other:.2f} ({label}) = {change:+.2f}"
        value = change
    spread = scores.range_of(row, benchmark, best, relative)
    if isinstance(scores, OurScores):
        told = f"no interval: {spread}" if isinstance(spread, str) else "95% interval {:.2f} to {:.2f}".format(*spread)
        text += f", {told}"
    return Recomputed(text, value, spread)
