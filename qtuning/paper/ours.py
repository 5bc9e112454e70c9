"""Our own scores as a source for claims: rows of the score store under the published names, paired by seed and item."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from qtuning.errors import UserError
from qtuning.paper.measured import Budget, Measured, Row, change
from qtuning.statistics.answers import World
from qtuning.statistics.interval import LABEL, Find, bounds
from qtuning.store.schema import SCHEMA
from qtuning.tables.options import variant
from qtuning.tables.summary import AVERAGE, Line

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
    samples the cells of a trained row could choose from. answers: by table and model, where the answers item by item
    are to be had."""

    scores: dict[Row, dict[str, dict[str, float]]] = field(default_factory=dict)
    holes: dict[tuple[Row, str], str] = field(default_factory=dict)
    offered: dict[Row, set[float | None]] = field(default_factory=dict)
    answers: dict[tuple[int | str, str], Find] = field(default_factory=dict)

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
        """A score or its change, with its 95% interval over seeds and items: that of `compare` or `score_intervals`.

        A relative change is that of the means. With one seed there is no interval, since nothing is known of how
        scores move from seed to seed.
        """
        mine = self.scores[row][benchmark]
        theirs = None if against is None else self.scores[against][benchmark]
        value = fmean(mine.values()) if theirs is None else change(how, fmean(mine.values()), fmean(theirs.values()))
        if theirs is not None and theirs.keys() != mine.keys():
            return Measured(value, None, None, "no interval: the two rows have other seeds")
        if len(mine) < 2:
            return Measured(value, None, None, f"no interval: {len(mine)} seed")
        found = self._bounds(how, row, benchmark, against)
        if isinstance(found, str):
            return Measured(value, None, None, f"no interval: {len(mine)} seeds, {found}")
        return Measured(value, *found, label=LABEL, rests_on=f"{len(mine)} seeds")

    def _bounds(self, how: str, row: Row, benchmark: str, against: Row | None) -> tuple[float, float] | str:
        """The interval of a figure, or why there is none."""
        if (row.table, row.model) not in self.answers:
            return "no answers item by item"
        try:
            world = self.answers[row.table, row.model]()
        except UserError as error:
            return f"no answers item by item ({error})"
        line, rival = _line(world, row), None if against is None else _line(world, against)
        if line is None or (against is not None and rival is None):
            return "no answers item by item"
        return bounds(how, world, line, benchmark, rival)


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
    frame: pl.DataFrame,
    table: int | str,
    model: str,
    train_set: str,
    benchmarks: Iterable[str] | None = None,
    answers: Find | None = None,
) -> Ours:
    """One model on one train set in one experiment (`frame`: its rows), labelled as rows of `table`.

    benchmarks: those that the average is taken over; None: all of the experiment's. answers: finds those that the
    intervals rest on; without it there are none. Only methods at their default options: a reading or another lambda
    is not what the paper reports.
    """
    ours = Ours() if answers is None else Ours(answers={(table, model): answers})
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
        whole.answers |= part.answers
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


def _line(world: World, row: Row) -> Line | None:
    """The line of a table that has this published name."""
    return next((line for line in world.lines if _row({"model": world.model} | vars(line), row.table) == row), None)


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
