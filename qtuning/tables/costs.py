"""What lines cost and what they selected: measured over the seeds, and the second and third table of an experiment."""

from collections.abc import Collection
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from qtuning.statistics.summary import Summary
from qtuning.store.lines import FULL, Cells, Line, Seeds
from qtuning.tables.labels import budget_label, method_label, number
from qtuning.tables.page import Block, Column, Field, Table

COLUMNS = ("Updates", "Samples kept", "Tokens kept", "Tokens forwarded", "FLOPs", "Seconds", "CPU seconds")
"""Headers of the measured columns."""

INCLUDED = (
    "Means over the seeds. Tokens kept are response tokens in the loss; tokens forwarded are those of the scoring and "
    "of the training passes; FLOPs and seconds include scoring. FLOPs also include what a method trains beforehand "
    "(reference models; for LESS, warm-up and influence), in full though cells share it; seconds do not. CPU seconds: "
    "processor time, which other work on the machine hardly changes."
)
OF_FULL = "Samples and tokens kept and FLOPs are shares of training on the full data with the same seed."
WITHOUT_FULL = (
    "{Which} no training on the full data to compare with: samples and tokens kept are shares of what there was to "
    "choose from, and FLOPs are absolute."
)
DASH = "–: a cell{other} is not trained to its end."

SELECTED = ("Samples kept/asked", "Tokens kept/asked", "Converged", "Q1", "Q2", "Q3", "Q4", "Thresholds", "Supplement")
"""Headers of what was selected."""

SELECTED_EXPLANATION = (
    "Samples and response tokens kept, as shares of what the budget asks of the train set. Of Q-Tuning's triage: the "
    "share of the decisions whose threshold search converged; the shares of the samples in each quadrant (what lies "
    "between the tails is in none); the shares of the kept samples that the thresholds and that the supplement gave. "
    "–: the pruner knows no quadrants, or a cell is not trained to its end."
)


@dataclass(frozen=True)
class LineCost:
    """What one line cost with one model. None of its numbers covers fewer seeds than the line has.

    by_seed: its cells. full: those that trained on the full data in the same way; empty where there are none.
    """

    by_seed: Seeds
    full: Seeds

    def mean(self, *columns: str) -> float | None:
        """Mean over the seeds of the sum of the columns; None if any seed lacks one, or there is no seed."""
        return _mean([_sum(row, *columns) for row in self.by_seed.values()])

    def share_of_full(self, column: str) -> float | None:
        """Mean over the seeds of the quotient with the full-data cell of the same seed; None if any is missing."""
        rows = self.by_seed.items()
        return _mean([_quotient(_sum(row, column), _sum(self.full.get(seed), column)) for seed, row in rows])

    def share_of_available(self, column: str, available: str) -> float | None:
        """Mean over the seeds of what was kept (`column`) over what there was to choose from, in all epochs."""
        return _mean([_quotient(_sum(row, column), _sum(row, available)) for row in self.by_seed.values()])

    def total(self, column: str) -> float | None:
        """Sum over the seeds; None if any seed lacks it."""
        values = _known([_sum(row, column) for row in self.by_seed.values()])
        return sum(values) if values else None


def cost_of(line: Line, model: str, cells: Cells) -> LineCost:
    """The cost of a line, which knows no cell where it is not among `cells`."""
    full = {
        other.training: by_seed
        for (other, name), by_seed in cells.items()
        if (other.train_set, name, other.method) == (line.train_set, model, FULL)
    }
    return LineCost(cells.get((line, model), {}), full.get(line.training) or full.get("") or {})


def cost_tables(summary: Summary) -> list[Table]:
    """Both tables; not the first where no cell is trained, nor the second where none is pruned."""
    costs = [
        (line, model, cost_of(line, model, summary.cells))
        for line in summary.lines
        for model in summary.models
        if (line, model) in summary.cells
    ]
    pruned = [(line, model, cost) for line, model, cost in costs if not line.reference]
    compared = {bool(cost.full) for *_, cost in costs}
    other = " (or the full-data cell it is compared with)" if True in compared else ""
    spent = " ".join([INCLUDED, *explain_shares(compared, OF_FULL, WITHOUT_FULL), DASH.format(other=other)])
    several = len(summary.models) > 1
    words = ("Samples x Tokens", "Method", *(["Model"] if several else []))
    tables = []
    for name, title, columns, rows, fields, note in (
        ("costs", "What it cost", COLUMNS, costs, _spent, spent),
        ("selected", "What was selected", SELECTED, pruned, _selected, SELECTED_EXPLANATION),
    ):
        drawn = tuple(
            (budget_label(line), method_label(line), *([summary.models[model]] if several else []), *fields(cost))
            for line, model, cost in rows
        )
        headers = (*(Column(word, words=True) for word in words), *map(Column, columns))
        if drawn:
            tables.append(Table(name, title, headers, (Block("", drawn),), notes=(note,)))
    return tables


def explain_shares(compared: Collection[bool], shares: str, without: str) -> list[str]:
    """How to read shares of full training, and what stands in their place in rows without it.

    compared: whether there is training on the full data to compare with, of any line and of any not.
    """
    subject = "Some rows have" if True in compared else "This experiment has"
    return [text for known, text in ((True, shares), (False, without.format(Which=subject))) if known in compared]


def flops_text(value: float | None) -> str:
    """1.23e13; 0 where nothing was trained."""
    if not value:
        return "–" if value is None else "0"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _spent(cost: LineCost) -> tuple[Field, ...]:
    samples, tokens = (
        cost.share_of_full(kept) if cost.full else cost.share_of_available(kept, available)
        for kept, available in (("samples_kept", "samples_available"), ("tokens_kept", "tokens_available"))
    )
    flops = cost.share_of_full("flops_total") if cost.full else cost.mean("flops_total")
    return (
        number(cost.mean("updates"), ",.0f"),
        number(samples, ".1%"),
        number(tokens, ".1%"),
        number(cost.mean("tokens_scored", "tokens_forwarded"), ",.0f"),
        number(flops, ".1%") if cost.full else flops_text(flops),
        number(cost.mean("seconds_total"), ",.1f"),
        number(cost.mean("cpu_seconds"), ",.1f"),
    )


def _selected(cost: LineCost) -> tuple[Field, ...]:
    some, seeds = next(iter(cost.by_seed.values())), float(len(cost.by_seed))
    samples, tokens = cost.total("samples_available"), cost.total("tokens_available")
    inside, added = cost.total("from_thresholds"), cost.total("supplemented")
    chosen = None if inside is None or added is None else inside + added
    shares = (
        (cost.total("samples_kept"), samples and samples * some["sample_ratio"]),
        (cost.total("tokens_kept"), tokens and tokens * some["sample_ratio"] * some["token_ratio"]),
        (cost.total("converged"), seeds),
        *((cost.total(f"q{quadrant}_share"), seeds) for quadrant in (1, 2, 3, 4)),
        (inside, chosen),
        (added, chosen),
    )
    return tuple(number(_quotient(part, whole), ".1%") for part, whole in shares)


def _sum(row: dict[str, Any] | None, *columns: str) -> float | None:
    """Sum of the columns; None where one is not reported, and for a training that diverged, which ended early."""
    values = _known([row[column] for column in columns]) if row is not None and row["status"] != "diverged" else []
    return sum(values) if values else None


def _quotient(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _known(values: list[float | None]) -> list[float]:
    """The values; none of them where one is missing."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _mean(values: list[float | None]) -> float | None:
    known = _known(values)
    return fmean(known) if known else None
