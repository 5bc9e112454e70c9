"""A store's comparisons: rows against hand calculation, holes, families and marks."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from cell_folders import METRICS, Folders, of_store
from scipy.stats import t

from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import evaluation_id
from qtuning.statistics.compare import (
    COMPARISON_SCHEMA,
    INTERVAL_SCHEMA,
    compare,
    score_intervals,
)
from qtuning.store.store import Store, write_store
from qtuning.tables.scores import read_significance

BENCHMARKS = ("gsm8k", "squad")
N = {"gsm8k": 40, "squad": 25}


def evaluation(*benchmarks: str) -> dict[str, Any]:
    return {"benchmarks": list(benchmarks or BENCHMARKS), "source": "mini-world", "batch_size": 64, "max_length": 256}


def answer(folders: Folders, cell: Cell, ability: float, flip: int = 0, items: dict[str, int] | None = None) -> None:
    """Finish a cell: it knows the share `ability` of the items, the same easy ones but for `flip` random ones."""
    folders.finish(cell)
    rng = np.random.default_rng(list(folders.folder(cell).name.encode()))
    rows: list[tuple[Any, ...]] = []
    for benchmark in folders.grid.evaluation.benchmarks:
        n = (items or N)[benchmark]
        right = np.arange(n) < round(ability * n)
        for place in rng.choice(n, flip, replace=False):
            right[place] = ~right[place]
        for item in range(n):
            rows += [
                (benchmark, item, f"{item:064d}", f"{item:016d}", metric, float(right[item]) / (place + 1))
                for place, metric in enumerate(METRICS[benchmark])
            ]
    frame = pl.DataFrame(rows, schema=["benchmark", "item", "item_hash", "cluster", "metric", "score"], orient="row")
    frame.with_columns(response=pl.lit("")).write_parquet(
        folders.folder(cell) / evaluation_id(folders.grid.evaluation) / "items.parquet"
    )


def collected(folders: Folders) -> Store:
    write_store([folders.grid], folders.results)
    return Store(folders.results)


def answers(store: Store, slug: str, benchmark: str) -> list[list[float]]:
    """[seed][item], per cent, of the cells whose name contains `slug`."""
    rows = store.items.filter(pl.col("cell").str.contains(slug, literal=True) & (pl.col("benchmark") == benchmark))
    cells = sorted(rows["cell"].unique(), key=lambda cell: cell.split("-s")[-1])
    return [[100 * s for s in rows.filter(pl.col("cell") == c).sort("item")["score"]] for c in cells]


def of(table: pl.DataFrame, **wanted: Any) -> dict[str, Any]:
    (row,) = table.filter(*(pl.col(name) == value for name, value in wanted.items())).to_dicts()
    return row


def test_two_lines_are_compared_as_by_hand(make_folders: Callable[..., Folders]) -> None:
    folders = make_folders(
        budgets=["25x50"], seeds=[0, 1, 2], evaluation=evaluation(), methods=["random+random", "q-tuning"]
    )
    for cell in folders.grid.cells:
        answer(folders, cell, 0.4 if "random" in folders.folder(cell).name else 0.6, flip=8)
    store = collected(folders)
    table = of_store(compare, store, "mini")
    assert dict(table.schema) == COMPARISON_SCHEMA
    means: list[list[float]] = []
    over_items, least = [], 0.0
    for benchmark in BENCHMARKS:
        ours, theirs = (answers(store, slug, benchmark) for slug in ("q-tuning", "random"))
        paired = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(ours, theirs, strict=True)]
        n = N[benchmark]
        means.append([sum(row) / n for row in paired])
        by_item = [sum(row[i] for row in paired) / 3 for i in range(n)]
        grand = sum(by_item) / n
        of_items = 3 * sum((value - grand) ** 2 for value in by_item) / (n - 1)
        rest = sum((paired[s][i] - means[-1][s] - by_item[i] + grand) ** 2 for s in range(3) for i in range(n)) / (
            2 * (n - 1)
        )
        over_items.append(max(of_items - rest, 0) / (3 * n))
        least += rest / n / 4
        of_seeds = max(float(np.var(means[-1], ddof=1)), rest / n)
        half = math.sqrt(t.isf(0.025, 2) ** 2 * of_seeds / 3 + t.isf(0.025, n - 1) ** 2 * over_items[-1])
        row = of(table, benchmark=benchmark, against="random+random")
        assert row["difference"] == pytest.approx(grand)
        assert (row["low"], row["high"]) == pytest.approx((grand - half, grand + half))
        assert (row["n_seeds"], row["n_items"], row["seed_df"]) == (3, n, 2)
        assert row["seed_sd"] == pytest.approx(math.sqrt(of_seeds))
        assert row["item_se"] == pytest.approx(math.sqrt(over_items[-1]))
        assert (row["family"], row["metric"], row["n_clusters"]) == ("exploratory", "headline", n)
    average = [(a + b) / 2 for a, b in zip(*means, strict=True)]
    row = of(table, benchmark="avg", against="random+random")
    assert row["difference"] == pytest.approx(sum(average) / 3)
    assert row["seed_sd"] == pytest.approx(math.sqrt(max(float(np.var(average, ddof=1)), least)))
    assert row["item_se"] == pytest.approx(math.sqrt(sum(over_items)) / 2)
    assert row["n_items"] == 65
    assert table.row(0, named=True) == row and row["better"]
    assert (row["family"], row["p_adjusted"]) == ("primary", row["p"])  # a family of one
    missing = of(table, benchmark="avg", against="full", method="q-tuning")
    assert missing["note"] == "full is not part of this experiment"
    assert missing["difference"] is None and missing["significant"] is None


def step_up(p: list[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted values of sorted p values, one by one."""
    return [min(1.0, *(p[j] * len(p) / (j + 1) for j in range(i, len(p)))) for i in range(len(p))]


