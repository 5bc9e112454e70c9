"""A pruner of one's own on its way through the project: experiment, cell, training step."""

import importlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import TRAINING, run, whole_batches

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Pruning
from qtuning.experiment.ids import cell_id, cell_json
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.pruners.method import method_of
from qtuning.pruners.specimens import random_candidates
from qtuning.train.seeding import generator

COUNTER = itertools.count()
PRUNERS = """
from typing import Literal

from qtuning.pruners.base import keep_first, keep_highest, keep_prunable, ranking
from qtuning.pruners.plugin import pruner


def surest(candidates, budget, rng, *, power: float = 1.0, lambda_: int = 2):
    return keep_first(ranking(-candidates.scores.ent, candidates.numbers), budget.samples)


@pruner(scope="epoch", needs=("losses",))
class Learned:
    def __init__(self, unknown: Literal["keep", "drop"] = "keep"):
        self.filled = 1e6 if unknown == "keep" else 0.0

    def __call__(self, candidates, budget, rng):
        order = ranking(candidates.losses.nan_to_num(self.filled), candidates.numbers)
        return keep_first(order, budget.samples)


def unsure(candidates, selection, budget, rng, *, power: float = 1.0):
    return keep_highest(candidates.scores.entropy, candidates, selection, budget.tokens, "sample")
"""
Written = Callable[[str], str]
HALF = Ratios(sample_ratio=0.5, token_ratio=0.25)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """written(text) -> the name of a module of that text, in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text: str) -> str:
        name = f"pruners_in_cells_{next(COUNTER)}"
        Path(f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    return write


def chosen(method: str, **options: Any) -> Pruning:
    return make_pruning(MethodEntry(method=method, options=options), HALF)


def cell_of(pruning: Pruning, **training: Any) -> Cell:
    return Cell.model_validate(
        {
            "model": {"name": "m", "source": {"kind": "hub", "id": "a/b"}, "parameters": 10},
            "train_set": {"name": "t", "source": {"kind": "mini-world", "file": "f"}},
            "pruning": pruning.model_dump(),
            "training": training,
            "seeds": {"data": 0, "pruner": 0, "init": 0},
        }
    )


def test_from_the_name_in_an_experiment_to_a_decision(written: Written) -> None:
    module = written(PRUNERS)
    asked = chosen(f"{module}:surest+random", power=2)
    assert asked.sample_options == {"power": 2.0, "lambda": 2}
    assert asked.sample_version.startswith("sha256:") and asked.token_version == "1"
    cell = cell_of(asked)
    assert cell_id(cell).startswith(f"m-t-{module}.surest+random-50x25-s0-")
    again = Cell.model_validate_json(cell_json(cell))
    assert again.pruning == asked, "the cell's file says all of it"

    candidates = random_candidates(12, seed=3)
    decision = method_of(again.pruning).select(candidates, generator(0))
    assert candidates.scores is not None
    surest = candidates.scores.ent.argsort()[:6]
    assert sorted(decision.samples.kept.nonzero().flatten().tolist()) == sorted(surest.tolist())
    held = int(candidates.lengths[surest].sum())
    assert int(decision.tokens.sum()) == round(held / 4), "a quarter of the tokens of the kept samples"


def test_options_of_both_pruners_are_told_apart_and_checked(written: Written) -> None:
    module = written(PRUNERS)
    method = f"{module}:surest+{module}:unsure"
    both = chosen(method, power=3, **{"lambda": 5})
    assert (both.sample_options, both.token_options) == ({"power": 3.0, "lambda": 5}, {"power": 3.0})
    for options, expected in (
        ({"pover": 1}, f"{method}: options.pover: unknown key; did you mean power?"),
        ({"lambda": 1.5}, f"{method}: options: lambda = 1.5: input should be a valid integer"),
        ({"lambda_": 1}, f"{method}: options.lambda_: unknown key; did you mean lambda?"),
        ({"selection": "glob"}, "selection = 'glob': input should be 'device' or 'global'"),
        ({"reference": "m"}, "options.reference: this method needs no reference model"),
    ):
        with pytest.raises(UserError) as error:
            chosen(method, **options)
        assert expected in str(error.value) and "\n" not in str(error.value)


def test_two_unusable_pruners_are_two_lines(written: Written) -> None:
    module = written(PRUNERS)
    with pytest.raises(UserError) as error:
        chosen(f"{module}:surset+{module}:surest")
    first, second = str(error.value).splitlines()
    assert "has no 'surset'; did you mean surest?" in first
    assert "is a sample pruner by its parameters; a token pruner, which is asked for here" in second


def test_names_that_no_cell_can_bear_are_refused(written: Written, tmp_path: Path) -> None:
    for name in ("größe", "n" * 130):
        (tmp_path / f"{name}.py").write_text(PRUNERS)
        with pytest.raises(UserError, match="must be at most 128 of"):
            chosen(f"{name}:surest+random")


DESCRIBE = """
import sys
from qtuning.pruners.method import method_of
from qtuning.experiment.cell import (Cell)
from qtuning.experiment.schema import (MethodEntry, Ratios)
from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.ids import cell_id
asked = make_pruning(MethodEntry(method="changing:surest+random"), Ratios(sample_ratio=0.5, token_ratio=0.25))
cell = Cell.model_validate(
    {
        "model": {"name": "m", "source": {"kind": "hub", "id": "a/b"}},
        "train_set": {"name": "t", "source": {"kind": "mini-world", "file": "f"}},
        "pruning": asked.model_dump(), "training": {}, "seeds": {"data": 0, "pruner": 0, "init": 0},
    }
)
print(cell_id(cell))
if len(sys.argv) > 1:
    try:
        method_of(asked.model_copy(update={"sample_version": sys.argv[1]}))
    except UserError as error:
        print(error)
print(asked.sample_version)
"""


def test_another_text_of_the_file_is_another_cell_and_old_cells_are_refused(tmp_path: Path) -> None:
    def described(*arguments: str) -> list[str]:
        command = [sys.executable, "-c", DESCRIBE, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()

    file = tmp_path / "changing.py"
    file.write_text(PRUNERS)
    first, version = described()
    file.write_text(PRUNERS.replace("power: float = 1.0", "power: float = 1.5"))
    second, refusal, other = described(version)
    assert first != second and first.rsplit("-", 1)[0] == second.rsplit("-", 1)[0]
    assert version != other
    assert refusal.startswith(f"pruner changing:surest is version {other}, but the cell was made for {version}; start")


def test_training_asks_the_pruners_of_the_user(written: Written, tiny_llama: Any, samples: list[Sample]) -> None:
    """Two epochs: `Learned` sees no losses before the first, and those of its own updates before the second."""
    module = written(PRUNERS)
    asked = chosen(f"{module}:Learned+{module}:unsure", unknown="drop")
    result = run(cell_of(asked, **whole_batches(TRAINING)), tiny_llama, samples)
    epochs = [{row[2] for row in result.trace if row[1] == epoch} for epoch in (0, 1)]
    assert [len(epoch) for epoch in epochs] == [9, 9]
    assert epochs[0] == set(sorted(sample.number for sample in samples)[:9]), "nothing is known: the lowest numbers"
    assert epochs[0] == epochs[1], "what was trained has a loss; the others are dropped again"
    assert all(0 < record["tokens_kept"] <= record["tokens_asked"] for record in result.records)
    start = dict(tiny_llama.named_parameters())
    assert any(not torch.equal(weight, start[name]) for name, weight in result.weights.items())
    json.dumps(result.records)
