"""What all outputs share: labels, formatted cells, numbered footnotes. No markup."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import polars as pl

from qtuning.experiment.benchmarks import label_of
from qtuning.experiment.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS, PrunerInfo
from qtuning.tables.options import PARTS, Options, option_text, shown
from qtuning.tables.summary import AVERAGE, Entry, Hole, Line

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass
class Footnotes:
    """Numbers footnotes in the order of their first use; equal texts share a number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """Superscript number of a footnote."""
        if text not in self.texts:
            self.texts.append(text)
        return superscript(self.texts.index(text) + 1)


@dataclass(frozen=True)
class Parts:
    """A score as printed, in pieces, so that each output can align and emphasise them its own way.

    mean: `36.47`, or `–¹` for a hole; spread: ` ± 0.52` or empty; difference: ` ↑1.2` or empty; marks: ` †‡`, of a
    significant difference from random + random (†) and from the full data (‡), or empty.
    """

    mean: str
    spread: str = ""
    difference: str = ""
    marks: str = ""
    best: bool = False

    @property
    def rest(self) -> str:
        """What follows the mean."""
        return self.spread + self.difference + self.marks

    @property
    def direction(self) -> Literal["up", "down", ""]:
        """Where the difference points."""
        return "up" if "↑" in self.difference else "down" if "↓" in self.difference else ""


def aligned(column: Sequence[Parts]) -> list[Parts]:
    """The scores of one column, each piece padded to the widest of its kind (`± 0.52` after its sign)."""
    mean, spread, difference, marks = (
        max((len(getattr(parts, piece)) for parts in column), default=0)
        for piece in ("mean", "spread", "difference", "marks")
    )
    return [
        replace(
            parts,
            mean=parts.mean.rjust(mean),
            spread=f" ± {parts.spread[3:]:>{spread - 3}}" if parts.spread else " " * spread,
            difference=parts.difference.rjust(difference),
            marks=parts.marks.ljust(marks),
        )
        for parts in column
    ]


def superscript(number: int) -> str:
    """12 -> ¹²"""
    return str(number).translate(SUPERSCRIPTS)


def benchmark_label(benchmark: str) -> str:
    """How tables call a benchmark."""
    return "Avg" if benchmark == AVERAGE else label_of(benchmark)


def pruner_labels(line: Line) -> tuple[str, str]:
    """The two left-most cells of a row: sample pruner and token pruner; a named method fills only the first.

    Options stand beside the pruner they are of; readings and what varies in training, which concern both, at the end.
    """
    found: Options = {}
    if line.options:
        found = shown(line.sample_pruner, line.token_pruner, line.options, line.named)
    named = {"zero-shot": "Zero-shot", "full": "Full data", "q-tuning": "Q-Tuning"}
    if line.method in named:
        return named[line.method] + _bracketed(line.training, option_text(found.values())), ""
    sample, token, shared = (option_text([found.get(part, {})]) for part in PARTS)
    return (
        pruner_label(line.sample_pruner, SAMPLE_PRUNERS) + _bracketed(sample),
        pruner_label(line.token_pruner, TOKEN_PRUNERS) + _bracketed(token) + _bracketed(line.training, shared),
    )


def _bracketed(*texts: str) -> str:
    """` (batch_size=16, lambda=0.3)`, or nothing."""
    joined = ", ".join(filter(None, texts))
    return f" ({joined})" if joined else ""


def pruner_label(name: str, known: Mapping[str, PrunerInfo]) -> str:
    """How tables call a pruner; a plug-in goes by its attribute."""
    return known[name].label if name in known else name.split(":")[-1]


def method_label(line: Line) -> str:
    """The method in one cell, for tables that do not split it."""
    sample, token = pruner_labels(line)
    return f"{sample} + {token}" if token else sample


def percent(ratio: float) -> str:
    """0.125 -> 12.5%"""
    return f"{round(100 * ratio, 6):g}%"


def block_title(line: Line) -> str:
    """Heading of the block that a row belongs to."""
    if line.reference or line.sample_ratio is None or line.token_ratio is None:
        return "Reference"
    return f"Samples {percent(line.sample_ratio)} x Tokens {percent(line.token_ratio)}"


def score_parts(entry: Entry | Hole | None, best: bool, footnotes: Footnotes, marks: str = "") -> Parts:
    """An entry, formatted; a hole is `–` with the number of the footnote that explains it."""
    if entry is None:
        return Parts("–" + footnotes.mark("not part of this experiment"))
    if isinstance(entry, Hole):
        return Parts("–" + footnotes.mark(hole_text(entry)))
    spread = "" if entry.sd is None else f" ± {entry.sd:.2f}"
    return Parts(f"{entry.mean:.2f}", spread, signed(entry.difference), f" {marks}" if marks else "", best)


def signed(difference: float | None) -> str:
    """` ↑1.2` or ` ↓1.2`; a difference that rounds to nothing is ` =0.0`."""
    if difference is None:
        return ""
    rounded = round(difference, 1)
    return " =0.0" if rounded == 0 else f" {'↑' if rounded > 0 else '↓'}{abs(rounded):.1f}"


def hole_text(hole: Hole) -> str:
    """Which seeds are missing and why: `seed 1 diverged: the loss is not finite; seed 2 not run: not trained yet`."""
    groups: dict[tuple[str, str], list[str]] = {}
    for seed, status, reason in hole.missing:
        groups.setdefault((status, reason), []).append(seed)
    return "; ".join(f"{seeds_text(seeds)}{status}: {one_line(reason)}" for (status, reason), seeds in groups.items())


def seeds_text(seeds: Sequence[str]) -> str:
    """`seed 1 `, `seeds 0, 1 `, or nothing for a model without training."""
    if list(seeds) == [""]:
        return ""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} "


def one_line(text: str, limit: int = 160) -> str:
    """White space collapsed, cut at `limit` characters."""
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def named(scores: pl.DataFrame, column: str) -> dict[str, str]:
    """Name -> label of the models or train sets, in table order."""
    pairs = scores.select(column, f"{column}_label").drop_nulls().unique(maintain_order=True)
    return dict(pairs.iter_rows())


def subjects(scores: pl.DataFrame) -> str:
    """`Model: Mini. Train set: Mini world.`"""
    sentences = []
    for column, noun in (("model", "Model"), ("train_set", "Train set")):
        labels = list(named(scores, column).values())
        if labels:
            sentences.append(f"{noun}{'s' if len(labels) > 1 else ''}: {', '.join(labels)}.")
    return " ".join(sentences)
