"""What the second version of the paper (arXiv 2509.23873v2) prints: its scores, its table 6, its figure 7.

`read_published` is the only reader of `assets/paper/v2/`. Numbers stay decimal, as printed, so that the arithmetic on
them is exact. docs/audit.md says how far the transcription can be trusted.
"""

import csv
import json
import re
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from qtuning.statistics.summary import AVERAGE
from qtuning.store.lines import Line
from qtuning.tables.labels import method_label, pruner_labels

PAPER = Path(str(files("qtuning"))) / "assets" / "paper" / "v2"
"""scores.csv, efficiency.csv (table 6) and figure7.csv."""

ROUNDING = Decimal("0.005")
"""A printed 36.47 stands for every value from 36.465 to 36.475."""

MODEL_LABEL = {
    "llama2-7b": "LLaMA2-7B",
    "llama3-8b": "LLaMA3-8B",
    "mistral-7b": "Mistral-7B",
    "smollm2-1.7b": "SmolLM2-1.7B",
    "qwen3-8b": "Qwen3-8B",
}
"""The models of the paper's tables, as it writes them."""

GRID_TABLES = (1, 2, 8, 9, 10, 11, 12)
"""The tables that have Q-Tuning beside the 16 combinations of a sample and a token pruner."""

Range = tuple[Decimal | float, Decimal | float]
"""The lowest and the highest value that a figure may have."""

Place = tuple[Any, ...]
"""What identifies a method among the rows of one model: (`full`,), (`zero-shot`,) or (share of samples, share of
tokens, sample pruner, token pruner)."""


@dataclass(frozen=True)
class Variant:
    """A row of the paper that is Q-Tuning with something changed.

    label: what changes, in words. options: what our row of it has, written as `Line.variant`. whole_tokens: whether
    no tokens are pruned, so that our row is `q-tuning+none` at 100% of the tokens. inferred: whether the paper's text
    leaves open which row it is.
    """

    label: str
    options: str = ""
    whole_tokens: bool = False
    inferred: bool = False


VARIANTS = {
    "": Variant(""),
    "ticks:3;sample:q1+q3;token:q2": Variant("samples lost in Q1 and Q3, tokens in Q2"),
    "ticks:4;sample:q1+q3;token:q2+q4": Variant("tokens lost in Q2 and Q4", "prune_in=Q2+Q4"),
    "ticks:2;inferred;sample:q3;token:q2": Variant("samples lost in Q3 only", "drop_in=Q3", inferred=True),
    "ticks:2;inferred;sample:q1+q3;token:none": Variant("no tokens lost", whole_tokens=True, inferred=True),
    "lambda:0.5": Variant("lambda=0.5"),
    "lambda:0": Variant("lambda=0", "lambda=0.0"),
    "reversed;lambda:0.5": Variant("reversed", "survivors=keep-high"),
}
"""The column `variant` of scores.csv; tables 4, 5 and 15 have some."""


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
    variant: str = ""

    @property
    def q_tuning(self) -> bool:
        """Whether this is the method that the paper proposes, with nothing changed."""
        named = (self.sample_pruner, self.token_pruner) == ("q-tuning", "q-tuning")
        return named and not self.changed.options and not self.changed.whole_tokens

    @property
    def changed(self) -> Variant:
        """What is changed of Q-Tuning."""
        return VARIANTS[self.variant]

    @property
    def line(self) -> Line:
        """The line that our runs of this method would have."""
        samples, tokens = (round(float(ratio) / 100, 12) for ratio in (self.sample_ratio, self.token_ratio))
        sample, token, method = self.sample_pruner, self.token_pruner, self.setting.replace("_", "-")
        if self.changed.whole_tokens:
            token, tokens = "none", 1.0
        if self.setting == "pruned":
            sample = "full" if sample == "none" else sample  # our name of what prunes no samples
            method = "q-tuning" if sample == token == "q-tuning" else f"{sample}+{token}"
        # table 5 has another token score in Stage 2: it prunes the tokens of Q2, as Q-Tuning does
        options = "within=Q2" if (sample, token) == ("q-tuning", "rho-1") else self.changed.options
        return Line(self.train_set, method, sample, token, samples, tokens, "", options)

    @property
    def place(self) -> Place:
        """See `Place`."""
        return place_of(self.line)

    @property
    def budget(self) -> str:
        """`12.5x50`: per cent of the samples and of their tokens."""
        return f"{float(self.sample_ratio):g}x{float(self.token_ratio):g}"

    @property
    def block(self) -> str:
        """Heading of the block of a table that the row stands in: its budget as the paper has it."""
        if self.setting != "pruned":
            return "Reference"
        return "Samples {:g}% x Tokens {:g}%".format(*map(float, (self.sample_ratio, self.token_ratio)))

    @property
    def labels(self) -> tuple[str, str]:
        """The two left-most cells of a row: sample pruner and token pruner, or Q-Tuning and what is changed of it."""
        if not self.variant:
            return pruner_labels(self.line)
        return "Q-Tuning", self.changed.label + (" (inferred)" if self.changed.inferred else "")

    @property
    def method(self) -> str:
        """`Q-Tuning`, `longest + PPL`, `Full data`, `Q-Tuning (lambda=0)`."""
        if not self.variant:
            return method_label(self.line)
        return f"Q-Tuning ({self.changed.label})"

    def __str__(self) -> str:
        budget = f", {self.budget}" if self.setting == "pruned" else ""
        return f"table {self.table}, {MODEL_LABEL[self.model]}{budget}, {self.method}"


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