def test_marks_follow_from_families(make_folders: Callable[..., Folders]) -> None:
    methods = ["full", "random+random", "q-tuning", "ppl-high+random", "random+ppl"]
    folders = make_folders(budgets=["25x50"], seeds=[0, 1, 2], evaluation=evaluation(), methods=methods)
    for cell in folders.grid.cells:
        name = folders.folder(cell).name
        answer(folders, cell, 0.8 if "q-tuning" in name else 0.7 if "full" in name else 0.3, flip=2)
    table = of_store(compare, collected(folders), "mini")
    averages = table.filter(pl.col("benchmark") == "avg")
    # q-tuning has a name of its own, the pairs have not
    assert table.filter(pl.col("family") == "primary")["method"].to_list() == ["q-tuning"]
    others = table.filter(pl.col("family") == "exploratory").sort("p").to_dicts()
    assert len(others) == len(table) - 1
    assert [row["p_adjusted"] for row in others] == pytest.approx(step_up([row["p"] for row in others]))
    assert [row["significant"] for row in others] == [row["p_adjusted"] < 0.05 for row in others]
    assert of(averages, method="q-tuning", against="random+random")["mark"] == "†"
    found = {key[2]: mark for key, mark in read_significance(table, "mini").symbols.items()}
    assert found["q-tuning"].startswith("†")
    assert found["random+random"] == "(‡)"
    assert of(averages, method="random+ppl", against="random+random")["mark"] is None
    assert table.equals(of_store(compare, collected(folders), "mini"))


