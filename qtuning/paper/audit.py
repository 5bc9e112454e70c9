"""The audit of published claims: recomputed from the published scores, and from ours where our cells exist.

Of every claim: what the arithmetic says, whether that is what the claims' file says, and how our own scores compare.
Beside the claims: every printed average recomputed from its row, and rows that are the same at different budgets.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl

from qtuning.paper.claims import AnyRecipe, Averages, Change, Claim, Compare, Sign, Value, Verdict
from qtuning.paper.measured import Row
from qtuning.paper.ours import Ours, collect_ours, merge
from qtuning.paper.published import published_row
from qtuning.paper.reference import Published
from qtuning.paper.refusals import Refusals, refusals, refused_amount
from qtuning.paper.verdicts import (
    Outcome,
    Term,
    average_term,
    compare_terms,
    evaluate,
    figure_term,
    sign_terms,
)
from qtuning.statistics.interval import Find, Intervals
from qtuning.tables.summary import AVERAGE

NOT_TESTABLE: Verdict = "not testable"


@dataclass(frozen=True)
class FromOurs:
    """What our scores say of a claim. experiments: whose scores. reason: why they say nothing. analogous: the same
    figures of other models or train sets of ours, which are no evidence for or against the claim."""

    verdict: Verdict
    terms: tuple[Term, ...] = ()
    reason: str = ""
    analogous: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ruling:
    """A claim, what the published scores say of it, and what ours do."""

    claim: Claim
    published: Outcome
    ours: FromOurs

    @property
    def agrees(self) -> bool:
        """Whether the recomputed verdict is the one in the claims' file."""
        return self.published.verdict == self.claim.verdict


@dataclass(frozen=True)
class Audit:
    """All rulings, and the checks beside them. averages: how many rows were recomputed. duplicates: groups of rows of
    one table and model with the same score on every benchmark."""

    rulings: tuple[Ruling, ...]
    averages: int
    wrong_averages: tuple[Term, ...]
    duplicates: tuple[tuple[Row, ...], ...]

    @property
    def differing(self) -> list[Ruling]:
        """Claims whose verdict in the file is not what the arithmetic says."""
        return [ruling for ruling in self.rulings if not ruling.agrees]


def audit(
    published: Published,
    claims: Sequence[Claim],
    scores: pl.DataFrame | None = None,
    intervals: Intervals | None = None,
) -> Audit:
    """Recompute every claim. scores: headline rows of our store (`ours.read_store`), or None if there is none.

    intervals: of the same store; without them our figures have none, and decide nothing.
    """
    rulings = []
    for claim in claims:
        outcome = evaluate(claim, published)
        rulings.append(Ruling(claim, outcome, _from_ours(claim, outcome, published, scores, intervals)))
    terms = [average_term(row, published) for row in published.rows() if AVERAGE in published.scores[row]]
    wrong = tuple(term for term in terms if term.result == "contradicts")
    return Audit(tuple(rulings), len(terms), wrong, tuple(duplicate_rows(published)))


