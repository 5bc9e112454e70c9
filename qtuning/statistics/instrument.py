"""How well an experiment can tell methods apart: signal, noise, decision accuracy, smallest detectable difference.

For every metric and benchmark, and the average. Methods are compared at one budget only: that more data helps shows at
once and says nothing about the instrument. Controls and the references (full data, no training) are not among them.

Signal is the spread between methods and noise that between seeds, as standard deviations in the metric's unit
(components.py). Signal and Noise (arXiv 2508.13144) takes the range of the models' scores and the standard deviation
over a run's last checkpoints, both over the mean. But a range grows with the number of methods, and what another seed
would change is the noise of our comparisons. Decision accuracy is that of DataDecide (arXiv 2504.11393): the share of
pairs that a small experiment orders as a large one does. Here the small one is one seed, the large one the mean of the
others.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import polars as pl

from qtuning.experiment.metrics import METRICS, MetricName
from qtuning.experiment.registry import is_control
from qtuning.statistics.answers import AnswerSet, answer_sets, pools_of
from qtuning.statistics.components import Components, components
from qtuning.statistics.estimate import Array
from qtuning.statistics.power import detectable_difference
from qtuning.statistics.summary import summarise
from qtuning.store.lines import Line, random_at_budget

SEEDS = (3, 5, 10)
TIMES_ITEMS = (2, 4)
"""For how many seeds, and how many times the items, the smallest detectable difference is told besides."""

DETECTS = ("detects", *(f"detects_{n}_seeds" for n in SEEDS), *(f"detects_{n}x_items" for n in TIMES_ITEMS))

INSTRUMENT_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("experiment", "model", "train_set", "metric", "unit", "benchmark"), pl.String()),
    **dict.fromkeys(("budgets", "methods", "pairs", "n_seeds", "n_items"), pl.Int64()),
    **dict.fromkeys(("signal", "critical", "seed_sd", "of_items", "common_sd", "ratio"), pl.Float64()),
    "informative": pl.Boolean(),
    **dict.fromkeys(("decision", "decision_headline", *DETECTS), pl.Float64()),
    "note": pl.String(),
}
"""Columns of `instrument`.

signal: standard deviation between methods at a budget, without what seeds and items add. critical: the signal that
noise alone stays below in 95% of the cases; informative: signal > critical. seed_sd: standard deviation of a method's
score from seed to seed, pooled, without common_sd, which is what a seed does to all methods; of_items: the part of
seed_sd that more items would remove. ratio: signal / seed_sd. decision: share of the pairs that one seed orders as the
mean of the other seeds does; decision_headline: as the headline metric of the other seeds does (null for that one).
detects: the difference of two methods that one comparison marks (5%, two-sided, uncorrected) with 80% power, now and
with other numbers of seeds and items. Spreads and differences are in `unit`. note: why a row has no numbers.
"""

CONTROL_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("experiment", "model", "train_set", "metric", "unit", "benchmark", "control"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio", "difference", "standard_error", "distance"), pl.Float64()),
    "note": pl.String(),
}
"""Columns of `control_distances`: a control minus random pruning at its budget, in `unit`, and in standard errors.