@pytest.mark.parametrize("full", [False, True])
def test_the_untrained_model_is_compared_at_every_seed(full: bool, make_folders: Callable[..., Folders]) -> None:
    """A line alone with the model without training: a one-sample comparison over seeds, crossed with paired items."""
    methods = ["q-tuning", "full"] if full else ["q-tuning"]
    folders = make_folders(budgets=["25x50"], seeds=[0, 1, 2], evaluation=evaluation(), methods=methods)
    for cell in folders.grid.cells:
        answer(folders, cell, 0.2 if cell.zero_shot else 0.8, flip=3)
    store = collected(folders)
    table = of_store(compare, store, "mini").filter(pl.col("against") == "zero-shot")
    assert set(table["method"]) == {"q-tuning"} and len(table) == 3
    over_items, least, means = [], 0.0, []
    for benchmark in BENCHMARKS:
        (fixed,) = answers(store, "zero-shot", benchmark)
        paired = [[a - b for a, b in zip(row, fixed, strict=True)] for row in answers(store, "q-tuning", benchmark)]
        n = N[benchmark]
        means.append([sum(row) / n for row in paired])
        by_item = [sum(row[i] for row in paired) / 3 for i in range(n)]
        grand = sum(by_item) / n
        of_items = 3 * sum((value - grand) ** 2 for value in by_item) / (n - 1)
        rest = sum((paired[s][i] - means[-1][s] - by_item[i] + grand) ** 2 for s in range(3) for i in range(n)) / (
            2 * (n - 1)
        )
        over_items.append(max(of_items - rest, 0) / (3 * n))
        least += rest / n / 4
    average = [(a + b) / 2 for a, b in zip(*means, strict=True)]
    of_seeds, of_items = max(float(np.var(average, ddof=1)), least), sum(over_items) / 4
    freedom = of_items**2 / sum((v / 4) ** 2 / (N[b] - 1) for v, b in zip(over_items, BENCHMARKS, strict=True))
    half = math.sqrt(t.isf(0.025, 2) ** 2 * of_seeds / 3 + t.isf(0.025, freedom) ** 2 * of_items)
    row = of(table, benchmark="avg")
    if not full:  # with full data beside it, the line's seed variance is borrowed from there, too
        assert row["difference"] == pytest.approx(sum(average) / 3)
        assert (row["low"], row["high"]) == pytest.approx((row["difference"] - half, row["difference"] + half))
        assert (row["seed_sd"], row["seed_df"]) == (pytest.approx(math.sqrt(of_seeds)), 2)
        assert row["item_se"] == pytest.approx(math.sqrt(of_items))
    assert (row["n_seeds"], row["n_items"], row["family"], row["significant"]) == (3, 65, "exploratory", True)
    # only where there is no full data does the table show it
    assert row["mark"] == (None if full else "(§)")
    marks = read_significance(of_store(compare, store, "mini"), "mini")
    assert ("§" in "".join(marks.symbols.values())) is not full
    assert any("§ from the model" in text for text in marks.legend) is not full


def test_other_items_than_those_of_the_untrained_model_are_not_paired(make_folders: Callable[..., Folders]) -> None:
    folders = make_folders(budgets=["25x50"], seeds=[0, 1], evaluation=evaluation(), methods=["q-tuning"])
    for cell in folders.grid.cells:
        answer(folders, cell, 0.5, flip=3, items=N if cell.zero_shot else {"gsm8k": 39, "squad": 25})
    table = of_store(compare, collected(folders), "mini").filter(pl.col("against") == "zero-shot")
    assert of(table, benchmark="gsm8k")["note"] == "zero-shot answered other items of gsm8k"
    assert of(table, benchmark="squad")["difference"] is not None
    bare = make_folders(zero_shot=False, budgets=["25x50"], seeds=[0], evaluation=evaluation(), methods=["q-tuning"])
    assert set(of_store(compare, collected(bare), "mini")["against"]) == {"random+random", "full"}


