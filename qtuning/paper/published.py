"""What the paper (arXiv 2509.23873) prints: the scores of its tables 1 and 2, and how they were measured.

`read_published` is the only reader of `assets/paper/reference_scores.csv`. Scores stay decimal, as printed, so that
the arithmetic on them is exact.
"""

import csv
import re
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from qtuning.statistics.summary import AVERAGE
from qtuning.store.lines import Line
from qtuning.tables.labels import method_label

SCORES = Path(str(files("qtuning"))) / "assets" / "paper" / "reference_scores.csv"
PAPER = Path(str(files("qtuning"))) / "assets" / "paper" / "v2"
"""scores.csv, efficiency.csv (table 6) and figure7.csv, as the paper's second version prints them."""

ROUNDING = Decimal("0.005")
"""A printed 36.47 stands for every value from 36.465 to 36.475."""

MODEL_LABEL = {
    "llama2-7b": "LLaMA2-7B",
    "llama3-8b": "LLaMA3-8B",
    "mistral-7b": "Mistral-7B",
    "smollm2-1.7b": "SmolLM2-1.7B",
}
"""The models of the paper, as it writes them."""

TRAIN_SAMPLES = {"wizardlm": 70_000, "mathinstruct": 262_039}
"""Rows of the train sets, as their pages on the hub give them."""

EPOCHS = 3
"""docs/method.md, Hyper-parameters."""

NOT_PUBLISHED = (
    "LoRA rank, alpha and dropout, learning-rate schedule, warm-up, cutoff length, prompts, shots, generation lengths, "
    "number of seeds"
)
"""What the paper does not say, so that ours can only be a choice (docs/method.md, Hyper-parameters)."""

Range = tuple[Decimal | float, Decimal | float]
"""The lowest and the highest value that a figure may have."""

Place = tuple[Any, ...]
"""What identifies a method among the rows of one model: (`full`,), (`zero-shot`,) or (share of samples, share of
tokens, sample pruner, token pruner)."""


@dataclass(frozen=True)
class PaperRow:
    """One row of a table for one model: a method at a budget. Ratios in per cent."""

    table: int
    train_set: str
    model: str
    setting: Literal["pruned", "full", "zero_shot"]
    sample_ratio: Decimal
    token_ratio: Decimal
    sample_pruner: str
    token_pruner: str

    @property
    def q_tuning(self) -> bool:
        """Whether this is the method that the paper proposes."""
        return self.sample_pruner == "q-tuning"

    @property
    def line(self) -> Line:
        """The line that our runs of this method would have, at default options."""
        method = "q-tuning" if self.q_tuning else "" if self.setting == "pruned" else self.setting.replace("_", "-")
        samples, tokens = (round(float(ratio) / 100, 12) for ratio in (self.sample_ratio, self.token_ratio))
        return Line(self.train_set, method, self.sample_pruner, self.token_pruner, samples, tokens, "", "")

    @property
    def place(self) -> Place:
        """See `Place`."""
        return place_of(self.line)

    @property
    def budget(self) -> str:
        """`12.5x50`: per cent of the samples and of their tokens."""
        return f"{float(self.sample_ratio):g}x{float(self.token_ratio):g}"

    @property
    def method(self) -> str:
        """`Q-Tuning`, `longest + PPL`, `Full data`."""
        return method_label(self.line)

    def __str__(self) -> str:
        budget = f", {self.budget}" if self.setting == "pruned" else ""
        return f"table {self.table}, {MODEL_LABEL[self.model]}{budget}, {self.method}"


