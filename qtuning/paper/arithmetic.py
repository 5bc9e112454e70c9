"""What the printed numbers say against each other: differences, averages, copied rows, possible scores, table 6.

No function knows which numbers are wrong; docs/audit.md explains each rule.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations
from typing import Literal

from qtuning.paper.published import ROUNDING, PaperRow, Published, possible
from qtuning.statistics.summary import AVERAGE
from qtuning.tables.labels import benchmark_label

ITEMS = {"arc_easy": 567, "arc_challenge": 295, "gsm8k": 1319, "math": 5000}
"""The numbers of questions that all scores of these benchmarks are shares of: ARC's validation splits (those with four
choices), the test splits of GSM8K and MATH. SQuAD's F1 is graded, and TriviaQA has too many questions to tell."""

Mistake = Literal["exact", "rounding", "sign", "size"]


@dataclass(frozen=True)
class Delta:
    """A printed difference from random pruning (an arrow of the tables), and what the printed scores give."""

    row: PaperRow
    benchmark: str
    score: Decimal
    base: Decimal
    printed: Decimal

    @property
    def exact(self) -> Decimal:
        """The difference of the two printed scores."""
        return self.score - self.base

    @property
    def mistake(self) -> Mistake:
        """rounding: 0.01 off, which unrounded scores would explain; sign: right but for it; size: wrong otherwise."""
        if self.printed == self.exact:
            return "exact"
        if self.printed == -self.exact:
            return "sign"
        return "rounding" if abs(self.printed - self.exact) <= 2 * ROUNDING else "size"


def check_deltas(published: Published) -> list[Delta]:
    """Every printed difference.

    Table 13's arrows are relative to random + random at 50% of the tokens (also those of rows at 100%), table 14's to
    random + random at 12.5% of the samples, all others to random + random at the row's own budget.
    """
    bases = {
        (row.table, row.model, row.sample_ratio, row.token_ratio): row
        for row in published.scores
        if (row.sample_pruner, row.token_pruner) == ("random", "random")
    }
    found = []
    for row, printed in published.deltas.items():
        samples = Decimal("12.5") if row.table == 14 else row.sample_ratio
        tokens = Decimal(50) if row.table == 13 else row.token_ratio
        base = published.scores[bases[row.table, row.model, samples, tokens]]
        found += [Delta(row, name, published.scores[row][name], base[name], delta) for name, delta in printed.items()]
    return found


@dataclass(frozen=True)
class Average:
    """A printed average and the mean of the row's printed scores."""

    row: PaperRow
    printed: Decimal
    exact: Decimal
    note: str = ""

    @property
    def mistake(self) -> Literal["exact", "rounding", "size"]:
        """rounding: off by what the rounding of the scores explains (each by 0.005, and the average by as much)."""
        off = abs(self.printed - self.exact)
        return "exact" if off <= ROUNDING else "rounding" if off <= 2 * ROUNDING else "size"


def check_averages(published: Published) -> list[Average]:
    """Every printed average; a wrong one with a note where other printed numbers explain it."""
    plain = [
        Average(row, scores[AVERAGE], _mean(score for name, score in scores.items() if name != AVERAGE))
        for row, scores in published.scores.items()
        if AVERAGE in scores
    ]
    wrong = [each for each in plain if each.mistake == "size"]
    notes = {each.row: _lent_cells(published, each) for each in wrong}
    for one, other in combinations(wrong, 2):
        for name in _exchanged(published, one, other):
            notes[one.row] = (
                f"{benchmark_label(name)} is exchanged with {other.row.budget}: both averages are then right"
            )
            notes[other.row] = (
                f"{benchmark_label(name)} is exchanged with {one.row.budget}: both averages are then right"
            )
    return [Average(each.row, each.printed, each.exact, notes.get(each.row, "")) for each in plain]


def _mean(scores: Iterable[Decimal]) -> Decimal:
    found = list(scores)
    return sum(found, Decimal(0)) / len(found)


def _exchanged(published: Published, one: Average, other: Average) -> list[str]:
    """The benchmarks whose two scores, exchanged, would make both averages right."""
    if (one.row.table, one.row.model, one.row.method) != (other.row.table, other.row.model, other.row.method):
        return []
    mine, theirs = published.scores[one.row], published.scores[other.row]
    count, found = len(mine) - 1, []
    for name in published.benchmarks(one.row.table):
        shift = (theirs[name] - mine[name]) / count
        if max(abs(one.exact + shift - one.printed), abs(other.exact - shift - other.printed)) <= 2 * ROUNDING:
            found.append(name)
    return found


def _lent_cells(published: Published, wrong: Average) -> str:
    """The scores of a row that the same sample pruner has at another share of tokens, too, and what would be right."""
    mine, row = published.scores[wrong.row], wrong.row
    notes = []
    for other in published.rows(row.table, row.model):
        if other.budget != row.budget and other.sample_pruner == row.sample_pruner:
            for name in published.benchmarks(row.table):
                if published.scores[other][name] == mine[name] and other.sample_ratio == row.sample_ratio:
                    needed = mine[name] + (wrong.printed - wrong.exact) * (len(mine) - 1)
                    notes.append(
                        f"{benchmark_label(name)} {mine[name]} is also that of {other.budget}, {other.method}; "
                        f"the average needs {needed:.2f}"
                    )
    return "; ".join(notes)


