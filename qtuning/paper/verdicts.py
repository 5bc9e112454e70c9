"""Claim + scores -> verdict, from the arithmetic alone. The tolerance is the rounding of the figures, nothing else.

A printed 36.5 stands for anything between 36.45 and 36.55. A claimed figure agrees with a recomputed one where their
ranges touch (docs/audit.md). What the claims' file says of a claim is not read here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, assert_never

from qtuning.paper.claims import Averages, Change, Claim, Compare, Figure, Sign, Value, Verdict, Versus
from qtuning.paper.measured import Budget, Measured, Number, Row, Source, change
from qtuning.tables.summary import AVERAGE

Result = Literal["supports", "contradicts", "undecided"]
EVERYTHING = Budget(Decimal(100), Decimal(100))


@dataclass(frozen=True)
class Term:
    """One piece of a claim's arithmetic.

    subject: which row. arithmetic: the numbers and the operation, e.g. `37.74 - 35.24 (longest + ppl, best of 16
    baselines) = 2.50`. comparison: with what is claimed. needs: each (row, benchmark) it rests on, Q-Tuning's first.
    """

    subject: str
    arithmetic: str
    comparison: str
    result: Result
    value: Number | None
    needs: tuple[tuple[Row, str], ...]

    def __str__(self) -> str:
        return "; ".join(part for part in (f"{self.subject}: {self.arithmetic}", self.comparison) if part)


@dataclass(frozen=True)
class Outcome:
    """What the arithmetic says of a claim. notes: where a contradicted figure stands, wrong averages."""

    verdict: Verdict
    terms: tuple[Term, ...]
    notes: tuple[str, ...] = ()


def evaluate(claim: Claim, source: Source) -> Outcome:
    """Recompute a claim from `source`."""
    recipe = claim.recipe
    match recipe:
        case Value() | Change():
            pairs = zip(recipe.model, claim.figures, strict=True)
            terms = tuple(figure_term(recipe, source, model, recipe.budget, figure) for model, figure in pairs)
            moved = tuple(
                text
                for term, figure in zip(terms, claim.figures, strict=True)
                if term.result == "contradicts"
                for text in _elsewhere(recipe, source, figure)
            )
            return Outcome(_of_several(terms), terms, moved + tuple(_wrong_averages(terms, source)))
        case Sign():
            terms = tuple(sign_terms(recipe, source))
            return Outcome(_of_all(terms), terms, tuple(_wrong_averages(terms, source)))
        case Averages():
            rows = [row for row in source.rows() if row.table == recipe.table and row.model in recipe.model]
            terms = tuple(average_term(row, source) for row in rows)
            return Outcome(_of_all(terms), terms)
        case Compare():
            terms = tuple(compare_terms(recipe, source))
            return Outcome(_of_several(terms), terms)
    assert_never(recipe)


def _of_several(terms: Sequence[Term]) -> Verdict:
    """A claim that names several things: partly right where some of them are."""
    results = {term.result for term in terms}
    if not results or "undecided" in results:
        return "not testable"
    if len(results) == 2:
        return "partly"
    return "holds" if "supports" in results else "contradicted"


def _of_all(terms: Sequence[Term]) -> Verdict:
    """A claim about every row: one that is against it contradicts it."""
    results = {term.result for term in terms}
    if "contradicts" in results:
        return "contradicted"
    return "holds" if results == {"supports"} else "not testable"


def figure_term(
    recipe: Value | Change, source: Source, model: str, budget: Budget, figure: Figure | None = None
) -> Term:
    """The figure that `recipe` asks for, of one model; compared with `figure` if there is one."""
    row, benchmark = q_tuning_row(recipe.table, model, budget), recipe.benchmark
    subject = f"{row.describe()}, {benchmark}"
    against, others, label = None, list[Row](), ""
    if isinstance(recipe, Change):
        against, others, label = _opponent(recipe.versus, source, row, benchmark)
    needs = ((row, benchmark), *((other, benchmark) for other in others))
    gap = _missing(source, needs) or ("" if against or isinstance(recipe, Value) else label)
    if gap:
        return Term(subject, gap, "", "undecided", None, needs)
    measured = source.figure(recipe.how, row, benchmark, against)
    arithmetic = _arithmetic(recipe.how, source, row, against, label, benchmark, measured)
    if figure is None:
        return Term(subject, arithmetic, _range(measured)[2:], "undecided", measured.value, needs)
    comparison, result = _compared(figure, measured)
    return Term(subject, arithmetic, comparison, result, measured.value, needs)


def sign_terms(recipe: Sign, source: Source) -> Iterable[Term]:
    """Whether each Q-Tuning row is above what it is compared with, by more than rounding or seeds can explain."""
    for row in source.rows():
        if row.table not in recipe.table or not row.q_tuning:
            continue
        against, others, label = _opponent(recipe.versus, source, row, recipe.benchmark)
        needs = ((row, recipe.benchmark), *((other, recipe.benchmark) for other in others))
        subject = f"{row.describe()}, {recipe.benchmark}"
        gap = _missing(source, needs) or ("" if against else label)
        if gap:
            yield Term(subject, gap, "", "undecided", None, needs)
            continue
        measured = source.figure("difference", row, recipe.benchmark, against)
        arithmetic = _arithmetic("difference", source, row, against, label, recipe.benchmark, measured)
        result, comparison = _sign(measured)
        yield Term(subject, arithmetic, comparison, result, measured.value, needs)


def average_term(row: Row, source: Source) -> Term:
    """Whether a printed average is the mean of the row's benchmarks.

    The mean of figures that are each rounded by h is off by at most h, the printed average by another h.
    """
    benchmarks = source.benchmarks(row)
    needs = tuple((row, benchmark) for benchmark in (*benchmarks, AVERAGE))
    if gap := _missing(source, needs):
        return Term(row.describe(), gap, "", "undecided", None, needs)
    parts = [source.figure("value", row, benchmark) for benchmark in benchmarks]
    printed, mean = source.figure("value", row, AVERAGE), _mean([part.value for part in parts])
    cells = " + ".join(number(part.value) for part in parts)
    arithmetic = f"({cells}) / {len(parts)} = {number(mean, 4)}"
    if unknown := next((part.unknown for part in (printed, *parts) if part.unknown), ""):
        return Term(row.describe(), arithmetic, unknown, "undecided", mean, needs)
    lows, highs = [part.low for part in parts], [part.high for part in parts]
    agree = _touch(_mean(lows), _mean(highs), printed.low, printed.high)
    off = "as printed" if agree else f"off by {signed(printed.value - mean, 3)}"
    comparison = f"printed {number(printed.value)}, {off}"
    return Term(row.describe(), arithmetic, comparison, "supports" if agree else "contradicts", mean, needs)


def compare_terms(recipe: Compare, source: Source) -> Iterable[Term]:
    """Whether rows at the first budget differ from those at the second, of every pruner and model that is meant."""
    first, second = recipe.budgets
    for row in source.rows():
        if row.table != recipe.table or row.setting != "pruned" or row.budget != first:
            continue
        if recipe.sample_pruner not in ("any", row.sample_pruner) or recipe.token_pruner not in (
            "any",
            row.token_pruner,
        ):
            continue
        other = Row(row.table, row.model, row.setting, second, row.sample_pruner, row.token_pruner)
        benchmarks = source.benchmarks(row)
        needs = tuple((each, benchmark) for each in (row, other) for benchmark in benchmarks)
        subject = f"{row.where}, {row.model}, {row.method}, {first} and {second}"
        if gap := _missing(source, needs):
            yield Term(subject, gap, "", "undecided", None, needs)
            continue
        pairs = [
            f"{benchmark} {number(source.score(row, benchmark))} and {number(source.score(other, benchmark))}"
            for benchmark in benchmarks
        ]
        same = source.identical(row, other)
        comparison = "identical" if same else "different"
        yield Term(subject, ", ".join(pairs), comparison, "contradicts" if same else "supports", None, needs)


def q_tuning_row(table: int | str, model: str, budget: Budget) -> Row:
    """The row of Q-Tuning."""
    return Row(table, model, "pruned", budget, "q-tuning", "q-tuning")


def full_row(table: int | str, model: str) -> Row:
    """The row of the full data set."""
    return Row(table, model, "full", EVERYTHING, "none", "none")


def _opponent(versus: Versus, source: Source, row: Row, benchmark: str) -> tuple[Row | None, list[Row], str]:
    """What Q-Tuning is compared with, every row that this rests on, and what to call it (or why there is none)."""
    if versus == "full":
        return full_row(row.table, row.model), [full_row(row.table, row.model)], "full data"
    rivals = [
        other
        for other in source.rows()
        if (other.table, other.model, other.setting, other.budget) == (row.table, row.model, row.setting, row.budget)
        and not other.q_tuning
    ]
    scored = [(score, other) for other in rivals if (score := source.score(other, benchmark)) is not None]
    if not scored:
        return None, rivals, f"no baseline at {row.budget}"
    _, best = max(scored, key=lambda pair: pair[0])
    return best, rivals, f"{best.method}, best of {len(rivals)} baseline{'s' if len(rivals) > 1 else ''}"


def _missing(source: Source, needs: Iterable[tuple[Row, str]]) -> str:
    """The first score that is missing and how many are, or nothing."""
    gaps = [gap for row, benchmark in needs if (gap := source.missing(row, benchmark)) is not None]
    return f"{gaps[0]}{f' (and {len(gaps) - 1} more scores)' if len(gaps) > 1 else ''}" if gaps else ""


def _arithmetic(
    how: str, source: Source, row: Row, against: Row | None, label: str, benchmark: str, measured: Measured
) -> str:
    score = number(source.score(row, benchmark))
    if against is None:
        return score
    other = number(source.score(against, benchmark))
    if how == "relative":
        return f"({score} - {other}) / {other} x 100 = {signed(measured.value)}% ({other}: {label})"
    return f"{score} - {other} ({label}) = {signed(measured.value)}"


def _compared(figure: Figure, measured: Measured) -> tuple[str, Result]:
    """A claimed figure beside a recomputed one."""
    claimed = f"claimed {figure.text}"
    if measured.low is None or measured.high is None:
        return f"{claimed}; {measured.unknown}", "undecided"
    low, high = figure.value - figure.rounding, figure.value + figure.rounding
    if not _touch(low, high, measured.low, measured.high):
        gap = figure.value - measured.value
        side = f"{number(gap)} too high" if gap > 0 else f"{number(-gap)} too low"
        return f"{claimed}, {side}{_range(measured)}", "contradicts"
    if measured.low <= 0 <= measured.high and not low <= 0 <= high:
        return f"{claimed}; {_range(measured)[2:]} holds the claim and also nothing at all", "undecided"
    return f"{claimed}, agrees{_range(measured)}", "supports"


def _sign(measured: Measured) -> tuple[Result, str]:
    if measured.low is None or measured.high is None:
        return "undecided", measured.unknown
    if measured.low > 0:
        return "supports", f"above{_range(measured)}"
    if measured.high < 0:
        return "contradicts", f"below{_range(measured)}"
    return "undecided", f"cannot be told from zero{_range(measured)}"


def _range(measured: Measured) -> str:
    """`, range 2.490 to 2.510`, or why it is not known."""
    if measured.low is None or measured.high is None:
        return f", {measured.unknown}"
    rests_on = f" ({measured.rests_on})" if measured.rests_on else ""
    return f", {measured.label} {number(measured.low, 3)} to {number(measured.high, 3)}{rests_on}"


def _touch(low: Number | None, high: Number | None, other_low: Number | None, other_high: Number | None) -> bool:
    if low is None or high is None or other_low is None or other_high is None:
        return False
    return low <= other_high and other_low <= high


def _elsewhere(recipe: Value | Change, source: Source, figure: Figure) -> list[str]:
    """Other Q-Tuning rows of the table that have the claimed figure, each beside full data and the best baseline."""
    found = []
    for row in source.rows():
        if row.table != recipe.table or not row.q_tuning:
            continue
        term = figure_term(recipe, source, row.model, row.budget, figure)
        if term.result != "supports":
            continue
        context = []
        for versus in ("full", "best-baseline"):
            against, _, label = _opponent(versus, source, row, recipe.benchmark)
            if isinstance(recipe, Value) and against is not None and not source.missing(against, recipe.benchmark):
                score, other = source.score(row, recipe.benchmark), source.score(against, recipe.benchmark)
                assert score is not None and other is not None
                context.append(f"{signed(change('difference', score, other))} from {label}")
        beside = f" ({'; '.join(context)})" if context else ""
        found.append(f"{figure.text} is that of {term.subject}{beside}")
    return found


def _wrong_averages(terms: Iterable[Term], source: Source) -> list[str]:
    """Averages that a claim rests on, but which are not the mean of their row's benchmarks."""
    rows = dict.fromkeys(term.needs[0][0] for term in terms if term.needs[0][1] == AVERAGE)
    checked = [average_term(row, source) for row in rows]
    return [f"the average that this rests on is wrong: {term}" for term in checked if term.result == "contradicts"]


def _mean(values: Sequence[Number | None]) -> Number:
    known = [value for value in values if value is not None]
    return sum(known, Fraction(0)) / len(known)


def number(value: Number | None, digits: int = 2) -> str:
    """`36.47`; fractions are rounded as decimals, without the binary error of floats."""
    if value is None:
        return "–"
    exact = Decimal(value.numerator) / Decimal(value.denominator) if isinstance(value, Fraction) else value
    return f"{exact:.{digits}f}"


def signed(value: Number, digits: int = 2) -> str:
    """`+2.50`"""
    return f"{'+' if value > 0 else ''}{number(value, digits)}"