def duplicate_rows(published: Published) -> list[tuple[Row, ...]]:
    """Groups of rows of one table and model whose benchmarks (two or more) all have the same scores."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in published.rows():
        scores = tuple((benchmark, published.score(row, benchmark)) for benchmark in published.benchmarks(row))
        if len(scores) > 1:
            groups.setdefault((row.table, row.model, scores), []).append(row)
    return [tuple(rows) for rows in groups.values() if len(rows) > 1]


def _from_ours(
    claim: Claim, outcome: Outcome, published: Published, scores: pl.DataFrame | None, intervals: Intervals | None
) -> FromOurs:
    if scores is None:
        return FromOurs(NOT_TESTABLE, reason="no score store")
    if isinstance(claim.recipe, Averages):
        return FromOurs(NOT_TESTABLE, reason="our averages are computed from their benchmarks, never typed")
    needs = list(dict.fromkeys(need for term in outcome.terms for need in term.needs))
    sources = _sources(scores, published, needs, intervals)
    used = tuple(dict.fromkeys(source.experiment for source in sources))
    ours = merge(source.ours for source in sources)
    analogous = tuple(_analogous(claim.recipe, scores, published, intervals))
    if not ours.rows():
        pairs = dict.fromkeys((row.model, published.train_sets[int(row.table)]) for row, _ in needs)
        reason = "; ".join(f"no cells of {model} on {train_set}" for model, train_set in pairs)
        return FromOurs(NOT_TESTABLE, reason=reason, analogous=analogous)
    if refused := _refused(sources, published, needs):
        return FromOurs(NOT_TESTABLE, reason=refused, analogous=analogous, experiments=used)
    gaps = [gap for row, benchmark in needs if (gap := ours.missing(row, benchmark)) is not None]
    if gaps:
        reason = f"{len(gaps)} of {len(needs)} scores are missing: {gaps[0]}"
        return FromOurs(NOT_TESTABLE, reason=reason, analogous=analogous, experiments=used)
    wanted = {row for row, _ in needs}
    only = replace(ours, scores={row: values for row, values in ours.scores.items() if row in wanted})
    found = evaluate(claim, only)
    return FromOurs(found.verdict, found.terms, analogous=analogous, experiments=used)


@dataclass(frozen=True)
class _Source:
    """The experiment of ours that stands for one table and model. refused: why its scores are not comparable."""

    table: int
    model: str
    experiment: str
    ours: Ours
    refused: Refusals


def _sources(
    scores: pl.DataFrame, published: Published, needs: Sequence[tuple[Row, str]], intervals: Intervals | None
) -> list[_Source]:
    """Our cells of the models and train sets that a claim needs: of the experiment named after the table, else of one
    that was measured as the paper's was, else of one that varies nothing in training, else of the first that has them.
    """
    sources = []
    for table, model in dict.fromkeys((int(row.table), row.model) for row, _ in needs):
        train_set = published.train_sets[table]
        printed = [
            published_row(row, train_set, benchmark, float(score))
            for row, by_benchmark in published.scores.items()
            if row.table == table
            for benchmark, score in by_benchmark.items()
        ]
        found = scores.filter((pl.col("model") == model) & (pl.col("train_set") == train_set))
        frames = {name: scores.filter(pl.col("experiment") == name) for name in found["experiment"].unique().sort()}
        refused = {name: refusals(frame, printed) for name, frame in frames.items()}

        def rank(name: str, table: int = table, refused: dict[str, Refusals] = refused) -> tuple[bool, bool, bool, str]:
            varied = bool((scores.filter(pl.col("experiment") == name)["training"].fill_null("") != "").any())
            return name != f"table{table}", bool(refused[name].everything), varied, name

        if frames:
            name = min(frames, key=rank)
            benchmarks = tuple(dict.fromkeys(row["benchmark"] for row in printed if row["benchmark"] != AVERAGE))
            answers = _answers(intervals, name, model, train_set, benchmarks)
            ours = collect_ours(frames[name], table, model, train_set, benchmarks, answers)
            sources.append(_Source(table, model, name, ours, refused[name]))
    return sources


def _answers(
    intervals: Intervals | None, experiment: str, model: str, train_set: str, benchmarks: tuple[str, ...] | None = None
) -> Find | None:
    """What finds the answers of one of our experiments when a figure needs them."""
    return None if intervals is None else partial(intervals.world, experiment, model, train_set, benchmarks)


def _refused(sources: Sequence[_Source], published: Published, needs: Sequence[tuple[Row, str]]) -> str:
    """Why the scores that a claim needs cannot be held against the published ones; empty where they can."""
    reasons: dict[str, None] = {}
    for source in sources:
        train_set = published.train_sets[source.table]
        for row, benchmark in needs:
            if (row.table, row.model) != (source.table, source.model):
                continue
            found = [source.refused.everything, source.refused.benchmarks.get(benchmark, "")]
            found += [refused_amount(source.ours.offered[row], train_set)] if row in source.ours.offered else []
            reasons |= dict.fromkeys(filter(None, found))
    return "; ".join(reasons)


def _analogous(recipe: AnyRecipe, scores: pl.DataFrame, published: Published, intervals: Intervals | None) -> list[str]:
    """The claim's figures for what else the store holds: of the experiments that are editions of the claim's tables
    (`table1-...`), or of all that are no edition of any table, if there is no such edition."""
    if isinstance(recipe, Averages):
        return []
    texts: list[str] = []
    tables = recipe.table if isinstance(recipe, Sign) else (recipe.table,)
    names = list(dict.fromkeys(scores["experiment"]))
    editions = [name for name in names if any(re.fullmatch(rf"table{table}(-.+)?", name) for table in tables)]
    for name in editions or [name for name in names if not re.match(r"table\d", name)]:
        frame = scores.filter(pl.col("experiment") == name)
        pairs = frame.select("model", "train_set").drop_nulls().unique(maintain_order=True)
        for model, train_set in pairs.iter_rows():
            if any(train_set == published.train_sets[table] and _has(published, table, model) for table in tables):
                continue  # the claim's own subject: evidence, or reported as missing
            label = f"{name} (train set {train_set})"
            answers = _answers(intervals, name, model, train_set)
            ours = collect_ours(frame, label, model, train_set, answers=answers)
            texts += [str(term) for term in _terms(recipe, ours, label, model)]
    return texts


def _has(published: Published, table: int, model: str) -> bool:
    return any(row.table == table and row.model == model for row in published.rows())


def _terms(recipe: AnyRecipe, ours: Ours, label: str, model: str) -> list[Term]:
    """The terms of a recipe, asked of one of our experiments; none where it has no such row."""
    terms: list[Term] = []
    if isinstance(recipe, Value | Change):
        moved = recipe.model_copy(update={"table": label})
        terms = [figure_term(moved, ours, model, recipe.budget)]
    elif isinstance(recipe, Sign):
        terms = list(sign_terms(recipe.model_copy(update={"table": (label,)}), ours))
    elif isinstance(recipe, Compare):
        terms = list(compare_terms(recipe.model_copy(update={"table": label}), ours))
    return [term for term in terms if term.value is not None or term.result != "undecided"]
