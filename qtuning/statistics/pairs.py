"""Any two lines of an experiment against each other, for questions that its own comparisons do not ask."""

import re
from collections.abc import Iterator, Sequence

import polars as pl

from qtuning.errors import UserError
from qtuning.statistics.answers import answer_sets
from qtuning.statistics.compare import COMPARISON_SCHEMA, compared_lines
from qtuning.statistics.summary import Summary
from qtuning.store.lines import Line

_NAMED = re.compile(r"(?P<method>[^\[@]+)(?:\[(?P<variant>[^\]]*)\])?(?:@(?P<budget>[^@]+))?")


def line_text(method: str, variant: str, sample_ratio: float | None, token_ratio: float | None) -> str:
    """What names a line on the command line: METHOD[VARIANT]@SAMPLESxTOKENS, e.g. `q-tuning[lambda=0]@25x50`."""
    named = f"{method}[{variant}]" if variant else method
    return named + (
        "" if sample_ratio is None or token_ratio is None else f"@{_percent(sample_ratio)}x{_percent(token_ratio)}"
    )


def named_lines(text: str, lines: Sequence[Line]) -> list[Line]:
    """The lines that a text means: the exact one, or all of a method, of those with that variant or at that budget.

    Without `[VARIANT]` a text means the default options where the method has them. UserError where it means none.
    """
    parts = _NAMED.fullmatch(text)
    method, variant, budget = parts.group("method", "variant", "budget") if parts else (None, None, None)
    found = [
        line
        for line in lines
        if line.method == method
        and (variant is None or line.variant == variant)
        and (budget is None or _text(line).endswith(f"@{budget}"))
    ]
    if variant is None and any(not line.variant for line in found):
        found = [line for line in found if not line.variant]
    if not found:
        known = ", ".join(dict.fromkeys(map(_text, lines)))
        raise UserError(f"{text!r}: no such line; METHOD, METHOD@25x50 or METHOD[VARIANT]@25x50 of: {known}")
    return found


def compare_pairs(summary: Summary, items: pl.DataFrame | pl.LazyFrame, first: str, second: str) -> pl.DataFrame:
    """`first` minus `second` (texts as of `named_lines`), one row per pair, model and benchmark, as `compare` has them.

    `first` must prune. Pairs are at one budget, unless both texts name theirs. Nothing is corrected for the number of
    comparisons, and `against` is the text of the second line.
    """
    rows = [
        compared_lines(known, line, rival, benchmark) | {"against": _text(rival)}
        for known in answer_sets(summary, items)
        for line, rival in _pairs(known.lines, first, second)
        for benchmark in summary.benchmarks
    ]
    if not rows:
        raise UserError(
            f"{first!r} and {second!r}: no pair: the first must prune, and two budgets must both be named, "
            "as in METHOD@25x50"
        )
    return pl.DataFrame(rows, schema=COMPARISON_SCHEMA, orient="row")


def _pairs(lines: Sequence[Line], first: str, second: str) -> Iterator[tuple[Line, Line]]:
    free = "@" in first and "@" in second
    for line in named_lines(first, lines):
        for rival in named_lines(second, lines):
            budgets = [(each.sample_ratio, each.token_ratio) for each in (line, rival)]
            same = rival.reference or budgets[0] == budgets[1]
            if line != rival and not line.reference and (free or same):
                yield line, rival


def _text(line: Line) -> str:
    return line_text(line.method, line.variant, line.sample_ratio, line.token_ratio)


def _percent(ratio: float) -> str:
    return f"{round(100 * ratio, 6):g}"
