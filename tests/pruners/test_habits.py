"""What a pruner does that breaks no rule: said by `qtuning check-pruner`, and by a training."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qtuning.cli import app as cli
from qtuning.experiment.lookup import find_pruner
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.pruners.base import Candidates
from qtuning.pruners.conformance import Subject
from qtuning.pruners.habit_trials import habits_of
from qtuning.pruners.method import method_of
from qtuning.train.journal import Diagnosis

MODULE = "pruners_with_habits"
PRUNERS = """
import torch

from qtuning.pruners.base import draw, keep_first, keep_highest, ranking
from qtuning.pruners.plugin import pruner


@pruner(scope="epoch", needs=("losses",))
def by_row(candidates, budget, rng):
    return keep_first(ranking(candidates.losses.nan_to_num(1e6), candidates.numbers), budget.samples)


@pruner(scope="epoch", needs=("losses",))
def by_chance(candidates, budget, rng):
    drawn = draw(candidates.numbers, rng)
    return keep_first(drawn[ranking(candidates.losses.nan_to_num(1e6)[drawn])], budget.samples)


@pruner(scope="epoch", needs=())
def longest(candidates, budget, rng):
    return keep_first(ranking(candidates.lengths, candidates.numbers), budget.samples)


def hardest(candidates, budget, rng):
    return keep_first(ranking(candidates.scores.ppl, candidates.numbers), budget.samples)


@pruner(scope="epoch", needs=("previous-scores",))
def easier(candidates, budget, rng):
    drawn = draw(candidates.numbers, rng)
    return keep_first(drawn[ranking(candidates.previous.ppl.nan_to_num(9.0)[drawn])], budget.samples)


def sure(candidates, selection, budget, rng):
    return keep_highest(-candidates.scores.entropy, candidates, selection, budget.tokens, "batch")
"""
SAME, UNKNOWN, SPENT = "the same rows at every seed", "are NaN after the first epoch", "response tokens were kept"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("habits")
    (folder / f"{MODULE}.py").write_text(PRUNERS)
    return folder


@pytest.fixture(autouse=True)
def beside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("by_row", "sample", [UNKNOWN, SAME]),
        ("by_chance", "sample", [UNKNOWN]),
        ("longest", "sample", [SAME, SPENT]),
        ("hardest", "sample", []),
        ("easier", "sample", []),
        ("sure", "token", []),
    ],
)
def test_habits_of_pruners(name: str, kind: str, said: list[str]) -> None:
    found = habits_of(Subject(find_pruner(f"{MODULE}:{name}", kind), kind))  # type: ignore[arg-type]
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True)), found


def test_pruners_without_habits() -> None:
    samples, tokens = ("random", "q-tuning", "ppl-high", "full"), ("random", "ppl", "none")
    subjects = [Subject(SAMPLE_PRUNERS[name], "sample") for name in samples]
    subjects += [Subject(TOKEN_PRUNERS[name], "token") for name in tokens]
    assert [habits_of(subject) for subject in subjects] == [[]] * len(subjects)


def test_check_pruner_warns_and_all_rules_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", ["qtuning", "check-pruner", f"{MODULE}:by_row"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    warnings = [line for line in lines if line.startswith(f"warning: sample pruner {MODULE}:by_row: ")]
    assert len(warnings) == 2 and SAME in warnings[1]
    assert lines[-1] == "1 pruner: all rules kept"


def candidates_of(losses: list[float], epoch: int) -> Candidates:
    count = len(losses)
    lengths = torch.full((count,), 3)
    return Candidates(torch.arange(count), lengths, losses=torch.tensor(losses, dtype=torch.float64), epoch=epoch)


@pytest.mark.parametrize(("name", "same"), [("by_row", 1.0), ("by_chance", 0.0)])
def test_a_training_watches_what_a_pruner_of_ones_own_is_told(name: str, same: float) -> None:
    entry = MethodEntry(method=f"{MODULE}:{name}+none")
    pruning = make_pruning(entry, Ratios(sample_ratio=0.25, token_ratio=1.0))
    method = method_of(pruning)

    def log(losses: list[float], epoch: int) -> dict[str, float]:
        return dict(method.select_epoch(candidates_of(losses, epoch), torch.Generator().manual_seed(0)).log)

    nothing = [math.nan] * 16
    assert log(nothing, 0) == {"same_rows": same}
    assert log(nothing, 1) == {"unknown": 1.0, "same_rows": same}
    assert log([1.0, 2.0] + [math.nan] * 14, 1) == {"unknown": 14 / 16}, "losses of this seed are known"

    diagnosis = Diagnosis(pruning, 16, 48)
    for epoch, losses in enumerate((nothing, [1.0] * 4 + [math.nan] * 12)):
        record = {"epoch": epoch, "samples_kept": 4, "tokens_kept": 12}
        diagnosis.feed(record | {f"selection/{key}": value for key, value in log(losses, epoch).items()})
    said = [text for key, text in diagnosis.warnings().items() if key in ("same rows", "unknown")]
    assert [UNKNOWN in said[0], "75%" in said[0], len(said)] == [True, True, 1 + int(same)]
    assert (SAME in said[-1]) == bool(same)


def test_a_training_watches_no_pruner_that_is_built_in() -> None:
    method = method_of(make_pruning(MethodEntry(method="infobatch+none"), Ratios(sample_ratio=0.25, token_ratio=1.0)))
    told = replace(candidates_of([math.nan] * 8, 1), epochs=2)
    assert method.select_epoch(told, torch.Generator().manual_seed(0)).log == {}
