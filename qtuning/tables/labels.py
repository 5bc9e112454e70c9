"""What tables and figures call methods, budgets and benchmarks, and how they print numbers."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from qtuning.experiment.benchmarks import label_of
from qtuning.experiment.metrics import METRICS, Metric
from qtuning.experiment.presets import PRESETS
from qtuning.experiment.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS, PrunerInfo
from qtuning.statistics.summary import AVERAGE, Entry, Hole, labels_of
from qtuning.store.lines import PARTS, Line, option_text
from qtuning.tables.page import Footnotes, Parts


def benchmark_label(benchmark: str) -> str:
    """How tables call a benchmark."""
    return "Avg" if benchmark == AVERAGE else label_of(benchmark)


def pruner_labels(line: Line) -> tuple[str, str]:
    """The two left-most cells of a row: sample pruner and token pruner; a named method fills only the first,
    as does one that the experiment gives a label.

    Options stand beside the pruner they are of; readings and what varies in training, which concern both, at the end.
    """
    if line.label is not None:
        return line.label + _bracketed(line.training), ""
    options = line.shown_options()
    presets = {name: preset.label for name, preset in PRESETS.items()}
    named = {"zero-shot": "Zero-shot", "full": "Full data"} | presets
    if line.method in named:
        return named[line.method] + _bracketed(line.training, option_text(options.values())), ""
    sample, token, shared = (option_text([options.get(part, {})]) for part in PARTS)
    return (
        _pruner_label(line.sample_pruner, SAMPLE_PRUNERS) + _bracketed(sample),
        _pruner_label(line.token_pruner, TOKEN_PRUNERS) + _bracketed(token) + _bracketed(line.training, shared),
    )


def definitions(lines: Iterable[Line]) -> str | None:
    """Whose definitions the baselines of a table are; None where no row's name has more than one.

    The Q-Tuning paper, the baseline's own paper and the repository history differ on some (docs/method.md, Baselines).
    """
    rows = list(lines)
    kinds = (
        (SAMPLE_PRUNERS, {line.sample_pruner for line in rows}),
        (TOKEN_PRUNERS, {line.token_pruner for line in rows}),
    )
    several = [
        known[name].label for known, shown in kinds for name in known if name in shown and f"{name}-original" in known
    ]
    if not several:
        return None
    them = "it" if len(several) == 1 else "them"
    return (
        f"{', '.join(several)}: as the Q-Tuning paper describes {them}; -original is a baseline's own paper, -history "
        "the authors' repository (docs/method.md, Baselines)."
    )


def method_label(line: Line) -> str:
    """The method in one cell, for tables that do not split it."""
    sample, token = pruner_labels(line)
    return f"{sample} + {token}" if token else sample


def _bracketed(*texts: str) -> str:
    """` (batch_size=16, lambda=0.3)`, or nothing."""
    joined = ", ".join(filter(None, texts))
    return f" ({joined})" if joined else ""


def _pruner_label(name: str, known: Mapping[str, PrunerInfo]) -> str:
    return known[name].label if name in known else name.split(":")[-1]  # a plug-in goes by its attribute


def budget_label(line: Line) -> str:
    """`25% x 50%`, or nothing for a model without training."""
    if line.sample_ratio is None or line.token_ratio is None:
        return ""
    return f"{percent(line.sample_ratio)} x {percent(line.token_ratio)}"


def block_title(line: Line) -> str:
    """Heading of the block that a row belongs to."""
    if line.reference or line.sample_ratio is None or line.token_ratio is None:
        return "Reference"
    samples, tokens = percent(line.sample_ratio), percent(line.token_ratio)
    return f"Controls: {samples} x {tokens}" if line.control else f"Samples {samples} x Tokens {tokens}"


def subjects(rows: pl.DataFrame) -> str:
    """Models and train sets among rows of the store: `Model: Mini. Train set: Mini world.`"""
    sentences = []
    for column, noun in (("model", "Model"), ("train_set", "Train set")):
        labels = list(labels_of(rows, column).values())
        if labels:
            sentences.append(f"{noun}{'s' if len(labels) > 1 else ''}: {', '.join(labels)}.")
    return " ".join(sentences)


def score_parts(
    entry: Entry | Hole | None,
    best: bool,
    footnotes: Footnotes,
    marks: str = "",
    metric: Metric = METRICS["headline"],
) -> Parts:
    """An entry, formatted; a hole is `–` with the number of the footnote that explains it."""
    if not isinstance(entry, Entry):
        return Parts("–" + footnotes.mark("not part of this experiment" if entry is None else str(entry)))
    return Parts(
        f"{entry.mean:.{metric.decimals}f}",
        "" if entry.sd is None else f" ± {entry.sd:.{metric.decimals}f}",
        signed(entry.difference, metric),
        f" {marks}" if marks else "",
        best,
        not metric.higher_is_better,
    )


def items_asked(evaluation: Mapping[str, Any]) -> str:
    """Which items of each benchmark an evaluation of these settings asks."""
    if evaluation["limit"] is None:
        return "all items"
    if evaluation.get("limit_seed") is None:  # of a version that took the first ones
        return f"the first {evaluation['limit']} items of each benchmark"
    return f"{evaluation['limit']} items of each benchmark (a draw with seed {evaluation['limit_seed']})"


def percent(ratio: float) -> str:
    """0.125 -> 12.5%"""
    return f"{round(100 * ratio, 6):g}%"


def signed(difference: float | None, metric: Metric = METRICS["headline"]) -> str:
    """` ↑1.2` or ` ↓1.2`; a difference that rounds to nothing is ` =0.0`."""
    if difference is None:
        return ""
    decimals = 1 if metric.scale == 100 else metric.decimals
    rounded = round(difference, decimals)
    return f" {'=' if rounded == 0 else '↑' if rounded > 0 else '↓'}{abs(rounded):.{decimals}f}"


def number(value: float | None, form: str) -> str:
    """A number in a format of Python, e.g. `,.1f`; `–` for one that is not known."""
    return "–" if value is None else format(value, form)
