"""Listing experiments imports no pruner of the user's own: what is wrong with one stops its experiment alone."""

import importlib
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cell_folders import config_folder

from qtuning.errors import UserError
from qtuning.experiment import apart
from qtuning.experiment.ids import cell_id, cell_json
from qtuning.experiment.lookup import bind_options, find_pruner
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios

COUNTER = itertools.count()
HALF = {"budgets": ["50x25"], "seeds": [0]}
HEALTHY = """
from qtuning.pruners.base import keep_first, ranking
from qtuning.pruners.plugin import pruner

print("chatter on the output")

@pruner(scope="epoch", needs=("losses",))
def learned(candidates, budget, rng, *, power: float = 1.0, lambda_: int = 2):
    return keep_first(ranking(candidates.losses, candidates.numbers), budget.samples)
"""
Written = Callable[[str], str]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """written(text) -> the name of a module of that text, in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text: str) -> str:
        name = f"pruners_apart_{next(COUNTER)}"
        Path(f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        apart.looker().close()  # that of another test stands in another folder
        return name

    return write


def test_a_listed_pruner_is_the_imported_one(written: Written, tmp_path: Path) -> None:
    module = written(HEALTHY)
    method = {"method": f"{module}:learned+random", "options": {"power": 2, "lambda": 5}}
    (grid,) = config_folder(tmp_path / "configs", name="mine", methods=["full", method], **HALF).expand(["mine"])
    assert module not in sys.modules
    cell = grid.cells[-1]
    identity, told = cell_id(cell), find_pruner(f"{module}:learned", "sample")
    assert module not in sys.modules, "nor when its cells are named"
    assert (told.scope, told.needs) == ("epoch", {"losses"})

    entry = MethodEntry(method=method["method"], options=method["options"])
    bound = bind_options(told, cell.pruning.sample_options, "sample")
    assert module in sys.modules and bound.keywords == {"power": 2.0, "lambda_": 5}  # type: ignore[attr-defined]
    assert make_pruning(entry, Ratios(sample_ratio=0.5, token_ratio=0.25)) == cell.pruning
    assert identity.startswith(f"mini-mini-{module}.learned+random-50x25") and told.version in cell_json(cell)


def test_options_are_checked_apart(written: Written, tmp_path: Path) -> None:
    module = written(HEALTHY)
    for options, expected in (
        ({"lambda": 1.5}, "lambda = 1.5: input should be a valid integer"),
        ({"pover": 1}, "options.pover: unknown key; did you mean power?"),
    ):
        methods = ["full", {"method": f"{module}:learned+random", "options": options}]
        with pytest.raises(UserError, match=expected):
            config_folder(tmp_path / "configs", name="mine", methods=methods, **HALF).expand(["mine"])
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\nos._exit(3)", r"ended its process \(status 3\) when it was imported"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", r"ended its process \(status -9\)"),
        ("import time\ntime.sleep(1000)", "took more than 6 seconds when it was imported"),
        ("raise SystemExit('enough')", "cannot be imported: SystemExit: enough"),
        ("import os\nos.environ.clear()\nos.chdir('/')\n1 / 0", "cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_bad_pruner_stops_its_experiment_alone(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    bad, good = written(text), written(HEALTHY)
    monkeypatch.setattr(apart, "SECONDS", 6.0)
    for name, module in (("bad", bad), ("worse", bad), ("good", good)):
        folder = config_folder(tmp_path / "configs", name=name, methods=["full", f"{module}:learned+random"], **HALF)
    config_folder(tmp_path / "configs", **HALF)
    grids, problems = folder.expand_valid(["bad", "mini", "worse", "good"])
    assert [grid.experiment.name for grid in grids] == ["mini", "good"]
    for name in ("bad", "worse"):
        (line,) = problems[name].splitlines()
        assert f"pruner {bad}:learned: {bad} " in line
        assert re.search(said, line), line
