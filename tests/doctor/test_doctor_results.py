"""What the doctor finds in results: each damage is made by hand, and a folder without any gives none."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from cell_folders import Folders
from command_line import invoke
from safetensors.numpy import save_file

from qtuning.doctor.finding import Finding, repair
from qtuning.doctor.results import look_at_results
from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import ResultPaths, cell_id, cell_json
from qtuning.files import file_digest, write_json, write_text
from qtuning.locks import exclusive
from qtuning.manifest import write_sealed
from qtuning.train import checkpoint


class Ground:
    """A results folder with one trained Q-Tuning cell, and what can happen to it."""

    def __init__(self, folders: Folders) -> None:
        self.folders, self.paths = folders, ResultPaths(folders.results)
        self.cell: Cell = folders.find("q-tuning-25x50-s0")
        self.folder = self.paths.cell(self.cell)
        self.state = self.paths.state(self.cell)
        write_text(self.paths.configuration(cell_id(self.cell)), cell_json(self.cell))

    def train(self) -> None:
        self.folders.finish(self.cell)
        weights = self.folder / "weights" / "model.safetensors"
        weights.parent.mkdir()
        save_file({"a": np.arange(1000.0)}, weights)
        write_text(self.folder / "weights.sha256", f"{file_digest(weights)}  {weights.name}\n")
        pl.DataFrame({"update": [1, 2]}).write_parquet(self.folder / "trace.parquet")

    def stop(self, *updates: int, cell: str | None = None) -> None:
        """As after a kill: checkpoints of these updates."""
        for update in updates:
            state = {"cell": cell or cell_json(self.cell), "inputs": {"data": "0a"}, "cost": [], "journal": {}}
            checkpoint.save(self.state, update, {"model.a": torch.ones(50)}, state)

    def found(self, **options: Any) -> list[Finding]:
        return [finding for finding in look_at_results(self.paths, **options) if finding.level != "ok"]

    def only(self, **options: Any) -> Finding:
        (finding,) = self.found(**options)
        return finding


@pytest.fixture
def ground(folders: Folders) -> Ground:
    return Ground(folders)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def age(path: Path, hours: float = 2) -> None:
    past = time.time() - 3600 * hours
    for each in [*path.rglob("*"), path]:
        os.utime(each, (past, past))


def test_nothing_is_found_where_nothing_is_wrong(ground: Ground) -> None:
    ground.train()
    assert ground.found() == ground.found(thorough=True) == []


def test_no_results_are_no_problem(tmp_path: Path) -> None:
    assert [finding.level for finding in look_at_results(ResultPaths(tmp_path / "none"))] == ["ok"]


def test_an_unfinished_training_says_where_it_goes_on(ground: Ground) -> None:
    ground.stop(10, 20)
    finding = ground.only()
    assert finding.level == "note" and finding.repair is None
    assert "training stopped after update 20, 0.0 hours ago" in finding.text


def test_a_training_at_work_is_left_alone(ground: Ground) -> None:
    ground.stop(10)
    cut(ground.state / "checkpoint-0000010" / "tensors.safetensors", 20)
    (ground.state / ".x.0a1b2c3d.tmp").write_text("half")
    age(ground.state)
    with exclusive(ground.state.with_name(f"{ground.state.name}.lock"), "training"):
        findings = ground.found()
        assert [finding.repair for finding in findings] == [None, None]
        assert "1 job(s) at work here now" in findings[0].text


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_repaired_away_and_the_older_one_stays(ground: Ground, file: str) -> None:
    ground.stop(10, 20)
    cut(ground.state / "checkpoint-0000020" / file, 20)
    findings = ground.found()
    assert [finding.level for finding in findings] == ["problem", "note"]
    assert "after update 10" in findings[1].text
    done, left = repair(findings)
    assert len(done) == 1 and left == 0
    assert [path.name for path in ground.state.iterdir()] == ["checkpoint-0000010"]
    loaded = checkpoint.latest(ground.state, {"cell": cell_json(ground.cell), "inputs": {"data": "0a"}})
    assert loaded is not None and loaded[1]["update"] == 10


def test_replies_that_wait_for_their_job_are_no_training(ground: Ground) -> None:
    folder = ground.paths.root / "state/some-cell-01234567"
    folder.mkdir(parents=True)
    (folder / "evaluation-01234567.replies.json").write_text("{}")
    assert not [found for found in look_at_results(ground.paths) if "training stopped" in found.text]


def test_a_state_that_resuming_refuses_is_set_aside_whole(ground: Ground) -> None:
    ground.stop(10, cell='{"other": 1}')
    before = {path.name: path.read_bytes() for path in ground.state.rglob("*") if path.is_file()}
    finding = ground.only()
    assert "resuming refuses it" in finding.text and finding.level == "problem"
    done, left = repair([finding])
    assert len(done) == 1 and left == 0 and not ground.state.exists()
    moved = ground.paths.root / "refused" / f"{ground.state.name}-0"
    assert {path.name: path.read_bytes() for path in moved.rglob("*") if path.is_file()} == before
    ground.stop(20, cell='{"other": 2}')
    repair(ground.found())
    assert (ground.paths.root / "refused" / f"{ground.state.name}-1").is_dir(), "no state takes another's place"


def test_a_job_that_began_after_the_look_is_not_repaired_under_its_feet(ground: Ground) -> None:
    ground.stop(10, 20)
    cut(ground.state / "checkpoint-0000020" / "state.json", 20)
    findings = ground.found()
    with exclusive(ground.state.with_name(f"{ground.state.name}.lock"), "training"):
        assert repair(findings) == ([], 1)
    assert (ground.state / "checkpoint-0000020").exists()


@pytest.mark.parametrize("name", ["train.json", "trace.parquet", "EVALUATION/scores.json"])
def test_damaged_files_of_a_cell(ground: Ground, name: str) -> None:
    ground.train()
    evaluation = next(path.name for path in ground.folder.iterdir() if path.name.startswith("evaluation-"))
    path = ground.folder / name.replace("EVALUATION", evaluation)
    cut(path, path.stat().st_size // 2)
    findings = [finding for finding in ground.found() if finding.level == "problem"]
    assert len(findings) == 1 and f"{path}: damaged" in findings[0].text and findings[0].repair is None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "thorough", "text"),
    [
        (lambda path: cut(path, 500), False, "model.safetensors is damaged"),
        (flip, True, "its digest differs"),
        (lambda path: path.unlink(), False, "model.safetensors is missing"),
    ],
)
def test_damaged_weights(ground: Ground, damage: Callable[[Path], None], thorough: bool, text: str) -> None:
    ground.train()
    damage(ground.folder / "weights" / "model.safetensors")
    finding = ground.only(thorough=thorough)
    assert finding.level == "problem" and text in finding.text and "train.json" in finding.advice


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation/items.parquet"])
def test_what_was_written_is_compared_with_what_is_there(ground: Ground, name: str) -> None:
    ground.train()
    (ground.folder / "evaluation").mkdir()
    file = ground.folder / name
    file.write_bytes(bytes(1000))
    pl.DataFrame({"item": [1]}).write_parquet(file) if file.suffix == ".parquet" else None
    marker = file.with_name("scores.json" if file.suffix == ".parquet" else "train.json")
    write_sealed(marker, {"cell": ground.folder.name, "status": "done", "files": {file.name: file_digest(file)}})
    assert ground.found(thorough=True) == []
    flip(file)
    if file.suffix != ".parquet":  # whose header may be hit
        assert ground.found() == []
    finding = ground.only(thorough=True)
    assert finding.level == "problem" and str(file) in finding.text and "damaged" in finding.text
    assert "delete" in finding.advice
    marker.write_text(marker.read_text().replace("done", "dome"))
    assert any(f"{marker}: damaged (its checksum differs)" in found.text for found in ground.found())


def test_weights_that_the_workflow_removed_are_no_damage(ground: Ground) -> None:
    ground.train()
    shutil.rmtree(ground.folder / "weights")
    assert ground.found(thorough=True) == []


def test_failed_and_diverged_cells(ground: Ground) -> None:
    ground.folders.fail(ground.cell, "failed", "OutOfMemoryError: CUDA out of memory")
    ground.folders.diverge(ground.folders.find("q-tuning-25x50-s1"), "loss is nan")
    failed, diverged = sorted(ground.found(), key=lambda finding: finding.level, reverse=True)
    assert failed.level == "problem" and "failed: OutOfMemoryError: CUDA out of memory" in failed.text
    assert diverged.level == "note" and "diverged: loss is nan" in diverged.text


def test_a_model_that_has_vanished(ground: Ground, tmp_path: Path) -> None:
    write_json(ground.paths.root / "models" / "m-0a1b2c3d" / "model.json", {"path": str(tmp_path / "gone")})
    assert "has vanished since it was made ready" in ground.only().text


def test_leftovers_go_when_they_are_old_and_nobody_is_at_work(ground: Ground) -> None:
    old, new = ground.folder / ".weights.0a1b2c3d.tmp", ground.folder / ".trace.parquet.0a1b2c3d.tmp"
    old.mkdir(parents=True)
    (old / "model.safetensors").write_text("half")
    age(old)
    new.write_text("half")
    assert repair(ground.found()) == ([f"removed {old}"], 0)
    assert not old.exists() and new.exists()


def test_what_is_still_written_to_is_no_leftover(ground: Ground) -> None:
    """The folder is old, and a file in it grows: weights of many gigabytes take long."""
    folder = ground.folder / ".weights.0a1b2c3d.tmp"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("half")
    past = time.time() - 7200
    os.utime(folder, (past, past))
    assert ground.found() == []


def test_idle_locks_go_and_held_ones_stay(ground: Ground) -> None:
    idle, held = ground.paths.lock("idle"), ground.paths.lock("held")
    with exclusive(idle, "the test"):
        pass
    with exclusive(held, "the test"):
        done, _ = repair(ground.found())
        assert done == ["removed 1 lock file(s) that nobody held"]
        assert not idle.exists() and held.exists()


def test_the_command_tells_by_its_exit_status_and_says_what_it_repaired(ground: Ground) -> None:
    ground.train()
    healthy = invoke("doctor", "--results", ground.paths.root)
    assert healthy.exit_code == 0, healthy.output
    assert healthy.output.splitlines()[-1] == "no problem"
    ground.stop(10, 20)
    cut(ground.state / "checkpoint-0000020" / "state.json", 20)
    ill = invoke("doctor", "--results", ground.paths.root)
    assert ill.exit_code == 1 and ill.output.splitlines()[-1] == "1 problem(s)"
    assert "-> qtuning doctor --repair removes it" in ill.output
    mended = invoke("doctor", "--results", ground.paths.root, "--repair")
    assert mended.exit_code == 0 and "repaired: removed" in mended.output
    assert invoke("doctor", "--results", ground.paths.root, "--repair").output.splitlines()[-2:] == [
        "repaired: nothing had to be",
        "no problem",
    ]


def test_a_checkpoint_of_an_older_version_is_told_apart_from_what_is_found(ground: Ground) -> None:
    ground.train()
    state = {"cell": cell_json(ground.cell), "inputs": {"data": "0a"}, "cost": []}  # no digests of metrics and trace
    checkpoint.save(ground.state, 10, {"model.a": torch.ones(50)}, state)
    found = invoke("doctor", "--results", ground.paths.root)
    assert found.exit_code == 0 and found.stdout.splitlines()[-1] == "no problem"
    assert found.stderr.startswith(f"{ground.state}: metrics and trace: written by an older version, without digests")


def test_many_findings_are_counted_not_listed(ground: Ground) -> None:
    for number in range(30):
        write_json(ground.paths.root / "cells" / f"c-{number:08d}" / "failed.json", {"reason": "no"})
    lines = invoke("doctor", "--results", ground.paths.root).output.splitlines()
    assert "  problem  ... and 10 more" in lines and lines[-1] == "30 problem(s)"