def copied_rows(published: Published) -> list[list[PaperRow]]:
    """Rows of one train set and model that have the same scores on all benchmarks under other methods or budgets.

    Rows that a table repeats from another are no copies.
    """
    groups: dict[tuple[object, ...], list[PaperRow]] = {}
    for row, scores in published.scores.items():
        if row.setting == "pruned" and (row.q_tuning or not row.variant):
            groups.setdefault((row.train_set, row.model, tuple(sorted(scores.items()))), []).append(row)
    return [rows for rows in groups.values() if len({(row.budget, row.line.method) for row in rows}) > 1]


def token_pairs(published: Published, token_pruner: str) -> dict[str, tuple[int, int]]:
    """Train set -> (pairs with the same scores, all pairs) of rows that differ only in 50 or 70% of the tokens."""
    found: dict[str, tuple[int, int]] = {}
    rows = {
        (row.train_set, row.model, row.sample_ratio, row.sample_pruner, row.token_ratio): row
        for row in published.scores
        if row.token_pruner == token_pruner and not row.variant
    }
    for (*place, tokens), row in rows.items():
        other = rows.get((*place, Decimal(70)))  # type: ignore[arg-type]
        if tokens == 50 and other is not None:
            same, total = found.get(row.train_set, (0, 0))
            found[row.train_set] = same + (published.scores[row] == published.scores[other]), total + 1
    return found


def repeated_cells(published: Published) -> list[tuple[str, list[tuple[PaperRow, Decimal]]]]:
    """(benchmark, [(row, score)]) of each cell that several tables print: one train set, model, method and budget."""
    cells: dict[tuple[object, ...], list[tuple[PaperRow, Decimal]]] = {}
    for row, scores in published.scores.items():
        if row.q_tuning or not row.variant:
            for name, score in scores.items():
                cells.setdefault((row.train_set, row.model, row.place, name), []).append((row, score))
    return [(str(key[-1]), found) for key, found in cells.items() if len(found) > 1]


def copies_in_other_tables(published: Published, row: PaperRow) -> list[str]:
    """Why a row is not that of its budget: the rows it copies, and what another table has in its place."""
    texts = []
    for group in copied_rows(published):
        if row in group:
            budgets = [each for each in group if each.budget != row.budget]
            tables = ", ".join(sorted({str(each.table) for each in budgets}, key=int))
            texts.append(f"its {row.budget} row is the {budgets[0].budget} row of tables {tables}")
    for name, cells in repeated_cells(published):
        printed = dict(cells)
        if row in printed and name == AVERAGE and len(set(printed.values())) > 1:
            others = (f"table {other.table} has {score}" for other, score in cells if score != printed[row])
            texts.append(", ".join(others))
    return texts


@dataclass(frozen=True)
class ItemCount:
    """How many different cells of a benchmark are possible scores of one run over so many items."""

    benchmark: str
    items: int
    cells: int
    possible: int


def item_counts(published: Published, random_only: bool = False) -> list[ItemCount]:
    """Of each benchmark in ITEMS, cells that several tables repeat counted once; random_only: random + random alone."""
    found = []
    for name, items in ITEMS.items():
        cells = {
            (row.train_set, row.model, row.place, row.changed.options, scores[name])
            for row, scores in published.scores.items()
            if name in scores and (not random_only or row.sample_pruner == row.token_pruner == "random")
        }
        good = sum(possible(float(cell[-1]), items) for cell in cells)
        found.append(ItemCount(name, items, len(cells), good))
    return found


def chance_of_means(items: int, runs: int) -> float:
    """How often a mean of so many runs, as printed, is a score that one run can have: counted over all sums."""
    means = [round(100 * total / (items * runs), 2) for total in range(items * runs + 1)]
    return sum(possible(mean, items) for mean in means) / len(means)


@dataclass(frozen=True)
class SelectionShare:
    """The time of selecting in table 6, as a share of the total time."""

    budget: str
    samples: Decimal
    tokens: Decimal

    @property
    def both(self) -> Decimal:
        """Of samples and of tokens."""
        return self.samples + self.tokens


def selection_shares(published: Published) -> list[SelectionShare]:
    """Of each pruned row of table 6."""
    return [
        SelectionShare(row.budget, row.sample_selection / row.total, row.token_selection / row.total)
        for row in published.efficiency
        if row.setting == "pruned"
    ]


def derived_share(published: Published, part: Literal["sample_selection", "token_selection"]) -> Decimal | None:
    """The share with three decimals that gives every printed time of selecting when multiplied by the total time.

    Times that were measured have no such share.
    """
    rows = [row for row in published.efficiency if row.setting == "pruned"]
    for share in (Decimal(count) / 1000 for count in range(1, 1000)):
        if all(abs(share * row.total - getattr(row, part)) <= ROUNDING for row in rows):
            return share
    return None
