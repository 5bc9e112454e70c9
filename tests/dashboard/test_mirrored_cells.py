"""Runs of finished cells, written offline and read back by wandb's own reader; the specification against them."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import polars as pl
import pytest
import wandb
from cell_folders import ITEMS, METRICS, Folders, config_folder, fraction
from offline_runs import OfflineRun, matching, offline_runs
from scipy.stats import t as student

from qtuning.dashboard.cells import Tracking, mirror_cell, score_summary, scores_of
from qtuning.dashboard.experiments import mirror_experiment
from qtuning.dashboard.variants import in_group, variant_of
from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import ResultPaths, cell_id, evaluation_id
from qtuning.files import read_json, write_json
from qtuning.store.store import write_store
from qtuning.tracking.trained import PLANE
from qtuning.train.journal import TRACE_SCHEMA

OTHER = "evaluation-0ther000"
UPDATES, SAMPLES = 12, 8


def items_of(cell: Cell, evaluation: str) -> pl.DataFrame:
    """Answers whose means are not those of scores.json of `Folders`: `finish` below sets those."""
    rows = [
        (
            name,
            item,
            f"{name}{item}",
            f"{name}{item}",
            METRICS[name][0],
            float(fraction(evaluation, name, str(item)) < 0.4),
        )
        for name in ITEMS
        for item in range(ITEMS[name])
    ]
    columns = ("benchmark", "item", "item_hash", "cluster", "metric", "score")
    return pl.DataFrame(rows, schema=columns, orient="row")


def finish(folders: Folders, cell: Cell) -> None:
    """All the files of a finished cell, and a second evaluation of other items by fewer benchmarks."""
    folder = folders.folder(cell)
    mine = items_of(cell, "mine")
    means = dict(mine.group_by("benchmark").agg(pl.col("score").mean()).iter_rows())
    folders.finish(cell, lambda name: means[name])
    scores = folder / evaluation_id(folders.grid.evaluation) / "scores.json"
    mine.write_parquet(scores.with_name("items.parquet"))
    second = read_json(scores) | {"evaluation_id": OTHER}
    second["benchmarks"] = {"gsm8k": second["benchmarks"]["gsm8k"] | {"metrics": {METRICS["gsm8k"][0]: 0.125}}}
    write_json(folder / OTHER / "scores.json", second)
    if cell.zero_shot:
        return
    lines = [
        {
            "update": update,
            "epoch": update // 6,
            "loss": None if update == 3 else 2.0 - update / 10,
            "samples_kept": 2,
            "selection/q1_share": 0.1 + update / 100,
            "selection/converged": float(update % 2),
            "selection/supplemented": update / 4,
        }
        for update in range(UPDATES)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = [
        (update, update // 6, row, 1.5 + row, 0.5, 1 + row % 4, row < 2, row == 1, 9, 4 if row < 2 else 0)
        for update in range(UPDATES)
        for row in range(SAMPLES)
    ]
    pl.DataFrame(trace, schema={name: TRACE_SCHEMA[name] for name in PLANE}, orient="row").write_parquet(
        folder / "trace.parquet"
    )


@dataclass
class Written:
    folders: Folders
    cells: dict[str, Cell]
    runs: dict[str, OfflineRun]
    how: Tracking

    def run(self, name: str) -> OfflineRun:
        return self.runs[cell_id(self.cells[name])]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    # a test before this one may have ended wandb's process, and its address stays in the environment
    wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)
    root = tmp_path_factory.mktemp("mirrored")
    lambdas = {"method": "q-tuning", "options": {"lambda": 0.3}}
    (grid,) = config_folder(root / "configs", methods=["random+random", lambdas], seeds=[0]).expand(["mini"])
    folders = Folders(root / "results", grid)
    cells = {"q-tuning": folders.find("q-tuning-25x50"), "zero-shot": folders.find("zero-shot")}
    paths, how = ResultPaths(folders.results), Tracking("offline", ("mini", "table1"), "", None)
    evaluation = evaluation_id(grid.evaluation)
    for cell in cells.values():
        finish(folders, cell)
        how = Tracking("offline", ("mini", "table1"), variant_of(cell, grid), evaluation)
        assert mirror_cell(cell, paths, how)[0]
    write_store([grid], folders.results)
    assert mirror_experiment(grid, folders.results, "offline")[0]
    return Written(folders, cells, {run.name: run for run in offline_runs(folders.results)}, how)


def test_flat_fields(written: Written) -> None:
    run, cell = written.run("q-tuning"), written.cells["q-tuning"]
    flat = {key: value for key, value in run.config.items() if key not in ("configuration", "_wandb")}
    assert flat == {
        "cell": cell_id(cell),
        "model": "mini",
        "train_set": "mini",
        "method": "q-tuning",
        "sample_pruner": "q-tuning",
        "token_pruner": "q-tuning",
        "variant": "lambda=0.3",
        "budget": "25x50",
        "sample_ratio": 0.25,
        "token_ratio": 0.5,
        "budget_product": 0.125,
        "seed": 0,
        "experiments": ["mini", "table1"],
    }
    assert (run.group, run.tags, run.kind) == ("mini", ["mini", "table1"], "cell")
    untrained = written.run("zero-shot")
    assert (untrained.config["method"], untrained.config["budget"], untrained.group) == ("zero-shot", None, "mini")


@pytest.mark.parametrize("name", ["q-tuning", "zero-shot"])
def test_every_score_in_per_cent_with_its_interval(written: Written, name: str) -> None:
    summary, grid = written.run(name).summary, written.folders.grid
    folder, evaluation = written.folders.folder(written.cells[name]), evaluation_id(grid.evaluation)
    answers = pl.read_parquet(folder / evaluation / "items.parquet")
    found = {}
    for benchmark in grid.evaluation.benchmarks:
        values = [100 * value for value in answers.filter(pl.col("benchmark") == benchmark)["score"]]
        found[benchmark] = fmean(values)
        half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
        interval = summary[f"score_low/{benchmark}"], summary[f"score_high/{benchmark}"]
        assert interval == pytest.approx((max(0, found[benchmark] - half), min(100, found[benchmark] + half)))
    found["avg"] = fmean(value for benchmark, value in found.items() if benchmark != "retention")
    assert {key[6:]: value for key, value in summary.items() if key.startswith("score/")} == pytest.approx(found)
    assert summary["score_low/avg"] < found["avg"] < summary["score_high/avg"]
    # two evaluations, and neither has a key of the other
    assert summary["evaluation"] == evaluation
    assert {key: summary[key] for key in summary if key.startswith(f"{OTHER}/")} == {
        f"{OTHER}/gsm8k": 12.5,
        f"{OTHER}/avg": 12.5,
    }
    assert summary[f"{evaluation}/gsm8k"] == pytest.approx(found["gsm8k"])


def test_scores_of_the_other_evaluation_when_it_is_asked_for(written: Written) -> None:
    scores = scores_of(written.folders.folder(written.cells["q-tuning"]))
    values = score_summary(scores, OTHER)
    assert {key for key in values if key.startswith("score/")} == {"score/gsm8k", "score/avg"}
    assert values["score/avg"] == 12.5
    assert values["score_low/avg"] is None, "its items are not there"


def test_means_of_the_run_and_what_was_spent(written: Written) -> None:
    summary, folder = written.run("q-tuning").summary, written.folders.folder(written.cells["q-tuning"])
    assert summary["mean/q1_share"] == pytest.approx(sum(0.1 + u / 100 for u in range(UPDATES)) / UPDATES)
    assert summary["mean/converged"] == pytest.approx(0.5)
    assert summary["mean/supplemented"] == pytest.approx(11 / 8)
    assert summary["mean/loss"] == pytest.approx(fmean(2.0 - u / 10 for u in range(UPDATES) if u != 3))
    assert not {"loss", "selection/q1_share"} & set(summary), "the last batch says nothing of the run"
    cost = read_json(folder / "train.json")["cost"]
    assert {key[5:]: value for key, value in summary.items() if key.startswith("cost/")} == cost
    assert summary["kept_over_asked/samples"] == pytest.approx(cost["samples_kept"] / (1200 * 0.25))
    assert summary["kept_over_asked/tokens"] == pytest.approx(cost["tokens_kept"] / (32_000 * 0.125))
    assert summary["status"] == "done"
    assert [item["_step"] for item in written.run("q-tuning").history] == list(range(UPDATES))
    assert not written.run("zero-shot").history


def test_tables_and_artifacts(written: Written) -> None:
    run, folder = written.run("q-tuning"), written.folders.folder(written.cells["q-tuning"])
    plane = run.table("plane")
    assert {row["update"] for row in plane} == {0, 3, 6, 8, 11}
    assert len(plane) == 5 * SAMPLES
    scores = [row for row in run.table("scores") if row["benchmark"] == "gsm8k"]
    assert {row["evaluation"] for row in scores if row["headline"]} == {OTHER, run.summary["evaluation"]}
    items = folder / run.summary["evaluation"] / "items.parquet"
    assert run.artifacts == {"trace": [(folder / "trace.parquet").resolve()], "items": [items.resolve()]}
    of_experiment = written.runs["experiment-mini"]
    assert (of_experiment.kind, of_experiment.tags) == ("experiment", ["mini"])
    stored = {path.name for path in of_experiment.artifacts["store"]}
    assert {"scores.parquet", "cells.parquet", "items.parquet"} <= stored
    line = next(
        row for row in of_experiment.table("intervals") if row["method"] == "q-tuning" and row["budget"] == "25x50"
    )
    assert line["score"] == pytest.approx(run.summary[f"score/{line['benchmark']}"])
    assert of_experiment.table("comparisons")


def test_sent_twice_is_one_run(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, paths = written.cells["zero-shot"], ResultPaths(written.folders.results)
    before = sorted(paths.root.glob("wandb/wandb/offline-run-*"))
    assert not mirror_cell(cell, paths, written.how)[0]
    assert sorted(paths.root.glob("wandb/wandb/offline-run-*")) == before, "left alone"
    monkeypatch.setenv("QTUNING_TRACKING_TEXT", "0")
    assert mirror_cell(cell, paths, written.how)[0], "it is to hold something else now"
    (run,) = offline_runs(paths.root, cell_id(cell))
    assert "items" not in run.artifacts, "answers stay here"


def test_the_experiment_says_variant_and_evaluation(written: Written, tmp_path: Path) -> None:
    cell, configs = written.cells["q-tuning"], written.folders.results.parent / "configs"
    mine = evaluation_id(written.folders.grid.evaluation)
    assert in_group(cell, ["mini", "unknown"], configs, None) == ("lambda=0.3", mine)
    for groups, folder in ((["unknown"], configs), ([], configs), (["mini"], tmp_path)):
        assert in_group(cell, groups, folder, None) == ("", None), "tracking stops no cell"


def test_the_specification_asks_for_what_the_runs_have(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every filter finds the runs, every panel has a key that they have, and nothing is asked of a server."""
    pytest.importorskip("wandb_workspaces")
    from qtuning.dashboard.workspace import BY, save_dashboard, specification

    grid, results = written.folders.grid, written.folders.results
    told = specification(grid, "qtuning")
    text = json.dumps(told)
    (only,) = told["workspace"]["spec"]["section"]["runSets"]
    assert [run.name for run in matching(only["filters"], written.runs.values())] == sorted(written.runs)
    assert [key["name"].partition(".")[0] for key in only["grouping"]] == list(BY)
    grids = [block for block in told["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    found = [matching(block["metadata"]["runSets"][0]["filters"], written.runs.values()) for block in grids]
    assert len(found[-1]) == 2, "the section of the model: its cells, and not the experiment"
    assert all(len(runs) == 3 for runs in found[:-1])
    summaries = {key for run in written.runs.values() for key in run.summary}
    curves = {key for run in written.runs.values() for item in run.history for key in item}
    asked = keys_of(told)
    assert asked["summary"] and asked["config"]
    # `Folders` has one quadrant in the curves
    absent = {f"mean/q{number}_share" for number in (2, 3, 4)}
    assert asked["summary"] - absent <= summaries
    assert asked["config"] <= set(written.run("q-tuning").config)
    assert asked["curves"] & curves == {"loss", "selection/q1_share"}
    for name in ("plane", "scores", "comparisons", "intervals"):
        assert f'"{name}"' in text and name in summaries
    (line,) = save_dashboard(grid, results, None)
    assert "wandb login" in line
    assert read_json(results / "wandb/dashboards/mini.json").keys() == told.keys()


def keys_of(told: Any) -> dict[str, set[str]]:
    """What the panels show: keys of the summary, of the configuration, and curves."""
    found: dict[str, set[str]] = {"summary": set(), "config": set(), "curves": set()}

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if value.get("viewType") == "Run History Line Plot":
                found["curves"] |= set(value["config"]["metrics"])
            for part in value.values():
                walk(part)
        elif isinstance(value, list):
            for part in value:
                walk(part)
        elif isinstance(value, str):
            for mark, kind in (("summary:", "summary"), ("summary_metrics.", "summary"), ("config:", "config")):
                if value.startswith(mark):
                    found[kind].add(value.removeprefix(mark).removesuffix(".value"))

    walk(told)
    return found
