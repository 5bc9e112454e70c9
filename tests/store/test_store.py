"""Cell folders -> the score table: every row, every hole, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import polars as pl
import pytest
from cell_folders import CONFIGS, ITEMS, METRICS, Folders

from qtuning.errors import UserError
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import cell_id, evaluation_id
from qtuning.files import read_json, write_text
from qtuning.store.collect import collect
from qtuning.store.fresh import MARKER
from qtuning.store.schema import COST_COLUMNS, SCHEMA
from qtuning.store.store import Store, write_store


def test_finished_cell_has_a_row_for_every_metric(folders: Folders) -> None:
    cell = folders.find("q-tuning-25x50-s0")
    folders.finish(cell, lambda benchmark: 0.375)
    table = collect([folders.grid], folders.results)[0]
    assert dict(table.schema) == SCHEMA
    rows = table.filter(pl.col("cell") == cell_id(cell))
    assert [(r["benchmark"], r["metric"]) for r in rows.to_dicts()] == [
        (benchmark, metric) for benchmark in folders.grid.evaluation.benchmarks for metric in METRICS[benchmark]
    ]
    (row,) = rows.filter((pl.col("benchmark") == "gsm8k") & pl.col("headline")).to_dicts()
    expected = {
        "experiment": "mini",
        "title": "Mini world, full fine-tuning",
        "model": "mini",
        "model_label": "Mini",
        "train_set": "mini",
        "method": "q-tuning",
        "sample_pruner": "q-tuning",
        "token_pruner": "q-tuning",
        "sample_ratio": 0.25,
        "token_ratio": 0.5,
        "seed": "0",
        "seed_data": 0,
        "metric": "exact_match,flexible-extract",
        "score": 37.5,
        "items": ITEMS["gsm8k"],
        "status": "done",
        "reason": None,
        "evaluation": evaluation_id(folders.grid.evaluation),
        "updates": 150,
        "samples_kept": 300,
        "tokens_kept": 5000,
        "flops_total": 1e10 * 1200 + 3.6e13 * 0.25,
    }
    assert {key: row[key] for key in expected} == expected
    options = json.loads(row["options"])
    assert options["token"]["lambda"] == 0.5 and options["sample"]["thresholds"] == "two-tails"
    assert options["method"] == {
        "passes": "once",
        "pruned_tokens": "mask",
        "selection": "device",
        "updates": "as-defined",
    }
    assert json.loads(row["versions"]) == {
        "git": "abc1234",
        "qtuning": "0.1.0",
        "torch": "2.13.0",
        "transformers": "5.23.0",
    }
    strict = rows.filter(pl.col("metric") == "exact_match,strict-match").to_dicts()[0]
    assert (strict["score"], strict["headline"]) == (18.75, False)


def test_zero_shot_has_neither_seed_nor_cost(folders: Folders) -> None:
    folders.finish(folders.find("zero-shot"))
    row = collect([folders.grid], folders.results)[0].filter(pl.col("status") == "done").to_dicts()[0]
    assert row["method"] == "zero-shot"
    nothing = ("train_set", "sample_pruner", "token_pruner", "sample_ratio", "seed", "options", "updates", "versions")
    assert [row[key] for key in nothing] == [None] * len(nothing)


def test_every_hole_says_why(folders: Folders) -> None:
    trained, failed, diverged, repeated, partial, stale = folders.grid.cells[1:7]
    folders.train(trained)
    folders.fail(failed, "failed", "OutOfMemoryError: CUDA out of memory")
    folders.diverge(diverged, "the loss is nan at update 12")
    folders.fail(repeated, "failed", "disk full")
    folders.finish(repeated)
    folders.train(partial)
    folders.evaluate(partial, change=lambda scores: scores["benchmarks"].pop("math"))
    folders.diverge(stale, "nan")
    folders.train(stale)  # trained again with success; its evaluation is that of the first time
    rows = collect([folders.grid], folders.results)[0].filter(pl.col("headline") & (pl.col("benchmark") == "math"))
    found = {row["cell"]: (row["status"], row["reason"]) for row in rows.to_dicts()}
    assert len(found) == len(folders.grid.cells)
    assert found[cell_id(trained)] == ("not run", "trained, not evaluated yet")
    assert found[cell_id(failed)] == ("failed", "OutOfMemoryError: CUDA out of memory")
    assert found[cell_id(diverged)] == ("diverged", "the loss is nan at update 12")
    assert found[cell_id(repeated)] == ("done", None)
    assert found[cell_id(partial)] == ("not run", "the evaluation has no score of this benchmark")
    assert found[cell_id(stale)] == ("not run", "evaluation skipped: training diverged: nan")
    assert found[cell_id(folders.grid.cells[0])] == ("not run", "not evaluated yet")
    assert found[cell_id(folders.grid.cells[7])] == ("not run", "not trained yet")
    assert rows.filter(pl.col("status") != "done")["score"].null_count() == len(found) - 1


@pytest.mark.parametrize(
    ("aspect", "change"),
    [
        ("backend lm_eval", lambda s: s["backend"].update(lm_eval="0.4.12")),
        ("backend name", lambda s: s["backend"].update(name="vllm")),
        ("backend device", lambda s: s["backend"].pop("device")),
        ("evaluation batch_size", lambda s: s["evaluation"].update(batch_size=1)),
        ("evaluation dtype", lambda s: s["evaluation"].update(dtype="bfloat16")),
        ("digest of the squad items", lambda s: s["benchmarks"]["squad"].update(digest="0" * 64)),
        ("number of squad items", lambda s: s["benchmarks"]["squad"].update(items=9)),
        ("headline metric of squad", lambda s: s["benchmarks"]["squad"].update(headline="exact_match")),
    ],
)
def test_mixed_evaluations_are_refused(aspect: str, change: Callable[[dict[str, Any]], None], folders: Folders) -> None:
    for cell in folders.grid.cells[:-1]:
        folders.finish(cell)
    odd = folders.grid.cells[-1]
    folders.train(odd)
    folders.evaluate(odd, change=change)
    with pytest.raises(UserError) as caught:
        collect([folders.grid], folders.results)
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"experiment mini: {aspect} differs between cells")
    assert cell_id(odd) in message  # the odd one by name, the others by example
    assert cell_id(folders.grid.cells[0]) in message
    assert "and 7 more" in message


def test_mixing_between_experiments_is_none_of_our_business(folders: Folders, make_folders: Any) -> None:
    other = make_folders(name="other", evaluation={"benchmarks": ["gsm8k"], "batch_size": 2, "source": "mini-world"})
    for cell in folders.grid.cells:
        folders.finish(cell)
    for cell in other.grid.cells:
        other.evaluate(cell, change=lambda s: s["backend"].update(batch_size=2))
    table = collect([folders.grid, other.grid], folders.results)[0]
    assert table["status"].unique().to_list() == ["done"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train.json", "{", "train.json: damaged (Expecting property name"),
        ("train.json", '{"status": "done"}', "train.json: cost: required"),
        ("failed.json", '{"status": "odd", "reason": ""}', "failed.json: status = 'odd'"),
    ],
)
def test_malformed_files_are_named(file: str, text: str, message: str, folders: Folders) -> None:
    write_text(folders.folder(folders.grid.cells[1]) / file, text)
    with pytest.raises(UserError, match=r"results/cells/mini-mini-full-s0.*") as caught:
        collect([folders.grid], folders.results)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["benchmarks"]["squad"]["metrics"].update(f1=81.2), "benchmarks.squad.metrics.f1 = 81.2"),
        (lambda s: s["benchmarks"]["squad"].update(headline="F1"), "headline = 'F1': not among its metrics"),
        (lambda s: s.update(cell="mini-zero-shot-0"), "cell = 'mini-zero-shot-0': belongs to another folder"),
        (lambda s: s.update(evaluation_id="evaluation-0"), "evaluation_id = 'evaluation-0': belongs to another"),
    ],
)
def test_malformed_scores_are_named(change: Callable[[dict[str, Any]], None], message: str, folders: Folders) -> None:
    path = folders.evaluate(folders.grid.cells[0], change=change)
    with pytest.raises(UserError) as caught:
        collect([folders.grid], folders.results)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_seeds_of_the_axes_tell_cells_apart(make_folders: Callable[..., Folders]) -> None:
    folders = make_folders(seeds=[0, {"data": 0, "pruner": 1, "init": 2}])
    rows = collect([folders.grid], folders.results)[0]
    assert set(rows["seed"].drop_nulls()) == {"0", "data0-pruner1-init2"}


def test_writing_keeps_other_experiments_and_is_reproducible(folders: Folders, make_folders: Any) -> None:
    other = make_folders(name="aaa")
    for cell in folders.grid.cells:
        folders.finish(cell)
    path = folders.results / "scores.parquet"
    write_store([folders.grid], folders.results)
    write_store([other.grid], folders.results)
    first = path.read_bytes()
    assert pl.read_parquet(path)["experiment"].unique(maintain_order=True).to_list() == ["aaa", "mini"]
    (folders.results / MARKER).unlink()
    write_store([folders.grid], folders.results)  # in another order, again
    assert path.read_bytes() == first
    folders.fail(folders.grid.cells[1], "failed", "x")
    (folders.folder(folders.grid.cells[1]) / "train.json").unlink()
    (folders.folder(folders.grid.cells[1]) / evaluation_id(folders.grid.evaluation) / "scores.json").unlink()
    write_store([folders.grid], folders.results)
    table = pl.read_parquet(path)
    assert set(table.filter(pl.col("status") == "failed")["experiment"]) == {"mini"}


def test_table_of_another_version_is_replaced(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    folders.results.mkdir()
    pl.DataFrame({"experiment": ["old"]}).write_parquet(folders.results / "scores.parquet")
    write_store([folders.grid], folders.results)
    assert "written by another version" in capsys.readouterr().err
    assert set(pl.read_parquet(folders.results / "scores.parquet")["experiment"]) == {"mini"}


def test_reading_an_experiment_that_was_not_collected(folders: Folders) -> None:
    with pytest.raises(UserError, match=r"scores.parquet: no such file"):
        Store(folders.results).experiment("mini")
    write_store([folders.grid], folders.results)
    with pytest.raises(UserError, match=r"experiment = 'table9': no rows \(collected: mini\)"):
        Store(folders.results).experiment("table9")


def test_cells_of_the_shipped_experiments_are_all_accounted_for(folders: Folders) -> None:
    """No experiment of the project makes collecting stumble before anything has run."""
    library = ConfigFolder(CONFIGS)
    grids = library.expand(library.names("experiments"))
    table = collect(grids, folders.results)[0]
    evaluated = [grid for grid in grids if grid.evaluation is not None]
    assert len(table) == sum(len(grid.cells) * len(grid.evaluation.benchmarks) for grid in evaluated)
    assert table["status"].unique().to_list() == ["not run"]


def test_the_fixture_writes_what_the_contract_says(folders: Folders) -> None:
    """Guards the other tests: their files carry every cost that qtuning/train/cost.py accounts for."""
    from qtuning.train.cost import Cost

    cell = folders.grid.cells[1]
    folders.train(cell)
    reported = {field.name for field in fields(Cost)} | {"flops_total"}
    beside = {"seconds_token_selection", "seconds_watching"}  # for measured.parquet, and told apart
    assert set(COST_COLUMNS) | beside == reported
    assert set(COST_COLUMNS) == set(read_json(folders.folder(cell) / "train.json")["cost"])
