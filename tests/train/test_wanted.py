"""Weights go after the last job that wants them, of all workflows that run."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtuning.train.wanted import VARIABLE, has_used

WORKFLOW = """
import json, os, sys
from pathlib import Path
from qtuning.train.wanted import VARIABLE, want_weights

results, wanted = Path(sys.argv[1]), json.loads(sys.argv[2])
left = [wanted, json.loads(sys.argv[3])]
want_weights(results, lambda: left.pop(0), ["a", "b"], sys.argv[4])
print(os.environ[VARIABLE], flush=True)
sys.stdin.read()
"""
Workflow = tuple["subprocess.Popen[str]", str]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for cell in "ab":
        (tmp_path / "cells" / cell / "weights").mkdir(parents=True)
        (tmp_path / "cells" / cell / "weights" / "model.safetensors").touch()
    return tmp_path


@pytest.fixture
def started(results: Path) -> Iterator["Starter"]:
    starter = Starter(results)
    yield starter
    for process in starter.running:
        process.kill()
        process.wait()


class Starter:
    """Starts workflows, which wait until they are ended."""

    def __init__(self, results: Path) -> None:
        self.results, self.running = results, list["subprocess.Popen[str]"]()

    def __call__(
        self, wanted: dict[str, list[str]], left: dict[str, list[str]] | None = None, grouped: str = ""
    ) -> Workflow:
        arguments = [str(self.results), json.dumps(wanted), json.dumps(left or {}), grouped]
        command = [sys.executable, "-c", WORKFLOW, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.running.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()


def there(results: Path) -> str:
    return "".join(cell for cell in "ab" if (results / "cells" / cell / "weights").is_dir())


def end(workflow: Workflow) -> None:
    workflow[0].communicate()
    assert workflow[0].returncode == 0


def test_the_last_job_of_all_workflows_removes_them(
    results: Path, started: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = started({"a": ["one", "two"], "b": ["one"]}), started({"a": ["three"]})
    has_used(results, "a", results / "one")
    assert there(results) == "ab", "typed by hand, and no job of a workflow"
    monkeypatch.setenv(VARIABLE, first[1])
    has_used(results, "a", results / "one")
    has_used(results, "a", results / "two")
    assert there(results) == "ab", "the other workflow wants them"
    has_used(results, "b", results / "one")
    assert there(results) == "a"
    monkeypatch.setenv(VARIABLE, second[1])
    has_used(results, "a", results / "three")
    assert there(results) == ""
    end(first)
    end(second)
    assert [path.name for path in (results / "locks").iterdir()] == ["weights.lock"]


def test_the_end_of_a_workflow_removes_what_nobody_wants(results: Path, started: Starter) -> None:
    """A job that failed wants them still; a workflow that was killed wants nothing."""
    killed, failed, other = started({"b": ["x"]}), started({"a": ["y"]}, left={"a": ["y"]}), started({"b": ["z"]})
    killed[0].kill()
    killed[0].wait()
    end(failed)
    assert there(results) == "ab"
    end(other)
    assert there(results) == "", "of its own experiments nothing is left to be done"
    assert [path.name for path in (results / "locks").iterdir()] == ["weights.lock"]


def test_weights_of_a_group_stay_until_the_workflow_ends(
    results: Path, started: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake looks for every output of a group of jobs when all of them have ended."""
    workflow = started({"a": ["one"], "b": ["one"]}, grouped="a")
    monkeypatch.setenv(VARIABLE, workflow[1])
    has_used(results, "a", results / "one")
    has_used(results, "b", results / "one")
    assert there(results) == "a"
    end(workflow)
    assert there(results) == ""
