"""Our own scores as a source for claims: rows of the score store under the published names, paired by seed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import polars as pl

from qtuning.errors import UserError
from qtuning.results.measured import Budget, Measured, Row, change
from qtuning.results.schema import SCHEMA
from qtuning.results.summary import AVERAGE, variant

CONFIDENCE = 0.95
COLUMNS = (
    "experiment",
    "model",
    "model_label",
    "train_set",
    "train_set_label",
    "method",
    "sample_pruner",
    "token_pruner",
    "sample_ratio",
    "token_ratio",
    "options",
    "training",
    "seed",
    "benchmark",
    "metric",
    "headline",
    "score",
    "items",
    "status",
    "reason",
    "evaluation_config",
    "samples_available",
)


@dataclass
class Ours:
    """Scores in per cent by row, benchmark (`avg` is one) and seed. holes: why a score is missing. offered: how many
    samples the cells of a trained row could choose from."""

    scores: dict[Row, dict[str, dict[str, float]]] = field(default_factory=dict)
    holes: dict[tuple[Row, str], str] = field(default_factory=dict)
    offered: dict[Row, set[float | None]] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Every row that has a cell, finished or not."""
        return list(self.scores)

    def benchmarks(self, row: Row) -> list[str]:
        """Benchmarks of a row without the average."""
        return [benchmark for benchmark in self.scores.get(row, {}) if benchmark != AVERAGE]

    def score(self, row: Row, benchmark: str) -> float | None:
        """Mean over the seeds; None where any seed is missing: never a mean over fewer."""
        by_seed = self.scores.get(row, {}).get(benchmark)
        return None if not by_seed or (row, benchmark) in self.holes else fmean(by_seed.values())

    def missing(self, row: Row, benchmark: str) -> str | None:
        """Why there is no such score; None if there is one."""
        if self.score(row, benchmark) is not None:
            return None
        return f"{row.describe()}, {benchmark}: {self.holes.get((row, benchmark), 'no such cell')}"

    def identical(self, row: Row, other: Row) -> bool:
        """Whether two rows have the same score on every benchmark at every seed."""
        return all(self.scores[row][benchmark] == self.scores[other].get(benchmark) for benchmark in self.scores[row])

    def figure(self, how: str, row: Row, benchmark: str, against: Row | None = None) -> Measured:
        """A score or its change, with the 95% confidence interval of its mean over seeds (Student's t, paired)."""
        mine = self.scores[row][benchmark]
        theirs = None if against is None else self.scores[against][benchmark]
        if theirs is not None and theirs.keys() != mine.keys():
            means = change(how, fmean(mine.values()), fmean(theirs.values()))
            return Measured(means, None, None, "the two rows have other seeds")
        values = [float(score if theirs is None else change(how, score, theirs[seed])) for seed, score in mine.items()]
        mean = fmean(values)
        if len(values) < 2:
            return Measured(mean, None, None, "one seed: its spread is not known")
        from scipy.stats import t

        half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / sqrt(len(values))
        return Measured(mean, mean - half, mean + half)


def read_store(store: Path) -> pl.DataFrame | None:
    """The headline rows of `STORE/scores.parquet`; None if it is not there. UserError if another version wrote it."""
    path = Path(store) / "scores.parquet"
    if not path.exists():
        return None
    try:
        table = pl.read_parquet(path, columns=list(COLUMNS))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: not a score store of this version ({error}); run `qtuning tables` again") from None
    odd = [name for name in COLUMNS if table.schema[name] not in (SCHEMA[name], pl.Null())]
    if odd:
        raise UserError(f"{path}: columns of another type: {', '.join(odd)}; run `qtuning tables` again")
    return table.filter(pl.col("headline"))


def collect_ours(
    frame: pl.DataFrame, table: int | str, model: str, train_set: str, benchmarks: Iterable[str] | None = None
) -> Ours:
    """One model on one train set in one experiment (`frame`: its rows), labelled as rows of `table`.

    benchmarks: those that the average is taken over; None: all of the experiment's. Only methods at their default
    options: a reading or another lambda is not what the paper reports.
    """
    ours = Ours()
    mine = frame.filter((pl.col("model") == model) & ((pl.col("train_set") == train_set) | pl.col("seed").is_null()))
    for values in mine.iter_rows(named=True):
        row = _row(values, table)
        if row is None:
            continue
        if values["status"] == "done" and row.setting != "zero_shot":
            ours.offered.setdefault(row, set()).add(values["samples_available"])
        benchmark, seed = values["benchmark"], values["seed"] or ""
        by_seed = ours.scores.setdefault(row, {}).setdefault(benchmark, {})
        if values["status"] != "done":
            ours.holes.setdefault((row, benchmark), f"seed {seed or '-'} {values['status']}: {values['reason']}")
        elif seed in by_seed:
            ours.holes[row, benchmark] = f"seed {seed}: more than one cell fits"
        else:
            by_seed[seed] = values["score"]
    averaged = list(benchmarks) if benchmarks is not None else list(dict.fromkeys(mine["benchmark"]))
    if len(averaged) > 1:
        for row in ours.scores:
            _average(ours, row, averaged)
    return ours


def merge(parts: Iterable[Ours]) -> Ours:
    """Several models and tables as one source; their rows are different ones."""
    whole = Ours()
    for part in parts:
        whole.scores |= part.scores
        whole.holes |= part.holes
        whole.offered |= part.offered
    return whole


def _row(values: Mapping[str, Any], table: int | str) -> Row | None:
    """The published name of a cell; None for a variant that the paper does not have."""
    model, method = values["model"], values["method"]
    if method == "zero-shot":
        return Row(table, model, "zero_shot", Budget(Decimal(0), Decimal(0)), "none", "none")
    if variant(values["sample_pruner"], values["token_pruner"], values["options"]):
        return None
    budget = Budget(_percent(values["sample_ratio"]), _percent(values["token_ratio"]))
    if method == "full":
        return Row(table, model, "full", budget, "none", "none")
    if method == "q-tuning":
        return Row(table, model, "pruned", budget, "q-tuning", "q-tuning")
    return Row(table, model, "pruned", budget, values["sample_pruner"], values["token_pruner"])


def _percent(ratio: float) -> Decimal:
    """0.125 -> 12.5; through text, since 0.07 * 100 is not 7 in floats."""
    return Decimal(str(ratio)) * 100


def _average(ours: Ours, row: Row, benchmarks: list[str]) -> None:
    """The mean over the benchmarks at each seed, or a hole."""
    gaps = [gap for benchmark in benchmarks if (gap := ours.missing(row, benchmark)) is not None]
    seeds = {tuple(ours.scores[row].get(benchmark, {})) for benchmark in benchmarks}
    if gaps or len(seeds) > 1:
        ours.holes[row, AVERAGE] = f"no average: {gaps[0] if gaps else 'benchmarks have other seeds'}"
        return
    by_seed = {seed: fmean(ours.scores[row][benchmark][seed] for benchmark in benchmarks) for seed in next(iter(seeds))}
    ours.scores[row][AVERAGE] = by_seed