@dataclass(frozen=True)
class Published:
    """All printed scores, in per cent: row -> benchmark (`avg` is one) -> score, in the order of the file."""

    scores: dict[PaperRow, dict[str, Decimal]]

    def rows(self, table: int, model: str | None = None) -> list[PaperRow]:
        """The rows of a table, of one model or of all."""
        return [row for row in self.scores if row.table == table and model in (None, row.model)]

    def row(self, table: int, model: str, *place: float | str) -> PaperRow:
        """One row, by its `Place`. KeyError if the paper does not have it."""
        return {row.place: row for row in self.rows(table, model)}[place]

    def benchmarks(self, table: int) -> list[str]:
        """The benchmarks that the averages of a table are taken over."""
        found = dict.fromkeys(benchmark for row in self.rows(table) for benchmark in self.scores[row])
        return [benchmark for benchmark in found if benchmark != AVERAGE]

    def baselines(self, row: PaperRow) -> list[PaperRow]:
        """What Q-Tuning competes with at the budget of a row."""
        rows = self.rows(row.table, row.model)
        return [other for other in rows if other.place[:2] == row.place[:2] and not other.q_tuning]

    def values(self, row: PaperRow, benchmark: str) -> tuple[float, ...]:
        """The one score that is printed."""
        return (float(self.scores[row][benchmark]),)

    def range_of(self, row: PaperRow, benchmark: str, rival: PaperRow | None = None, relative: bool = False) -> Range:
        """What the rounding leaves open of a score, or of its change from that of `rival`.

        The change is in points; relative: in per cent of the rival's score.
        """
        score = self.scores[row][benchmark]
        if rival is None:
            return score - ROUNDING, score + ROUNDING
        other = self.scores[rival][benchmark]
        low, high = score - other - 2 * ROUNDING, score - other + 2 * ROUNDING
        return (100 * low / (other + ROUNDING), 100 * high / (other - ROUNDING)) if relative else (low, high)

    def exact_average(self, row: PaperRow) -> Decimal:
        """The mean of the printed scores of a row's benchmarks."""
        parts = [score for benchmark, score in self.scores[row].items() if benchmark != AVERAGE]
        return sum(parts, Decimal(0)) / len(parts)

    def wrong_averages(self) -> list[PaperRow]:
        """Rows whose printed average is not the mean of their benchmarks.

        The mean of scores that are each rounded is off by at most ROUNDING, the printed average by another ROUNDING.
        """
        return [
            row for row, scores in self.scores.items() if abs(scores[AVERAGE] - self.exact_average(row)) > 2 * ROUNDING
        ]


def read_published(path: Path = SCORES) -> Published:
    """Read published scores: a line per row and benchmark. ValueError for a row that has two scores on one."""
    scores: dict[PaperRow, dict[str, Decimal]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            benchmark, score = line.pop("benchmark"), Decimal(line.pop("score"))
            ratios = {name: Decimal(line.pop(name)) for name in ("sample_ratio", "token_ratio")}
            row = PaperRow(table=int(line.pop("table")), **ratios, **line)  # type: ignore[arg-type]
            if scores.setdefault(row, {}).setdefault(benchmark, score) is not score:
                raise ValueError(f"{path}: {row}: two scores on {benchmark}")
    return Published(scores)


@dataclass(frozen=True)
class Efficiency:
    """A row of table 6: ratios in per cent, times in minutes, peak memory in per cent of the GPU's."""

    setting: Literal["pruned", "full"]
    model: str
    sample_ratio: Decimal
    token_ratio: Decimal
    sample_selection: Decimal
    token_selection: Decimal
    total: Decimal
    peak_memory: Decimal

    @property
    def selection(self) -> Decimal:
        """Minutes that selecting samples and tokens took."""
        return self.sample_selection + self.token_selection

    @property
    def budget(self) -> str:
        """`12.5x50`: per cent of the samples and of their tokens."""
        return f"{float(self.sample_ratio):g}x{float(self.token_ratio):g}"


def read_efficiency(path: Path = PAPER / "efficiency.csv") -> list[Efficiency]:
    """The rows of table 6 (LLaMA2-7B, WizardLM, 3 epochs, 8 x A100), in the paper's order; the full data comes last."""
    with open(path, encoding="utf-8", newline="") as file:
        return [
            Efficiency(
                line["setting"],  # type: ignore[arg-type]
                line["model"],
                *(Decimal(line[name]) for name in ("sample_ratio", "token_ratio")),
                *(Decimal(line[f"{name}_minutes"]) for name in ("sample_selection", "token_selection", "total")),
                Decimal(line["peak_memory_percent"]),
            )
            for line in csv.DictReader(file)
        ]


def read_figure7(path: Path = PAPER / "figure7.csv") -> dict[str, dict[str, Decimal]]:
    """Figure 7: category of tokens -> `pruned` and `kept` -> share of the pruned (kept) tokens of Q2, in per cent.

    The paper prints two runs of numbers without a legend: which is which is inferred (docs/audit.md).
    """
    shares: dict[str, dict[str, Decimal]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            shares.setdefault(line["category"], {})[line["part"]] = Decimal(line["share_percent"])
    return shares


def table_number(experiment: str) -> int | None:
    """1 or 2 for an edition of the paper's table (`table1`, `table1-mini`), else None."""
    match = re.fullmatch(r"table([12])(-.+)?", experiment)
    return int(match[1]) if match else None


def place_of(line: Line) -> Place:
    """The place among the paper's rows that a row of ours has (`Place`)."""
    if line.reference:
        return (line.method,)
    return (line.sample_ratio, line.token_ratio, line.sample_pruner, line.token_pruner)


def possible(score: float, items: int) -> bool:
    """Whether a score in per cent with two decimals can be the share of right answers among so many items.

    A share k / items must round to the score for some whole k, up or down; every score does with over 10,000 items.
    """
    nearest = round(score * items / 100)
    return any(abs(100 * count / items - score) <= 0.005 + 1e-9 for count in (nearest - 1, nearest, nearest + 1))
