"""The store's files of items, updates and points of the plane: from cell folders, and kept by cell."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cell_folders import ITEMS, METRICS, Folders
from damage import damages

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import cell_id, evaluation_id
from qtuning.files import write_json
from qtuning.store.collect import collect_localisation, thinned
from qtuning.store.schema import ITEM_SCHEMA, PLANE_SCHEMA, STEP_SCHEMA
from qtuning.store.store import Store, export_store, write_store
from qtuning.train.journal import TRACE_SCHEMA

FILES = ("scores", "cells", "items", "steps", "planes", "localisation")


def log(folders: Folders, cell: Cell, updates: int, **more: Any) -> None:
    """metrics.jsonl as training writes it; the loss of every third update is unknown."""
    lines = [
        {"update": u, "epoch": u // 50, "samples": 8, "samples_kept": u % 4, "tokens_kept": 10 * u}
        | {"response_tokens": 40, "loss": None if u % 3 == 0 else u / 7, "grad_norm": 1.5, "objective": 2.0}
        | {f"selection/{name}": value for name, value in more.items()}
        for u in range(updates)
    ]
    (folders.folder(cell) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def decide(folders: Folders, cell: Cell, rows: int, scored: bool = True) -> None:
    """trace.parquet as training writes it; every fifth row without scores."""
    rest = (30, 10, 1.0, 0.5, None, None, None)
    trace = [
        (n // 8, n // 4000, n, 1 + n / 3 if scored and n % 5 else None, n / 9, n % 5, n % 2 == 0, n % 4 == 0, *rest)
        for n in range(rows)
    ]
    pl.DataFrame(trace, schema=TRACE_SCHEMA, orient="row").write_parquet(folders.folder(cell) / "trace.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.parquet").read_bytes() for name in FILES}


def test_items_are_those_of_the_metrics_that_a_user_chooses_from(folders: Folders) -> None:
    cell = folders.find("q-tuning-25x50-s0")
    folders.answer(cell)
    write_store([folders.grid], folders.results)
    items = Store(folders.results).items
    assert dict(items.schema) == ITEM_SCHEMA
    assert items["cell"].unique().to_list() == [cell_id(cell)]
    assert items["evaluation"].unique().to_list() == [evaluation_id(folders.grid.evaluation)]
    for metric in ("headline", "nll"):
        mine = items.filter(
            pl.struct("benchmark", "metric").is_in(
                [
                    {"benchmark": name, "metric": METRICS[name][0] if metric == "headline" else metric}
                    for name in folders.grid.evaluation.benchmarks
                ]
            )
        )
        counts = dict(mine.group_by("benchmark").len().iter_rows())
        assert counts == {name: ITEMS[name] for name in folders.grid.evaluation.benchmarks}
    squad = items.filter(pl.col("benchmark") == "squad")
    assert set(squad["metric"]) == {"f1", "nll"}  # not exact_match
    assert squad.filter(pl.col("metric") == "nll")["score"].to_list() == [item / 7 for item in range(ITEMS["squad"])]
    squad = squad.filter(pl.col("metric") == "f1")
    assert squad["score"].to_list() == [float(item % 3 == 0) for item in range(ITEMS["squad"])]
    assert squad["cluster"].n_unique() == ITEMS["squad"] // 2
    assert squad["item_hash"].to_list()[7] == b"07squad".hex().ljust(64, "0")[:16]


def test_steps_are_means_over_bins(folders: Folders) -> None:
    long, short = folders.find("q-tuning-25x50-s0"), folders.find("q-tuning-25x50-s1")
    for cell in (long, short):
        folders.train(cell)
    log(folders, long, 130, level=0.25, q2_share=0.5)
    log(folders, short, 5)
    write_store([folders.grid], folders.results)
    steps = Store(folders.results).steps
    assert dict(steps.schema) == STEP_SCHEMA
    mine = steps.filter(pl.col("cell") == cell_id(long))
    # 130 updates in 64 bins: update u falls into bin floor(64 u / 130)
    bins: dict[int, list[int]] = {}
    for update in range(130):
        bins.setdefault(64 * update // 130, []).append(update)
    assert mine["update"].to_list() == [updates[0] for updates in bins.values()]
    assert mine["epoch"].to_list() == [updates[0] // 50 for updates in bins.values()]
    tokens = [sum(10 * u for u in updates) / len(updates) for updates in bins.values()]
    assert mine["tokens_kept"].to_list() == pytest.approx(tokens)
    losses = [[u / 7 for u in updates if u % 3] for updates in bins.values()]
    expected = [sum(values) / len(values) for values in losses]
    assert mine["loss"].to_list() == pytest.approx(expected, rel=1e-6)
    assert mine["level"].unique().to_list() == [0.25] and mine["q2_share"].unique().to_list() == [0.5]
    assert mine["median_q1"].null_count() == 64
    few = steps.filter(pl.col("cell") == cell_id(short))
    assert few["update"].to_list() == [0, 1, 2, 3, 4]
    assert few["loss"].to_list() == [None, pytest.approx(1 / 7), pytest.approx(2 / 7), None, pytest.approx(4 / 7)]


def test_planes_hold_scored_samples_evenly_thinned(folders: Folders) -> None:
    cell, unscored = folders.find("q-tuning-25x50-s0"), folders.find("random+random-25x50-s0")
    for each in (cell, unscored):
        folders.train(each)
    decide(folders, cell, 10_000)
    decide(folders, unscored, 100, scored=False)
    write_store([folders.grid], folders.results)
    planes = Store(folders.results).planes
    assert dict(planes.schema) == PLANE_SCHEMA
    assert planes["cell"].unique().to_list() == [cell_id(cell)]
    scored = [n for n in range(10_000) if n % 5]
    assert planes["sample"].to_list() == [scored[k * len(scored) // 3000] for k in range(3000)]
    assert planes["ppl"].to_list() == pytest.approx([1 + n / 3 for n in planes["sample"]], rel=1e-6)
    assert planes["kept"].to_list() == [n % 2 == 0 for n in planes["sample"]]


def test_thinning_leaves_short_tables_alone() -> None:
    table = pl.DataFrame({"n": range(10)})
    assert thinned(table, 10).equals(table)
    assert thinned(table, 4)["n"].to_list() == [0, 2, 5, 7]


def test_cells_tell_how_training_ended(folders: Folders) -> None:
    trained, failed, diverged = folders.grid.cells[1:4]
    folders.train(trained)
    folders.fail(failed, "failed", "disk full")
    folders.diverge(diverged, "nan")
    write_store([folders.grid], folders.results)
    rows = Store(folders.results).cells.select("cell", "status", "reason", "samples_kept").rows()
    assert rows[0] == (cell_id(folders.grid.cells[0]), "done", None, None)
    assert rows[1] == (cell_id(trained), "done", None, 1200)  # though it is not evaluated
    assert rows[2] == (cell_id(failed), "failed", "disk full", None)
    assert rows[3][1:3] == ("diverged", "nan")
    assert rows[4][1:3] == ("not run", "not trained yet")


def test_other_experiments_stay_and_the_order_does_not_matter(folders: Folders, make_folders: Any) -> None:
    other = make_folders(name="aaa", budgets=["25x50"], seeds=[0, 7])  # seed 0 at 25x50 is shared with mini
    for each in (folders, other):
        for cell in each.grid.cells:
            each.answer(cell)
            if not cell.zero_shot:
                log(each, cell, 30)
                decide(each, cell, 20)
    write_store([folders.grid, other.grid], folders.results)
    together = contents(folders.results)
    for name in FILES:
        (folders.results / f"{name}.parquet").unlink()
    write_store([folders.grid], folders.results)
    alone = contents(folders.results)
    write_store([other.grid], folders.results)
    assert contents(folders.results) == together
    write_store([folders.grid], folders.results)
    assert contents(folders.results) == together
    # exported apart, each experiment is what it was alone
    export_store(["mini"], folders.results, folders.results / "example")
    assert contents(folders.results / "example") == alone


def test_details_of_cells_that_are_gone_go(make_folders: Any) -> None:
    """An experiment whose cells have changed leaves nothing behind; a cell evaluated no more loses its items."""
    before, after = make_folders(seeds=[0, 1]), make_folders(seeds=[0])
    for cell in before.grid.cells:
        before.answer(cell)
        if not cell.zero_shot:
            log(before, cell, 3)
    write_store([before.grid], before.results)
    write_store([after.grid], before.results)
    store = Store(before.results)
    assert set(store.items["cell"]) == {cell_id(cell) for cell in after.grid.cells}
    assert set(store.steps["cell"]) == {cell_id(cell) for cell in after.grid.cells if not cell.zero_shot}
    (before.folder(after.grid.cells[0]) / evaluation_id(after.grid.evaluation) / "scores.json").unlink()
    write_store([after.grid], before.results)
    assert cell_id(after.grid.cells[0]) not in set(Store(before.results).items["cell"])


def test_an_experiment_without_evaluation_has_cells_but_no_scores(folders: Folders) -> None:
    grid = replace(folders.grid, experiment=folders.grid.experiment.model_copy(update={"evaluation": None}))
    cell = folders.find("q-tuning-25x50-s0")
    folders.train(cell)
    log(folders, cell, 4)
    decide(folders, cell, 10)
    write_store([grid], folders.results)
    store = Store(folders.results)
    assert store.scores.is_empty() and store.items.is_empty()
    assert store.cells["cell"].to_list() == [cell_id(each) for each in grid.cells]
    assert len(store.steps) == 4 and len(store.planes) == 8
    export_store(["mini"], folders.results, folders.results / "out")
    assert contents(folders.results / "out") == contents(folders.results)


def test_an_export_can_be_thinned(folders: Folders) -> None:
    cell = folders.find("q-tuning-25x50-s0")
    folders.train(cell)
    decide(folders, cell, 1000)
    write_store([folders.grid], folders.results)
    export_store(["mini"], folders.results, folders.results / "out", plane_rows=10)
    whole, few = Store(folders.results).planes, Store(folders.results / "out").planes
    assert few.equals(whole[[k * 80 for k in range(10)]])
    with pytest.raises(UserError, match=r"cells.parquet: experiment = 'minj': not collected"):
        export_store(["minj"], folders.results, folders.results / "out")
    for _ in damages(folders.results / "out/planes.parquet", 3):
        with pytest.raises(UserError, match=r"planes.parquet: damaged \(its digest differs\)"):
            _ = Store(folders.results / "out").planes


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"steps.parquet: no such file; collect the experiment first"):
        _ = Store(tmp_path).steps
    pl.DataFrame({"cell": ["a"]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(UserError, match=r"items.parquet: written by another version"):
        _ = Store(tmp_path).items


def test_a_store_reads_a_file_once(folders: Folders) -> None:
    write_store([folders.grid], folders.results)
    store = Store(folders.results)
    assert store.scores is store.scores


def test_answers_of_a_cell_become_rows_of_localisation(tmp_path: Path) -> None:
    found = {
        "ppl": {"auc": 0.9, "precision_at_planted": 0.4},
        "s": {"auc": 0.8, "precision_at_planted": 0.5},
        "pruned": {"tokens": 10, "wrong": 2, "pruned": 4, "precision": 0.25, "recall": 0.5},
        "pruned_in_kept": {"tokens": 8, "wrong": 1, "pruned": 2, "precision": 0.5, "recall": 1.0},
        "kept_samples": {"with_error": 0.25, "without": 0.75},
    }
    answer = {"cell": "x", "lambda": 0.3, "base": found, "trained": None}
    write_json(tmp_path / "cells/x/localisation.json", answer)
    assert collect_localisation(["y", "x"], tmp_path).rows() == [
        ("x", "base", "token perplexity", 0.4, 0.4, 0.9, None, 0.3),
        ("x", "base", "smoothed score", 0.5, 0.5, 0.8, None, 0.3),
        ("x", "base", "pruned tokens", 0.25, 0.5, None, 0.4, 0.3),
        ("x", "base", "pruned tokens of kept samples", 0.5, 1.0, None, 0.25, 0.3),
        ("x", "base", "kept samples with an error", None, None, None, 0.25, 0.3),
        ("x", "base", "kept samples without", None, None, None, 0.75, 0.3),
    ]
