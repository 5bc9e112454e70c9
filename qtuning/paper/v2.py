"""Table 6 and figure 7 of the paper's second version, as printed."""

import csv
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files

PAPER = files("qtuning") / "assets" / "paper" / "v2"


@dataclass(frozen=True)
class Efficiency:
    """A row of table 6: ratios in per cent, times in minutes, peak memory in per cent of the GPU's."""

    sample_ratio: Decimal
    token_ratio: Decimal
    sample_selection: Decimal
    token_selection: Decimal
    total: Decimal
    peak_memory: Decimal


def read_efficiency() -> list[Efficiency]:
    """The rows of table 6 (LLaMA2-7B, WizardLM, 3 epochs, 8 x A100), in the paper's order."""
    names = ("sample_ratio", "token_ratio", "sample_selection_minutes", "token_selection_minutes", "total_minutes")
    lines = csv.DictReader((PAPER / "efficiency.csv").read_text(encoding="utf-8").splitlines())
    return [Efficiency(*(Decimal(line[name]) for name in (*names, "peak_memory_percent"))) for line in lines]


def read_figure7() -> dict[str, dict[str, Decimal]]:
    """Figure 7: category of tokens -> `pruned` and `kept` -> share in per cent."""
    shares: dict[str, dict[str, Decimal]] = {}
    for line in csv.DictReader((PAPER / "figure7.csv").read_text(encoding="utf-8").splitlines()):
        shares.setdefault(line["category"], {})[line["part"]] = Decimal(line["share_percent"])
    return shares
