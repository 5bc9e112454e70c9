"""The workflow from end to end on a micro experiment of the mini world: real jobs, real table, nothing done twice."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import polars as pl
import psutil
import pytest
from no_login import log_out
from offline_runs import OfflineRun, matching, offline_runs

REPOSITORY = Path(__file__).parent.parent
MICRO = """
title: Micro
models: [mini]
train_sets: [mini]
methods: [full, random+random, {method: q-tuning, options: {lambda: 0.5}}]
budgets: [25x50]
seeds: [0]
limit_train: 48
training: {tuning: full, epochs: 1, batch_size: 8, learning_rate: 5.0e-4, cutoff: 256}
evaluation:
  benchmarks: [arc_easy, arc_challenge, gsm8k, squad, triviaqa, math]
  source: mini-world
  batch_size: 8
  max_length: 256
  limit: 6
  fewshot: 0
"""
TABLES = {"tables": 1, "likelihood_tables": 2, "kinds_table": 1, "figures": 1}
"""Jobs that show finished cells: tables of scores, by two likelihoods, and of planted kinds."""


def checkout(folder: Path, tracking: str = "offline") -> Path:
    """A copy of what the workflow reads, with the micro experiment beside the others."""
    for name in ("workflow", "profiles", "configs"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    (folder / "configs/experiments/micro.yaml").write_text(MICRO)
    settings = folder / "configs/config.yaml"
    settings.write_text(settings.read_text().replace("tracking: auto", f"tracking: {tracking}"))
    return folder


def command(*arguments: str, target: str = "micro") -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "2", target, *arguments]


def snakemake(folder: Path, *arguments: str, target: str = "micro") -> str:
    """Run to success; returns what it printed."""
    result = subprocess.run(
        command(*arguments, target=target),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    logs = "".join(path.read_text()[-2000:] for path in folder.glob("results/logs/**/*.log"))
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}\n{logs}"
    return result.stdout + result.stderr


def environment() -> dict[str, str]:
    """Without the address of the W&B service of this process, which a test of this process may have ended."""
    return {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}


def qtuning(folder: Path, *arguments: str) -> str:
    """What a command prints; it must succeed."""
    command = [sys.executable, "-m", "qtuning", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment()).stdout


def jobs(printed: str) -> dict[str, int]:
    """Jobs by rule, from a dry run's statistics."""
    rows = re.findall(r"^([\w-]+) +(\d+)$", printed, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule != "total"}


def table(folder: Path) -> str:
    """The table without what rightly differs between two runs: seconds and memory in the table of costs."""
    scores, _, _ = (folder / "results/tables/micro.md").read_text().partition("## What it cost")
    return scores


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkout(tmp_path_factory.mktemp("workflow"))
    (folder / "printed").write_text(snakemake(folder))
    return folder


@pytest.fixture(scope="module")
def runs(finished: Path) -> dict[str, OfflineRun]:
    """What the workflow wrote offline, by name."""
    found = offline_runs(finished / "results")
    assert len({run.name for run in found}) == len(found)
    return {run.name: run for run in found}


def test_dry_run_of_a_fresh_checkout_lists_every_job_once(tmp_path: Path) -> None:
    expected = {
        "configure": 4 + 1 + 1 + 1,  # cells, base model, train set, evaluation
        "base_model": 1,
        "prepare": 1,
        "train": 3,
        "evaluate": 4,
        "contamination": 1,
        **TABLES,
        "micro": 1,
    }
    folder = checkout(tmp_path)
    assert jobs(snakemake(folder, "--dry-run")) == expected
    assert not (folder / "results").exists()