distance: positive where the control is the better one. note: why there is none.
"""

Answers = Mapping[MetricName, AnswerSet]
"""The answers of one model on one train set by every metric."""


def answers_by_metric(scores: pl.DataFrame, items: pl.DataFrame | pl.LazyFrame) -> list[Answers]:
    """The answers of each model on each train set of an experiment, by all metrics that it was evaluated by.

    scores: its rows of the store. items: items.parquet. UserError where its evaluations cannot be compared.
    """
    measured = set(scores.filter(pl.col("status") == "done")["metric"])
    found: dict[tuple[str, str], dict[MetricName, AnswerSet]] = {}
    for metric in METRICS:
        if metric == "headline" or metric in measured:
            for known in answer_sets(summarise(scores, metric), items):
                found.setdefault((known.model, known.train_set), {})[metric] = known
    return list(found.values())


def instrument(answers: Iterable[Answers]) -> pl.DataFrame:
    """One row per model, train set, metric and benchmark; `INSTRUMENT_SCHEMA`."""
    rows = [
        _row(known, metric, benchmark, None if metric == "headline" else by_metric.get("headline"))
        for by_metric in answers
        for metric, known in by_metric.items()
        for benchmark in known.summary.benchmarks
    ]
    return pl.DataFrame(rows, schema=INSTRUMENT_SCHEMA, orient="row")


def control_distances(answers: Iterable[Answers]) -> pl.DataFrame:
    """One row per control, budget, metric and benchmark; `CONTROL_SCHEMA`. Empty where no control was run."""
    rows: list[dict[str, Any]] = []
    for by_metric in answers:
        for metric, known in by_metric.items():
            for line, benchmark in product(known.lines, known.summary.benchmarks):
                rival = random_at_budget(line, known.lines)
                if is_control(line.sample_pruner, line.token_pruner) and rival is not None:
                    row = line.columns() | {"experiment": known.summary.experiment, "model": known.model}
                    row |= {"metric": metric, "unit": METRICS[metric].unit, "benchmark": benchmark}
                    rows.append(row | {"control": line.method} | _distance(known, line, rival, benchmark))
    return pl.DataFrame(rows, schema=CONTROL_SCHEMA, orient="row")


def _distance(known: AnswerSet, line: Line, rival: Line, benchmark: str) -> dict[str, Any]:
    if (reason := known.unpaired(line, rival, benchmark)) is not None:
        return {"note": reason}
    found = known.difference(line, rival, benchmark)
    difference, error = float(found.mean), float(np.sqrt(found.variances.sum()))
    sign = 1 if known.summary.metric.higher_is_better else -1
    row: dict[str, Any] = {"difference": difference, "standard_error": error}
    if found.seeds == 1:
        return row | {"note": "one seed: the standard error is of the items alone"}
    return row | {"distance": sign * difference / error if error else None}


def _row(known: AnswerSet, metric: MetricName, benchmark: str, headline: AnswerSet | None) -> dict[str, Any]:
    blocks = budgets_of(known, benchmark)
    row: dict[str, Any] = {
        "experiment": known.summary.experiment,
        "model": known.model,
        "train_set": known.train_set,
        "metric": metric,
        "unit": METRICS[metric].unit,
        "benchmark": benchmark,
        "budgets": len(blocks),
        "methods": sum(map(len, blocks)),
        "pairs": sum(len(block) * (len(block) - 1) // 2 for block in blocks),
    }
    if not blocks:
        return row | {"note": _why_none(known, benchmark)}
    arrays = [known.arrays(block, benchmark) for block in blocks]
    found = components(arrays)
    asked = [next(iter(known.answers[blocks[0][0], name].values())).items for name in known.parts(benchmark)]
    row |= {"n_seeds": arrays[0][0].shape[1], "n_items": sum(asked)}
    if found is None:
        return row | {"note": "one seed: how scores move from seed to seed is unknown"}
    sign = 1 if METRICS[metric].higher_is_better else -1
    predicted = [sign * _by_seed(block) for block in arrays]
    row |= {
        "signal": found.signal,
        "critical": found.critical,
        "seed_sd": found.seed,
        "of_items": found.of_items,
        "common_sd": found.common,
        "ratio": found.ratio,
        "informative": found.informative,
        "decision": decision_accuracy(predicted, predicted),
        "decision_headline": None if headline is None else _decides_headline(headline, benchmark, blocks, predicted),
    }
    return row | detectable(found, _items_of(known, benchmark, arrays[0]), row["n_seeds"], _lenders(known, blocks))


def budgets_of(known: AnswerSet, benchmark: str) -> list[list[Line]]:
    """The methods at each budget that answered the same items at the same seeds; only budgets with two or more.

    Neither references nor controls, which know what a method has to find out, are among them. What an experiment
    varies in training (batch size, learning rate) divides budgets as well.
    """
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in known.lines:
        if not (line.reference or is_control(line.sample_pruner, line.token_pruner)):
            groups.setdefault((line.sample_ratio, line.token_ratio, line.training), []).append(line)
    blocks = []
    for group in groups.values():
        first = next((line for line in group if known.hole(line, benchmark) is None), None)
        if first is not None and len(block := known.paired(group, first, benchmark)) > 1:
            blocks.append(block)
    return blocks


def decision_accuracy(predicted: Sequence[Array], truth: Sequence[Array]) -> float | None:
    """Share of (pair, seed) that `predicted` at one seed orders as the mean of `truth` over the other seeds.

    predicted, truth: [L, S] scores of each budget, higher is better. A tie on either side counts half. None where no
    budget has two methods and two seeds.
    """
    agreements: list[Array] = []
    for ours, theirs in zip(predicted, truth, strict=True):
        seeds = ours.shape[1]
        if seeds < 2:
            continue
        others = (theirs.sum(axis=1, keepdims=True) - theirs) / (seeds - 1)
        for a, b in combinations(range(len(ours)), 2):
            # means of equal numbers may differ in the last bit, and a tie must be one
            signs = np.sign(np.round(ours[a] - ours[b], 9)) * np.sign(np.round(others[a] - others[b], 9))
            agreements.append((1 + signs) / 2)
    return float(np.mean(agreements)) if agreements else None


def detectable(found: Components, items: Mapping[str, int], seeds: int, lines: int) -> dict[str, float]:
    """The smallest detectable difference of two methods in every scenario of DETECTS.

    items: independent ones (clusters), by benchmark. lines: how many lend each other their seed variance.
    """
    spreads = dict(zip(items, found.spreads, strict=True))

    def detects(seeds: int, times: int = 1) -> float:
        more = {name: times * count for name, count in items.items()}
        return detectable_difference(spreads, more, seeds, lines, seed_of_average=np.sqrt(2) * found.own)

    now = {"detects": detects(seeds)} | {f"detects_{n}_seeds": detects(n) for n in SEEDS}
    return now | {f"detects_{n}x_items": detects(seeds, n) for n in TIMES_ITEMS}


def _by_seed(block: Sequence[Array]) -> Array:
    """[L, S] means over items and benchmarks."""
    return np.asarray(np.mean([scores.mean(axis=2) for scores in block], axis=0))


def _decides_headline(
    headline: AnswerSet, benchmark: str, blocks: Sequence[Sequence[Line]], predicted: Sequence[Array]
) -> float | None:
    """How often one seed orders a pair by this metric as the headline metric of the other seeds does."""
    shared: list[tuple[Array, Array]] = []
    for block, ours in zip(blocks, predicted, strict=True):
        first = next((line for line in block if headline.hole(line, benchmark) is None), None)
        if first is None:
            continue
        paired = headline.paired(block, first, benchmark)
        theirs = _by_seed(headline.arrays(paired, benchmark))
        if theirs.shape[1] == ours.shape[1]:
            shared.append((ours[[block.index(line) for line in paired]], theirs))
    return decision_accuracy(*zip(*shared, strict=True)) if shared else None


def _items_of(known: AnswerSet, benchmark: str, block: Sequence[Array]) -> dict[str, int]:
    return {name: scores.shape[2] for name, scores in zip(known.parts(benchmark), block, strict=True)}


def _lenders(known: AnswerSet, blocks: Iterable[Iterable[Line]]) -> int:
    """The fewest lines that lend each other their seed variance in a comparison."""
    pools = pools_of(known.lines)
    return min(len(set(pools[line])) for block in blocks for line in block)


def _why_none(known: AnswerSet, benchmark: str) -> str:
    pruned = [line for line in known.lines if not line.reference]
    holes = [reason for line in pruned if (reason := known.hole(line, benchmark)) is not None]
    return holes[0] if holes else "no budget has two methods"