@dataclass(frozen=True)
class Published:
    """All that is printed. Scores in per cent: row -> benchmark (`avg` is one) -> score, in the order of the file.

    deltas: the differences from random pruning that are printed beside scores, in points. efficiency: the rows of
    table 6. figure7: category of tokens -> `pruned`, `kept` -> share in per cent.
    """

    scores: dict[PaperRow, dict[str, Decimal]]
    deltas: dict[PaperRow, dict[str, Decimal]] = field(default_factory=dict)
    efficiency: tuple[Efficiency, ...] = ()
    figure7: dict[str, dict[str, Decimal]] = field(default_factory=dict)

    @cached_property
    def tables(self) -> dict[int, list[PaperRow]]:
        """The rows of each table."""
        found: dict[int, list[PaperRow]] = {}
        for row in self.scores:
            found.setdefault(row.table, []).append(row)
        return found

    @cached_property
    def _places(self) -> dict[tuple[Any, ...], PaperRow]:
        return {(row.table, row.model, row.place, row.changed.options): row for row in self.scores}

    def rows(self, table: int, model: str | None = None) -> list[PaperRow]:
        """The rows of a table, of one model or of all."""
        return [row for row in self.tables[table] if model in (None, row.model)]

    def row(self, table: int, model: str, *place: float | str) -> PaperRow:
        """One row, by its `Place`; of Q-Tuning the one with nothing changed. KeyError if the paper does not have it."""
        return self._places[table, model, place, ""]

    def q_tuning(self, table: int, model: str, samples: float, tokens: float) -> PaperRow:
        """Q-Tuning with nothing changed, at shares of the samples and of their tokens."""
        return self.row(table, model, samples, tokens, "q-tuning", "q-tuning")

    def benchmarks(self, table: int) -> list[str]:
        """The benchmarks that the averages of a table are taken over."""
        found = dict.fromkeys(benchmark for row in self.rows(table) for benchmark in self.scores[row])
        return [benchmark for benchmark in found if benchmark != AVERAGE]

    def baselines(self, row: PaperRow) -> list[PaperRow]:
        """What Q-Tuning competes with at the budget of a row."""
        rows = self.rows(row.table, row.model)
        return [other for other in rows if other.budget == row.budget and other.sample_pruner != "q-tuning"]

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


def read_published(folder: Path = PAPER) -> Published:
    """All published numbers. ValueError for a row that has two scores on one benchmark."""
    scores: dict[PaperRow, dict[str, Decimal]] = {}
    deltas: dict[PaperRow, dict[str, Decimal]] = {}
    with open(folder / "scores.csv", encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            benchmark, score, delta = line.pop("benchmark"), Decimal(line.pop("score")), line.pop("printed_delta")
            ratios = {name: Decimal(line.pop(name)) for name in ("sample_ratio", "token_ratio")}
            row = PaperRow(table=int(line.pop("table")), **ratios, **line)  # type: ignore[arg-type]
            if scores.setdefault(row, {}).setdefault(benchmark, score) is not score:
                raise ValueError(f"{folder / 'scores.csv'}: {row}: two scores on {benchmark}")
            if delta:
                deltas.setdefault(row, {})[benchmark] = Decimal(delta)
    efficiency = read_efficiency(folder / "efficiency.csv")
    return Published(scores, deltas, tuple(efficiency), read_figure7(folder / "figure7.csv"))


def read_efficiency(path: Path = PAPER / "efficiency.csv") -> list[Efficiency]:
    """The rows of table 6 (LLaMA2-7B, WizardLM, 3 epochs, 8 x A100), in the paper's order; the full data comes last."""
    with open(path, encoding="utf-8", newline="") as file:
        return [
            Efficiency(
                setting=line["setting"],  # type: ignore[arg-type]
                model=line["model"],
                sample_ratio=Decimal(line["sample_ratio"]),
                token_ratio=Decimal(line["token_ratio"]),
                sample_selection=Decimal(line["sample_selection_minutes"]),
                token_selection=Decimal(line["token_selection_minutes"]),
                total=Decimal(line["total_minutes"]),
                peak_memory=Decimal(line["peak_memory_percent"]),
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
    """8 for an edition of the paper's table 8 (`table8`, `table8-mini`), if it has published scores; else None."""
    match = re.fullmatch(r"table([1-589]|1[0-5])(-.+)?", experiment)
    return int(match[1]) if match else None


def place_of(line: Line) -> Place:
    """The place among the paper's rows that a row of ours has (`Place`).

    Random pruning that keeps everything is no pruning. A preset of Q-Tuning has a place of its own, which the paper
    does not have.
    """
    if line.reference:
        return (line.method,)
    sample, token = line.sample_pruner, line.token_pruner
    if (sample, line.sample_ratio) == ("random", 1):
        sample = "full"
    if (token, line.token_ratio) == ("random", 1):
        token = "none"
    if sample == token == "q-tuning":
        token = line.method
    return (line.sample_ratio, line.token_ratio, sample, token)


def changed_in(line: Line) -> str:
    """What a row of ours changes, as `Line.variant` has it, but for a reference model: the paper does not name its."""
    if not line.options:
        return line.variant
    reference = json.loads(line.options)["method"].get("reference")
    parts = re.split(rf"(?:^|, )reference={re.escape(str(reference))}(?=$|, )", line.variant)
    return ", ".join(filter(None, (part.removeprefix(", ") for part in parts)))


def possible(score: float, items: int) -> bool:
    """Whether a score in per cent with two decimals can be the share of right answers among so many items.

    A share k / items must round to the score for some whole k, up or down, or be cut off to it: some tools cut. Every
    score is possible with over 10,000 items.
    """
    nearest = round(score * items / 100)
    shares = (100 * count / items for count in (nearest - 1, nearest, nearest + 1))
    return any(-0.005 - 1e-9 <= share - score < 0.01 - 1e-9 for share in shares)