def test_holes_keep_their_reason_and_their_place_in_the_family(folders: Folders) -> None:
    grid = folders.grid
    items = dict.fromkeys(grid.evaluation.benchmarks, 30)
    for cell in grid.cells:
        answer(folders, cell, 0.5, flip=6, items=items)
    failed, silent = folders.find("q-tuning-25x50-s1"), folders.find("random+random-50x70-s0")
    for name in ("train.json", f"{evaluation_id(grid.evaluation)}/scores.json"):
        (folders.folder(failed) / name).unlink()
    folders.fail(failed, "failed", "disk full")
    (folders.folder(silent) / evaluation_id(grid.evaluation) / "items.parquet").unlink()
    everything = of_store(compare, collected(folders), "mini")
    table = everything.filter(pl.col("benchmark") == "avg")
    lost = of(table, method="q-tuning", sample_ratio=0.25, against="random+random")
    assert lost["difference"] is None and lost["p_adjusted"] is None and lost["note"] == "seed 1 failed: disk full"
    other = of(table, method="q-tuning", sample_ratio=0.5, against="random+random")
    assert other["note"].startswith("nothing to compare with: random+random: the store has no items of arc_easy")
    against_full = of(table, method="q-tuning", sample_ratio=0.5, against="full")
    assert against_full["difference"] is not None
    # 4 comparisons with the full data were planned, 2 could be made
    assert table.filter((pl.col("against") == "full") & pl.col("p").is_not_null()).height == 2
    # planned: 4 lines with full data and with no training, 2 with random pruning, on 7 benchmarks and the average; of
    # these 2 are primary. The others are one family (Benjamini and Hochberg) in which a hole is a p of 1.
    family = everything.filter(pl.col("family") == "exploratory").sort("p", nulls_last=True)
    p, adjusted = family["p"].fill_null(1.0).to_list(), family["p_adjusted"].to_list()
    assert len(p) == 10 * 8 - 2 and p[0] < 0.2
    for place, found in enumerate(adjusted):
        by_hand = min(min(1, len(p) * p[j] / (j + 1)) for j in range(place, len(p)))
        assert found is None if family["p"][place] is None else found == pytest.approx(by_hand)
    intervals = of_store(score_intervals, Store(folders.results), "mini").filter(pl.col("benchmark") == "avg")
    assert of(intervals, method="q-tuning", sample_ratio=0.25)["note"] == "seed 1 failed: disk full"


def test_one_seed_says_what_it_does_not_know(make_folders: Callable[..., Folders]) -> None:
    folders = make_folders(seeds=[0], evaluation=evaluation())
    for cell in folders.grid.cells:
        answer(folders, cell, 0.9 if "q-tuning" in folders.folder(cell).name else 0.2, flip=3)
    store = collected(folders)
    table = of_store(compare, store, "mini")
    rows = table.filter(pl.col("method") == "q-tuning").to_dicts()
    assert len(rows) == 18  # 2 budgets, 2 benchmarks and their average, 3 references
    for row in rows:
        assert row["n_seeds"] == 1 and row["seed_sd"] is None
        assert row["note"].startswith("one seed: how scores move from seed to seed is unknown")
        assert row["significant"] is None and row["mark"] is None  # however small p is
    assert min(row["p"] for row in rows) < 1e-6
    assert read_significance(table, "mini").symbols == {}


def test_scores_have_intervals_of_their_own(make_folders: Callable[..., Folders]) -> None:
    folders = make_folders(budgets=["25x50"], seeds=[0, 1, 2], evaluation=evaluation("gsm8k"), methods=["full"])
    for cell in folders.grid.cells:
        answer(folders, cell, 0.95, flip=4)
    store = collected(folders)
    table = of_store(score_intervals, store, "mini")
    assert dict(table.schema) == INTERVAL_SCHEMA
    (untrained,) = answers(store, "zero-shot", "gsm8k")
    row = of(table, method="zero-shot")
    half = t.isf(0.025, 39) * np.std(untrained, ddof=1) / math.sqrt(40)
    assert (row["score"], row["low"]) == pytest.approx((np.mean(untrained), np.mean(untrained) - half))
    assert row["n_seeds"] == 0 and row["note"].startswith("not trained")
    trained = np.array(answers(store, "full", "gsm8k"))
    row = of(table, method="full")
    assert row["score"] == pytest.approx(trained.mean())
    assert 0 < row["low"] < row["score"] < row["high"] <= 100
    assert row["seed_sd"] >= trained.mean(axis=1).std(ddof=1) - 1e-9
    # without an average, the only benchmark is the family's
    assert table["benchmark"].unique().to_list() == ["gsm8k"]


def test_lines_of_one_budget_lend_each_other_their_seed_variance(make_folders: Callable[..., Folders]) -> None:
    samples, tokens = ("random", "ppl-high", "entropy"), ("random", "ppl")
    methods = [f"{sample}+{token}" for sample in samples for token in tokens]
    folders = make_folders(budgets=["25x50"], seeds=[0, 1], evaluation=evaluation(), methods=methods)
    for cell in folders.grid.cells:
        answer(folders, cell, 0.5, flip=10)
    table = of_store(compare, collected(folders), "mini").filter(pl.col("against") == "random+random")
    assert (table["seed_df"] > 1).all() and (table["seed_df"] <= 5).all()  # (6 - 1)(2 - 1)
