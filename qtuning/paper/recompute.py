"""The quantities that claims are about, recomputed from the paper's scores and from ours, each with its range.

`Published` and `OurScores` answer the same questions, so that a claim is put to both in the same way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from qtuning.errors import UserError
from qtuning.paper.beside import Number, compare_with_paper
from qtuning.paper.published import MODEL_LABEL, PaperRow, Published, Range, table_number
from qtuning.statistics.compare import Facet, facets, interval
from qtuning.statistics.summary import AVERAGE, Summary, summarise
from qtuning.store.store import Store
from qtuning.tables.labels import benchmark_label


@dataclass(frozen=True)
class Quantity:
    """What a claim is about: Q-Tuning's score in a row, or its change from a rival.

    rival: training on the full data, or the best baseline at the same budget. relative: in per cent of the rival.
    """

    row: PaperRow
    benchmark: str = AVERAGE
    rival: Literal["full", "best"] | None = None
    relative: bool = False


@dataclass(frozen=True)
class Recomputed:
    """A quantity in words, its value, and its range; a str says why there is no range."""

    text: str
    value: float | None
    range: Range | str


class OurScores:
    """Our scores of the paper's models; the range of a quantity is its 95% interval over seeds and items.

    numbers: the published numbers of these models beside ours. facets: our answers, by table and model.
    """

    def __init__(self, published: Published, numbers: Iterable[Number], facets: dict[tuple[int, str], Facet]) -> None:
        self._published = published
        self._numbers = {(number.row, number.benchmark): number for number in numbers}
        self._facets = facets

    def score(self, row: PaperRow, benchmark: str) -> float | str:
        """Our mean over the seeds, per cent; or why there is none that can be held against the paper's."""
        number = self._numbers.get((row, benchmark))
        if number is None:
            return f"no runs of {MODEL_LABEL[row.model]} for table {row.table}"
        if number.ours is None or number.reason:
            return f"{row}, {benchmark_label(benchmark)}: {number.reason}"
        return number.ours

    def same_scores(self, row: PaperRow, other: PaperRow) -> bool | None:
        """Whether two rows have the same score on every benchmark at every seed; None where one is missing."""
        benchmarks = self._published.benchmarks(row.table)
        if any(isinstance(self.score(each, name), str) for each in (row, other) for name in benchmarks):
            return None
        return all(self._numbers[row, name].values == self._numbers[other, name].values for name in benchmarks)

    def range_of(
        self, row: PaperRow, benchmark: str, rival: PaperRow | None = None, relative: bool = False
    ) -> Range | str:
        """The interval that `qtuning.statistics` gives for a score or a paired difference; or why there is none."""
        number = self._numbers[row, benchmark]
        if len(number.values) < 2:
            return "one seed"
        facet = self._facets.get((row.table, row.model))
        line, other = number.line, self._numbers[rival, benchmark].line if rival else None
        if facet is None or line is None:
            return "the store has no answers item by item"
        return interval(facet, line, benchmark, other, relative)


Scores = Published | OurScores


def read_ours(store: Store, published: Published) -> OurScores | None:
    """The scores of a store that stand beside the paper's; None if it has none of the paper's models.

    They are of editions of the paper's tables (`table1`, `table2-...`): for each table and model of the edition with
    the most scores that are comparable with the paper's. Raises UserError where `store` cannot be read.
    """
    chosen: dict[tuple[int, str], tuple[Summary, list[Number]]] = {}
    for experiment in store.scores["experiment"].unique(maintain_order=True):
        table = table_number(experiment)
        if table is None:
            continue
        summary = summarise(store.experiment(experiment))
        numbers = compare_with_paper(summary, published, table)
        for model in dict.fromkeys(number.row.model for number in numbers if number.has_model):
            mine = [number for number in numbers if number.row.model == model]
            others = chosen[table, model][1] if (table, model) in chosen else None
            if others is None or _count_comparable(mine) > _count_comparable(others):
                chosen[table, model] = summary, mine
    found: dict[tuple[int, str], Facet] = {}
    for (table, model), (summary, numbers) in chosen.items():
        if _count_comparable(numbers):
            try:
                of_experiment = {(facet.model, facet.train_set): facet for facet in facets(summary, store.items)}
            except UserError:
                continue  # a store without answers item by item still has scores, though no intervals
            found[table, model] = of_experiment[model, numbers[0].row.train_set]
    everything = [number for _, numbers in chosen.values() for number in numbers]
    return OurScores(published, everything, found) if everything else None


def _count_comparable(numbers: Sequence[Number]) -> int:
    return sum(number.status in ("matched", "off") for number in numbers)


def recompute(quantity: Quantity, scores: Scores, published: Published) -> Recomputed:
    """A quantity by `scores`, the published ones or ours. Its text shows the numbers and the operation."""
    row = quantity.row
    rivals: list[PaperRow] = []
    if quantity.rival is not None:
        full = [published.row(row.table, row.model, "full")]
        rivals = full if quantity.rival == "full" else published.baselines(row)
    found: dict[PaperRow, float] = {}
    for each in (row, *rivals):
        score = scores.score(each, quantity.benchmark)
        # without one baseline it is not known which is the best
        if isinstance(score, str):
            return Recomputed(score, None, score)
        found[each] = score
    value, rival = found[row], None
    subject = f"{MODEL_LABEL[row.model]} {row.budget}"
    text = f"{subject}: {value:.2f}"
    if rivals:
        rival = max(rivals, key=lambda each: found[each])
        other = found[rival]
        label = rival.method if quantity.rival == "full" else f"{rival.method}, best of {len(rivals)} baselines"
        value -= other
        if quantity.relative:
            value *= 100 / other if other else float("inf")
            text = f"{subject}: ({found[row]:.2f} - {other:.2f}) / {other:.2f} ({label}) = {value:+.2f}%"
        else:
            text += f" - {other:.2f} ({label}) = {value:+.2f}"
    spread = scores.range_of(row, quantity.benchmark, rival, quantity.relative)
    if isinstance(scores, OurScores):
        told = f"no interval: {spread}" if isinstance(spread, str) else "95% interval {:.2f} to {:.2f}".format(*spread)
        text += f", {told}"
    return Recomputed(text, value, spread)
