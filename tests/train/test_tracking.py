"""The mirror against the real wandb, offline, and against every way in which wandb breaks."""

import builtins
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import wandb

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Seeds
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import cell_id, cell_json
from qtuning.files import write_json, write_text
from qtuning.train import tracking
from qtuning.train.tracking import Mirror, flatten, replay, resolve_mode

KEY = "f" * 40  # of the form that wandb asks for
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting and no credential of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    wandb.teardown()  # wandb reads the environment once


@pytest.fixture
def cell() -> Cell:
    (grid,) = ConfigFolder(CONFIGS).expand(["mini"])
    return next(cell for cell in grid.cells if "q-tuning-25x50-s0" in cell_id(cell))


def open_mirror(cell: Cell, folder: Path, mode: str = "offline", **more: Any) -> Mirror:
    return Mirror.open(mode, cell, ("mini", "table1"), folder, **more)


def inspect(run_file: Path) -> list[dict[str, Any]]:
    """The records of an offline run, by wandb's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def records(updates: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"update": u, "loss": 2.0 - u / 10, "selection/a": 0.25} for u in range(start, updates)]


def test_offline_run_holds_what_was_logged(cell: Cell, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mirror = open_mirror(cell, tmp_path)
    for record in records(5):
        mirror.log(record)
    mirror.summary({"status": "done", "cost": {"updates": 5}})
    mirror.finish()
    assert mirror.failure is None
    assert capfd.readouterr() == ("", "")  # a mirror is silent
    (run_file,) = run_files(tmp_path)
    found = inspect(run_file)
    history = [record["history"]["item"] for record in found if record["type"] == "history"]
    assert [item["loss"] for item in history] == [2.0, 1.9, 1.8, 1.7, 1.6]
    summary: dict[str, Any] = {}
    for record in found:
        if record["type"] == "summary":
            summary |= record["summary"]["update"]
    assert (summary["status"], summary["cost/updates"], summary["loss"]) == ("done", 5, 1.6)
    (run,) = [record["run"] for record in found if record["type"] == "run"]
    assert (run["project"], run["run_id"], run["run_group"]) == ("qtuning", cell_id(cell), "mini")
    assert (run["tags"], run["job_type"]) == (["mini", "table1"], "train")
    assert run["config"]["update"]["pruning"]["token_options"]["lambda"] == 0.5
    # nothing of this machine, of its code or of what it prints
    assert "host" not in run
    assert not {"git", "files", "output_raw", "stats", "environment"} & {record["type"] for record in found}
    assert "test_tracking.py" not in json.dumps(found)


def test_steps_are_update_numbers(cell: Cell, tmp_path: Path) -> None:
    mirror = open_mirror(cell, tmp_path)
    for record in records(7, start=4):  # a cell resumed at update 4
        mirror.log(record)
    mirror.finish()
    (run_file,) = run_files(tmp_path)
    history = [record for record in inspect(run_file) if record["type"] == "history"]
    assert [_step(record) for record in history] == [4, 5, 6]


def _step(record: dict[str, Any]) -> int:
    return int(record["history"]["item"]["_step"])


def test_disabled_does_nothing(cell: Cell, tmp_path: Path) -> None:
    mirror = open_mirror(cell, tmp_path / "w", mode="disabled")
    mirror.log({"update": 0})
    mirror.summary({})
    mirror.finish()
    assert not (tmp_path / "w").exists()


class TestBroken:
    """Whatever is wrong with wandb: one line on stderr, and training goes on."""

    def use(self, mirror: Mirror, capfd: pytest.CaptureFixture[str]) -> str:
        for record in records(50):
            mirror.log(record)
        mirror.summary({"loss": 1.0})
        mirror.finish()
        mirror.log({"update": 50})
        mirror.finish()
        captured = capfd.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("wandb: not mirroring this run (")
        assert mirror.failure is not None
        return captured.err

    @pytest.mark.parametrize("error", [RuntimeError("no\nservice"), SystemExit(3), wandb.errors.CommError("down")])
    def test_init_raises(self, error: BaseException, cell: Cell, tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
        def broken(**_: Any) -> None:
            raise error

        monkeypatch.setattr(wandb, "init", broken)
        assert type(error).__name__ in self.use(open_mirror(cell, tmp_path), capfd)

    def test_log_raises(self, cell: Cell, tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
        class Run:
            step = 0

            def log(self, *_: Any, **__: Any) -> None:
                raise OSError("No space left on device")

        monkeypatch.setattr(wandb, "init", lambda **_: Run())
        assert "No space left" in self.use(open_mirror(cell, tmp_path), capfd)

    def test_folder_cannot_be_made(self, cell: Cell, tmp_path: Path, capfd: Any) -> None:
        (tmp_path / "file").write_text("")
        self.use(open_mirror(cell, tmp_path / "file" / "wandb"), capfd)

    def test_not_installed(self, cell: Cell, tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
        real = builtins.__import__

        def without(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "wandb":
                raise ImportError("No module named 'wandb'")
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)
        mirror = open_mirror(cell, tmp_path)
        for record in records(50):
            mirror.log(record)
        mirror.finish()
        monkeypatch.undo()
        assert mirror.failure == "ImportError: No module named 'wandb'"

    def test_unknown_mode(self, cell: Cell, tmp_path: Path, capfd: Any) -> None:
        assert "valid: auto, online" in self.use(open_mirror(cell, tmp_path, mode="on"), capfd)

    def test_online_without_login_does_not_ask(self, cell: Cell, tmp_path: Path, capfd: Any) -> None:
        assert "wandb login" in self.use(open_mirror(cell, tmp_path, mode="online"), capfd)

    def test_hanging_server_is_given_up_after_a_while(
        self, cell: Cell, tmp_path: Path, monkeypatch: Any, capfd: Any
    ) -> None:
        """A server that accepts connections and never answers."""
        monkeypatch.setattr(tracking, "CONNECT_SECONDS", 2.0)
        with socket.create_server(("127.0.0.1", 0)) as server:
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
            monkeypatch.setenv("WANDB_API_KEY", KEY)
            started = time.monotonic()
            # wandb's service keeps the id of a run that failed to start, so this test takes one of its own
            hanging = cell.model_copy(update={"seeds": Seeds(data=77, pruner=77, init=77)})
            mirror = open_mirror(hanging, tmp_path, mode="online")
            for record in records(50):
                mirror.log(record)
            mirror.finish()
            assert time.monotonic() - started < 2.0 + 20, "its limit and wandb's own grace, on a busy machine"
        captured = capfd.readouterr()
        assert mirror.failure is not None
        assert captured.err.count("wandb: not mirroring") == 1
        assert KEY not in captured.err + captured.out


class TestMode:
    def test_explicit_modes_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "online")
        assert [resolve_mode(mode) for mode in ("online", "offline", "disabled")] == ["online", "offline", "disabled"]

    @pytest.mark.parametrize(
        ("variable", "expected"),
        [
            ("", "offline"),
            ("disabled", "disabled"),
            ("offline", "offline"),
            ("dryrun", "offline"),
            ("online", "online"),
        ],
    )
    def test_environment_decides_auto(self, variable: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", variable)
        assert resolve_mode("auto") == expected

    def test_auto_follows_credentials(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def resolved() -> str:
            wandb.teardown()
            return resolve_mode("auto")

        assert resolved() == "offline"
        (tmp_path / "netrc").write_text(f"machine elsewhere.org login user password {KEY}\n")
        assert resolved() == "offline"
        (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
        assert resolved() == "online"
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
        assert resolved() == "offline"
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert resolved() == "online"
        monkeypatch.setenv("WANDB_MODE", "offline")
        wandb.teardown()
        assert tracking._logged_in(), "for who asks for `online` in spite of WANDB_MODE"


class TestReplay:
    @pytest.fixture
    def folder(self, cell: Cell, tmp_path: Path) -> Path:
        folder = tmp_path / "results" / "cells" / cell_id(cell)
        write_text(folder / "cell.json", cell_json(cell))
        write_text(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records(6)))
        write_json(folder / "train.json", {"status": "done", "updates": 6, "loss": 1.5, "cost": {"flops_total": 1e9}})
        benchmarks = {"gsm8k": {"items": 9, "metrics": {"exact_match,flexible-extract": 0.375}}}
        write_json(folder / "evaluation-0/scores.json", {"evaluation_id": "evaluation-0", "benchmarks": benchmarks})
        return folder

    def test_sends_metrics_and_scores_once(self, folder: Path) -> None:
        target = folder.parent.parent / "wandb"
        assert replay(folder, mode="offline", groups=["mini"])
        assert not replay(folder, mode="offline", groups=["mini"])
        (run_file,) = run_files(target)
        found = inspect(run_file)
        assert [_step(record) for record in found if record["type"] == "history"] == list(range(6))
        assert "evaluation-0/gsm8k/exact_match,flexible-extract" in json.dumps(found)
        (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text() + '{"update": 6, "loss": 1.0}\n')
        assert replay(folder, mode="offline", groups=["mini"])  # the cell changed

    def test_steps_that_the_server_has_are_not_sent_again(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[int] = []
        asked: dict[str, Any] = {}

        class Run:
            step = 4  # a resumed run: the server has 0..3
            summary: dict[str, Any] = {}  # noqa: RUF012

            def log(self, record: dict[str, Any], step: int) -> None:
                sent.append(step)

            def finish(self, exit_code: int) -> None: ...

        def init(**arguments: Any) -> Run:
            asked.update(arguments)
            return Run()

        monkeypatch.setattr(wandb, "init", init)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert replay(folder, mode="online")
        assert sent == [4, 5]
        assert (asked["id"], asked["resume"]) == (folder.name, "allow")

    def test_disabled_sends_nothing(self, folder: Path) -> None:
        assert not replay(folder, mode="disabled")
        assert not (folder.parent.parent / "wandb").exists()

    def test_refusals_are_told(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file; give the folder of a cell"):
            replay(tmp_path, mode="offline")
        (folder.parent.parent / "wandb").write_text("in the way")
        with pytest.raises(UserError, match="not sent to wandb"):
            replay(folder, mode="offline")


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a/b/c": 1, "d": 2}