def test_vllm_answers_on_a_gpu_and_marks_on_a_cpu(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    (folder / "configs/experiments/micro.yaml").write_text(f"{MICRO}  backend: vllm\n")
    printed = snakemake(folder, "--dry-run")
    found = jobs(printed)
    assert (found["ask"], found["mark"], found.get("evaluate")) == (4, 4, None)
    (folder / "configs/experiments/both.yaml").write_text(MICRO.replace("title: Micro", "title: Both"))
    printed = snakemake(folder, "both", "--dry-run")
    found = jobs(printed)
    assert (found["ask"], found["mark"], found["evaluate"], found["train"]) == (4, 4, 4, 3), (
        "one training, two backends"
    )


@pytest.mark.slow
def test_a_table_by_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stand-in for vLLM, and adapters, for which one engine starts."""
    folder = checkout(tmp_path)
    lora = MICRO.replace("tuning: full", "tuning: lora").replace(
        "[arc_easy, arc_challenge, gsm8k, squad, triviaqa, math]", "[arc_easy, math]"
    )
    (folder / "configs/experiments/micro.yaml").write_text(f"{lora}  backend: vllm\n")
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY / 'tests/evaluation/stand_in'}{os.pathsep}{REPOSITORY}")
    snakemake(folder, "--config", "warm=False")
    text = (folder / "results/tables/micro.md").read_text()
    assert "–" not in table(folder), "no holes"
    assert "backend vllm" in text and "6 items of each benchmark (a draw with seed 0)" in text
    assert not list(folder.glob("results/replies/*/*.replies.json")), "what is marked goes"
    assert "Nothing to be done" in snakemake(folder)


def test_table_has_every_row_and_score(finished: Path) -> None:
    text = (finished / "results/tables/micro.md").read_text()
    for row in ("Zero-shot", "Full data", "random        | random", "Q-Tuning"):
        assert row in text, text
    for benchmark in ("ARC-E", "ARC-C", "GSM8K", "SQuAD", "TriviaQA", "MATH", "Avg"):
        assert benchmark in text, text
    assert "–" not in table(finished), "no holes"
    assert (finished / "results/scores.parquet").exists()
    assert "items that share a 13-gram with Mini SFT" in text
    assert (finished / "results/figures/micro/pareto.svg").exists()
    assert not list(finished.glob("results/cells/*/weights")), "full weights go after evaluation"
    assert not list(finished.glob("results/state/*/checkpoint-*")), "resume state goes with the end of the cell"


def test_every_cell_is_one_run_that_holds_what_the_store_holds(finished: Path, runs: dict[str, OfflineRun]) -> None:
    results = finished / "results"
    assert set(runs) == {path.name for path in results.glob("cells/*")} | {"experiment-micro"}
    rows = pl.read_parquet(results / "scores.parquet").filter("headline")
    for (name,), of_cell in rows.group_by("cell"):
        run, folder = runs[str(name)], results / "cells" / str(name)
        scores = dict(of_cell.select("benchmark", "score").iter_rows()) | {"avg": of_cell["score"].mean()}
        told = {key[6:]: value for key, value in run.summary.items() if key.startswith("score/")}
        assert told == pytest.approx(scores), "no score is missing, and none is another's"
        assert all(run.summary[f"score_low/{key}"] <= told[key] <= run.summary[f"score_high/{key}"] for key in told)
        first = of_cell.row(0, named=True)
        flat = ("model", "train_set", "method", "sample_pruner", "token_pruner", "sample_ratio", "token_ratio")
        assert {key: run.config[key] for key in flat} == {key: first[key] for key in flat}
        assert (run.group, run.tags[0], run.config["experiments"]) == ("micro", "micro", run.tags)
        if first["method"] == "zero-shot":
            assert not run.history and run.config["seed"] is None
            continue
        assert run.config["seed"] == 0
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [(item["_step"], item["loss"]) for item in run.history] == [(x["update"], x["loss"]) for x in lines]
        for key in ("loss", *(key for key in lines[0] if key.startswith("selection/"))):
            known = [line[key] for line in lines if line.get(key) is not None]
            assert run.summary[f"mean/{key.removeprefix('selection/')}"] == pytest.approx(fmean(known))
        cost = json.loads((folder / "train.json").read_text())["cost"]
        assert {key[5:]: value for key, value in run.summary.items() if key.startswith("cost/")} == cost
        trace = pl.read_parquet(folder / "trace.parquet")
        asked = 48 * run.config["sample_ratio"]
        assert run.summary["kept_over_asked/samples"] == pytest.approx(trace["kept"].sum() / asked)
        assert {"trace", "items"} == set(run.artifacts) and run.table("scores")


def test_a_replay_sends_nothing_twice(finished: Path, runs: dict[str, OfflineRun]) -> None:
    before = sorted((finished / "results/wandb/wandb").iterdir())
    printed = qtuning(finished, "replay", "micro", "--tracking", "offline")
    assert printed.startswith("0 of 4 cells written") and sorted((finished / "results/wandb/wandb").iterdir()) == before


def test_the_dashboard_asks_for_these_runs(
    finished: Path, runs: dict[str, OfflineRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb_workspaces")
    log_out(monkeypatch, tmp_path)
    qtuning(finished, "dashboard", "micro")
    told = json.loads((finished / "results/wandb/dashboards/micro.json").read_text())
    (only,) = told["workspace"]["spec"]["section"]["runSets"]
    assert [run.name for run in matching(only["filters"], runs.values())] == sorted(runs)
    grids = [block for block in told["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    of_model = matching(grids[-1]["metadata"]["runSets"][0]["filters"], runs.values())
    assert [run.name for run in of_model] == sorted(set(runs) - {"experiment-micro"})


def test_what_is_printed_tells_of_cells_and_logs_are_plain(finished: Path) -> None:
    lines = (finished / "printed").read_text().splitlines()
    told = [line for line in lines if line.startswith("micro: ")]
    assert told[-1] == "micro: all 4 cells done"
    assert re.fullmatch(r"micro: \d of 4 cells done, \d running, 0 failed, \d to do; about .* left.*", told[0])
    for log in finished.glob("results/logs/**/*.log"):
        assert not set("\r\x1b") & set(log.read_text()), log
    assert not list(finished.glob("results/*/mini-*.progress")), "of jobs that ended"
    assert qtuning(finished, "status", "micro") == "micro: all 4 cells done\n"


def test_second_run_does_nothing(finished: Path) -> None:
    assert "Nothing to be done" in snakemake(finished)


def test_editing_comments_does_nothing(finished: Path) -> None:
    for path in (finished / "Snakefile", finished / "workflow/rules/train.smk", finished / "configs/models/mini.yaml"):
        path.write_text("# a comment\n" + path.read_text())
    assert "Nothing to be done" in snakemake(finished, "--dry-run")


def test_settings_that_change_no_result_do_nothing(finished: Path) -> None:
    printed = snakemake(finished, "--dry-run", "--config", "tracking=disabled", "checkpoint_seconds=7")
    assert "Nothing to be done" in printed


def test_another_experiment_that_shares_cells_shares_the_work(finished: Path) -> None:
    other = finished / "configs/experiments/other.yaml"
    other.write_text(MICRO.replace("title: Micro", "title: Other").replace("random+random, ", ""))
    try:
        printed = snakemake(finished, "--dry-run", target="other")
    finally:
        other.unlink()
    assert jobs(printed) == TABLES | {"other": 1}


def test_another_lambda_runs_q_tuning_alone(finished: Path) -> None:
    micro = finished / "configs/experiments/micro.yaml"
    micro.write_text(MICRO.replace("lambda: 0.5", "lambda: 0.3"))
    try:
        printed = snakemake(finished, "--dry-run")
    finally:
        micro.write_text(MICRO)
    assert jobs(printed) == TABLES | {"configure": 1, "train": 1, "evaluate": 1, "micro": 1}
    trained = re.findall(r": train (\S+)", printed)
    assert len(trained) == 1
    assert trained[0].startswith("mini-mini-q-tuning-25x50-s0-")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "data_dir=/no/such"], "data_dir = '/no/such': no such folder"),
        (["--config", "treads=2"], "--config treads: unknown setting; did you mean threads?"),
    ],
)
def test_bad_settings_are_refused_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = subprocess.run(
        command("-n", *arguments), cwd=checkout(tmp_path), capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert message in result.stdout + result.stderr


@pytest.mark.slow
def test_what_snakemake_is_asked_besides_running(tmp_path: Path) -> None:
    """Its answers go to programs: nothing of ours stands among them."""
    folder = checkout(tmp_path)
    for option, first in (("--dag", "digraph"), ("--rulegraph", "digraph"), ("--summary", "output_file")):
        asked = subprocess.run(command(option), cwd=folder, capture_output=True, text=True, check=True)
        assert asked.stdout.startswith(first), option
    listed = subprocess.run(command("--list-rules"), cwd=folder, capture_output=True, text=True, check=True)
    assert {"train", "prepare", "evaluate"} <= set(listed.stdout.split())
    assert not (folder / "results").exists()


@pytest.mark.slow
def test_paths_may_hold_what_shells_and_snakemake_read_otherwise(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "it's [my] & ünï $HOME")
    rows = folder / "rows (1) #2.jsonl"
    rows.write_text('{"instruction": "a", "output": "b"}\n' * 8)
    (folder / "configs/train_sets/own.yaml").write_text(f'source: {{kind: path, file: "{rows}"}}\n')
    experiment = folder / "configs/experiments/micro.yaml"
    experiment.write_text(re.sub("train_sets: .*", "train_sets: [own]", experiment.read_text()))
    snakemake(folder, "--until", "prepare", "--config", "results=it's out & [$put]", "warm=False")
    (report,) = (folder / "it's out & [$put]/train_sets").glob("*/report.json")
    assert '"usable": 8' in report.read_text()


@pytest.mark.slow
def test_killed_runs_end_in_the_same_table(finished: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    for victim in ("training", "server", "everything", "snakemake"):
        with subprocess.Popen(
            command("--config", "checkpoint_seconds=0.1"), cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL
        ) as process:
            _wait_for_training(folder, process)
            if victim in ("training", "server"):
                server = _warm_server(process)
                for job in server.children() if victim == "training" else [server]:
                    job.kill()
                process.wait()  # Snakemake notices the dead job and gives up
            elif victim == "everything":
                os.killpg(process.pid, signal.SIGKILL)
            else:  # the jobs live on without it
                process.kill()
    snakemake(folder)
    assert table(folder) == table(finished)
    runs = offline_runs(folder / "results")
    assert sorted(run.name for run in runs if run.kind == "cell") == sorted(
        path.name for path in folder.glob("results/cells/*")
    )
    for run in runs:
        assert [item["_step"] for item in run.history] == list(range(len(run.history)))
        assert run.kind == "experiment" or "score/avg" in run.summary


def _warm_server(workflow: "subprocess.Popen[bytes]") -> psutil.Process:
    """What forks the jobs of this workflow."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "serve-warm" in words and words[-1] == str(workflow.pid):
            return process
    raise AssertionError("the workflow has no warm server")


def _wait_for_training(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    """Until some cell has made updates that no finished cell accounts for."""
    before = {path: path.stat().st_mtime_ns for path in folder.glob("results/state/*/metrics.jsonl")}
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        for path in folder.glob("results/state/*/metrics.jsonl"):
            try:
                if path.stat().st_mtime_ns != before.get(path) and path.stat().st_size > 0:
                    return
            except FileNotFoundError:
                continue
        time.sleep(0.02)
