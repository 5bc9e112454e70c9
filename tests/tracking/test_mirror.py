"""The mirror against the real wandb, offline, and against every way in which wandb breaks."""

import builtins
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from offline_runs import offline_runs

from qtuning.experiment.cell import Cell, Seeds
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import cell_id
from qtuning.tracking import wandb_run
from qtuning.tracking.identity import run_of_cell
from qtuning.tracking.mirror import Mirror, flatten, resolve_mode

KEY = "f" * 40  # of the form that wandb asks for
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def cell() -> Cell:
    (grid,) = ConfigFolder(CONFIGS).expand(["mini"])
    return next(cell for cell in grid.cells if "q-tuning-25x50-s0" in cell_id(cell))


def open_mirror(cell: Cell, folder: Path, mode: str = "offline", **more: Any) -> Mirror:
    return Mirror.open(mode, run_of_cell(cell, ("mini", "table1"), "lambda=0.5"), folder, **more)


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
    (run,) = offline_runs(tmp_path)
    assert [item["loss"] for item in run.history] == [2.0, 1.9, 1.8, 1.7, 1.6]
    assert (run.summary["status"], run.summary["cost/updates"]) == ("done", 5)
    assert "loss" not in run.summary, "the last batch says nothing of the run"
    assert (run.name, run.group, run.tags, run.kind) == (cell_id(cell), "mini", ["mini", "table1"], "cell")
    assert run.config["configuration"]["pruning"]["token_options"]["lambda"] == 0.5
    # nothing of this machine, of its code or of what it prints
    (told,) = [record["run"] for record in run.records if record["type"] == "run"]
    assert told["project"] == "qtuning"
    assert "host" not in told
    assert not {"git", "files", "output_raw", "stats", "environment"} & {record["type"] for record in run.records}
    assert "test_mirror.py" not in json.dumps(run.records)


def test_an_attempt_replaces_the_one_before(cell: Cell, tmp_path: Path) -> None:
    """A killed attempt leaves a folder; the next one logs all that is known again."""
    killed = open_mirror(cell, tmp_path)
    for record in records(7):
        killed.log(record)
    wandb.finish()  # as far as it came
    other = cell.model_copy(update={"seeds": Seeds(data=78, pruner=78, init=78)})
    open_mirror(other, tmp_path).finish()
    mirror = open_mirror(cell, tmp_path)
    for record in [*records(3), *records(9, start=3)]:
        mirror.log(record)
    mirror.finish()
    runs = {run.name: run for run in offline_runs(tmp_path)}
    assert set(runs) == {cell_id(cell), cell_id(other)}, "one each, and the other cell's stays"
    assert [item["_step"] for item in runs[cell_id(cell)].history] == list(range(9))


def test_steps_are_update_numbers(cell: Cell, tmp_path: Path) -> None:
    mirror = open_mirror(cell, tmp_path)
    for record in records(7, start=4):
        mirror.log(record)
    mirror.finish()
    (run,) = offline_runs(tmp_path)
    assert [item["_step"] for item in run.history] == [4, 5, 6]


def test_what_the_server_has_is_not_sent_again(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    asked: dict[str, Any] = {}

    class Run:
        step = 4  # a resumed run: the server has 0..3
        dir, url = "w/files", "https://example.org/me/qtuning/runs/x"
        summary: dict[str, Any] = {"digest": "d", "score/gsm8k": 1.0, "score_low/gsm8k": 0.5}  # noqa: RUF012

        def define_metric(self, *_: Any, **__: Any) -> None: ...

        def log(self, record: dict[str, Any], step: int) -> None:
            sent.append(step)

        def finish(self, exit_code: int) -> None: ...

    def init(**arguments: Any) -> Run:
        asked.update(arguments)
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    mirror = open_mirror(cell, tmp_path, mode="online")
    for record in records(6):
        mirror.log(record)
    assert sent == [4, 5]
    assert (asked["id"], asked["resume"], asked["group"]) == (cell_id(cell), "allow", "mini")
    assert mirror.holds("d") and not mirror.holds("e")
    mirror.summary({"evaluation": "evaluation-1", "score/math": 2.0})
    mirror.finish("e")
    assert Run.summary == {"digest": "e", "evaluation": "evaluation-1", "score/math": 2.0}, "no score of another one"


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
            step, dir, url = 0, "w/files", ""

            def define_metric(self, *_: Any, **__: Any) -> None: ...

            def log(self, *_: Any, **__: Any) -> None:
                raise OSError("No space left on device")

        monkeypatch.setattr(wandb, "init", lambda **_: Run())
        assert "No space left" in self.use(open_mirror(cell, tmp_path), capfd)

    def test_folder_cannot_be_made(self, cell: Cell, tmp_path: Path, capfd: Any) -> None:
        (tmp_path / "file").write_text("")
        self.use(open_mirror(cell, tmp_path / "file" / "results"), capfd)

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
        monkeypatch.setattr(wandb_run, "CONNECT_SECONDS", 2.0)
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
            assert time.monotonic() - started < 2.0 + 60, "its limit and wandb's own grace, on a busy machine"
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
        assert wandb_run.logged_in(), "for who asks for `online` in spite of WANDB_MODE"


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a/b/c": 1, "d": 2}
