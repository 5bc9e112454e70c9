"""Which comparisons are primary, by which metric; where methods lie between the controls; clusters of items."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from cell_folders import Folders
from test_compare import N, answer, collected, evaluation, of

from qtuning.experiment.metrics import MetricName
from qtuning.statistics.compare import compare
from qtuning.statistics.position import controls_apart
from qtuning.statistics.summary import Summary, summarise
from qtuning.store.store import Store

CONTROLS = ["random+random", "oracle", "adversary", "q-tuning", "ppl-low+random"]
KNOWS = {"oracle": 0.8, "random+random": 0.5, "adversary": 0.1, "q-tuning": 0.7, "ppl-low+random": 0.3}


def finished(make_folders: Callable[..., Folders], knows: dict[str, float], **changes: Any) -> Store:
    given = {"budgets": ["25x50"], "seeds": [0, 1, 2], "evaluation": evaluation(), "methods": list(knows)}
    folders = make_folders(**given | changes)
    for cell in folders.grid.cells:
        answer(folders, cell, knows.get("" if cell.pruning is None else cell.pruning.method, 0.05), flip=2)
    return collected(folders)


def compared(store: Store, metric: MetricName = "headline") -> tuple[pl.DataFrame, Summary]:
    summary = summarise(store.experiment("mini"), metric)
    return compare(summary, store.items), summary


def with_errors(store: Store) -> Store:
    """The same answers, with their share of errors as an NLL."""
    headline = pl.col("headline")
    scores = store.scores.with_columns(metric=pl.lit("nll"), headline=pl.lit(False), score=1 - pl.col("score") / 100)
    scores = pl.concat([store.scores, scores.filter(store.scores["headline"])])
    items = pl.concat([store.items, store.items.with_columns(metric=pl.lit("nll"), score=1 - pl.col("score"))])
    changed = Store(store.folder)
    vars(changed).update(scores=scores.sort("cell", ~headline, maintain_order=True), items=items)
    return changed


def test_the_default_leaves_out_controls_and_pairs(make_folders: Callable[..., Folders]) -> None:
    table, _ = compared(finished(make_folders, KNOWS))
    primary = table.filter(pl.col("family") == "primary").to_dicts()
    assert [(row["method"], row["against"], row["benchmark"]) for row in primary] == [
        ("q-tuning", "random+random", "avg")
    ]
    # without a method of its own name, every pair counts, and controls still do not
    others = {name: share for name, share in KNOWS.items() if name != "q-tuning"}
    table, _ = compared(finished(make_folders, others))
    assert table.filter(pl.col("family") == "primary")["method"].to_list() == ["ppl-low+random"]


def test_pairs_that_an_experiment_names(make_folders: Callable[..., Folders]) -> None:
    pairs = [["q-tuning", "ppl-low+random"], ["ppl-low+random", "zero-shot"]]
    table, _ = compared(finished(make_folders, KNOWS, primary={"comparisons": pairs}))
    primary = table.filter(pl.col("family") == "primary")
    assert [(row["method"], row["against"]) for row in primary.to_dicts()] == [
        ("ppl-low+random", "zero-shot"),
        ("q-tuning", "ppl-low+random"),
    ]
    assert table.head(2).equals(primary)
    ours = of(primary, method="q-tuning")
    ordered = primary.sort("p")
    assert ordered["p_adjusted"][0] == pytest.approx(2 * ordered["p"][0])
    assert ordered["p_adjusted"][1] == pytest.approx(max(2 * ordered["p"][0], ordered["p"][1]))
    assert ours["mark"] == "*" and ours["difference"] == pytest.approx(40, abs=10)
    assert of(primary, against="zero-shot")["mark"] == "§"
    assert of(table, method="q-tuning", against="random+random", benchmark="avg")["family"] == "exploratory"


def test_one_metric_is_primary_and_less_may_be_better(make_folders: Callable[..., Folders]) -> None:
    store = with_errors(finished(make_folders, KNOWS, primary={"metric": "nll"}))
    (by_score, _), (by_error, summary) = compared(store), compared(store, "nll")
    assert (by_score["family"] == "exploratory").sum() == by_score["family"].is_not_null().sum()
    first = by_error.row(0, named=True)
    assert (first["family"], first["metric"], first["method"]) == ("primary", "nll", "q-tuning")
    assert first["difference"] < 0 and first["better"] and first["mark"] == "†"
    same = ["method", "benchmark", "against"]
    both = by_score.join(by_error, on=same, suffix="_nll").drop_nulls("difference")
    assert len(both) > 20
    assert both["difference"].to_numpy() == pytest.approx(-100 * both["difference_nll"].to_numpy())
    assert both["better"].to_list() == both["better_nll"].to_list()
    assert both["p"].to_numpy() == pytest.approx(both["p_nll"].to_numpy(), rel=1e-6)
    # a position is a ratio: unit and direction cancel
    known = both.drop_nulls("position")
    assert len(known) == 3 * 3
    assert known["position"].to_numpy() == pytest.approx(known["position_nll"].to_numpy())
    assert all(controls.apart for controls in controls_apart(summary, by_error))


def test_methods_lie_between_the_controls(make_folders: Callable[..., Folders]) -> None:
    table, summary = compared(finished(make_folders, KNOWS))
    rows = table.filter((pl.col("against") == "random+random") & (pl.col("benchmark") == "avg"))
    gap = of(rows, method="oracle")["difference"]
    for method, words in (("q-tuning", None), ("ppl-low+random", "of the way from random pruning to the adversary")):
        row = of(rows, method=method)
        assert row["position"] == pytest.approx(row["difference"] / gap)
        assert row["position_low"] < row["position"] < row["position_high"]
        assert row["position_note"] is None if words is None else words in row["position_note"]
    below, adversary = of(rows, method="ppl-low+random"), of(rows, method="adversary")
    share = 100 * below["difference"] / adversary["difference"]
    assert below["position_note"].startswith(f"{share:.0f}% of the way")
    assert of(rows, method="oracle")["position"] is None and adversary["position_note"] is None
    assert table.filter(pl.col("against") != "random+random")["position"].is_null().all()

    (controls,) = controls_apart(summary, table)
    assert controls.apart and controls.columns["sample_ratio"] == 0.25
    assert controls.oracle.difference == pytest.approx(gap)
    assert controls.adversary.difference == pytest.approx(-adversary["difference"])
    error = np.hypot(adversary["seed_sd"] / np.sqrt(3), adversary["item_se"])
    assert controls.adversary.errors == pytest.approx(-adversary["difference"] / error)


def test_controls_that_are_not_apart_are_no_scale(make_folders: Callable[..., Folders]) -> None:
    same = dict.fromkeys(KNOWS, 0.5) | {"adversary": 0.1}
    table, summary = compared(finished(make_folders, same))
    row = of(table, method="q-tuning", against="random+random", benchmark="avg")
    assert row["position"] is None
    assert row["position_note"] == "no position: the oracle is not shown to be better than random pruning here"
    (controls,) = controls_apart(summary, table)
    assert not controls.apart and not controls.oracle.significant and controls.adversary.significant
    # an oracle that is worse is no scale either
    table, summary = compared(finished(make_folders, KNOWS | {"oracle": 0.1}))
    assert of(table, method="q-tuning", against="random+random", benchmark="avg")["position"] is None
    assert not controls_apart(summary, table)[0].oracle.significant


def test_items_of_a_cluster_count_once(make_folders: Callable[..., Folders]) -> None:
    store = finished(make_folders, {"random+random": 0.4, "q-tuning": 0.6})
    alone = of(compared(store)[0], benchmark="gsm8k", against="random+random")
    clustered = Store(store.folder)
    vars(clustered)["items"] = store.items.with_columns(cluster=(pl.col("item") // 4).cast(pl.String))
    row = of(compared(clustered)[0], benchmark="gsm8k", against="random+random")
    assert (alone["n_items"], alone["n_clusters"], row["n_items"], row["n_clusters"]) == (N["gsm8k"],) * 3 + (10,)
    assert row["difference"] == alone["difference"] and row["item_se"] > alone["item_se"]
    vars(clustered)["items"] = store.items.with_columns(cluster=pl.lit("one"))
    row = of(compared(clustered)[0], benchmark="gsm8k", against="random+random")
    assert row["note"] == "gsm8k has fewer than 2 items that are independent"


def test_two_seeds_come_with_a_warning(make_folders: Callable[..., Folders]) -> None:
    notes = {
        seeds: compared(finished(make_folders, {"random+random": 0.4, "q-tuning": 0.6}, seeds=list(range(seeds))))[0][
            "note"
        ][0]
        for seeds in (2, 3)
    }
    assert notes[2].startswith("two seeds: most of what is known") and notes[3] is None
