"""The kit against pruners that keep the rules, and against pruners that each break one of them."""

import importlib
import sys
from pathlib import Path

import pytest

from qtuning.cli import app as cli
from qtuning.experiment.lookup import BUILT_IN, find_pruner, kinds_of
from qtuning.pruners.check import subjects_of
from qtuning.pruners.conformance import Outcome, Subject, check_pruners

RULES = ["budget", "repeat", "order", "rounding", "processes", "resume", "extremes", "needs"]

MODULE = "pruners_under_test"
PRUNERS = """
import random

import numpy as np
import torch

from qtuning.pruners.base import draw, keep_first, keep_highest, keep_prunable, ranking
from qtuning.pruners.plugin import pruner


def best(values, candidates, budget):
    return keep_first(ranking(values, candidates.numbers), budget.samples)


def well_behaved(candidates, budget, rng, *, share: float = 0.5):
    order = torch.cat([ranking(candidates.scores.ppl, candidates.numbers), draw(candidates.numbers, rng)])
    count = round(share * budget.samples)
    kept = torch.zeros(len(candidates), dtype=torch.bool)
    kept[order[:count]] = True
    spare = order[len(candidates) :]
    kept[spare[~kept[spare]][: budget.samples - count]] = True
    return keep_prunable(kept)


def weighted(candidates, budget, rng):
    # sums over a batch differ in their last digit with the order of the batch: rounding is no broken rule
    ppl = candidates.scores.nll.sum() * candidates.scores.ent
    return keep_prunable(best(ppl, candidates, budget).kept, weights=ppl / ppl.mean())


def well_behaved_tokens(candidates, selection, budget, rng):
    return keep_highest(candidates.scores.entropy, candidates, selection, budget.tokens, "batch")


def too_many(candidates, budget, rng):
    return keep_first(ranking(candidates.scores.ppl, candidates.numbers), budget.samples + 2)


def first_of_the_batch(candidates, budget, rng):
    return keep_first(torch.arange(len(candidates)), budget.samples)


def equal_samples_by_position(candidates, budget, rng):
    return keep_first(candidates.scores.ppl.argsort(stable=True), budget.samples)


def first_tokens_of_the_batch(candidates, selection, budget, rng):
    mask = selection.kept[candidates.owner]
    mask[mask.nonzero().flatten()[budget.tokens :]] = False
    return mask


def drawn_by_torch(candidates, budget, rng):
    return keep_first(draw(candidates.numbers, torch.default_generator), budget.samples)


def drawn_by_numpy(candidates, budget, rng):
    return keep_first(candidates.numbers.argsort()[np.random.permutation(len(candidates))], budget.samples)


def drawn_by_python(candidates, budget, rng):
    order = sorted(range(len(candidates)), key=candidates.numbers.tolist().__getitem__)
    random.shuffle(order)
    return keep_first(torch.tensor(order), budget.samples)


class KeepsItsFirstThreshold:
    def __init__(self):
        self.mean = None

    def __call__(self, candidates, budget, rng):
        self.mean = candidates.scores.ppl.median() if self.mean is None else self.mean
        return best(-(candidates.scores.ppl - self.mean).abs(), candidates, budget)


class Counts:
    def __init__(self):
        self.decisions = 0

    def __call__(self, candidates, budget, rng):
        self.decisions += 1
        return best(candidates.scores.ppl * (-1) ** self.decisions, candidates, budget)


FIRST = []


def global_threshold(candidates, budget, rng):
    FIRST.append(float(candidates.scores.ppl.median()))
    return best(-(candidates.scores.ppl - FIRST[0]).abs(), candidates, budget)


DECISIONS = []


def global_count(candidates, budget, rng):
    DECISIONS.append(1)
    return best(candidates.scores.ppl * (-1) ** len(DECISIONS), candidates, budget)


def by_hash(candidates, budget, rng):
    return best(torch.tensor([hash(str(n)) % 1000 for n in candidates.numbers.tolist()]), candidates, budget)


def by_last_digits(candidates, budget, rng):
    return best(candidates.scores.ppl * 1e12 % 1, candidates, budget)


def scaled(values):
    return (values - values.min()) / (values.max() - values.min())


def nan_of_equal_scores(candidates, budget, rng):
    lowest = scaled(candidates.scores.ppl)
    return keep_prunable(lowest >= lowest.quantile(1 - budget.sample_ratio))


def crashes_on_equal_scores(candidates, budget, rng):
    ppl = candidates.scores.ppl.tolist()
    unit = 1 / (max(ppl) - min(ppl))
    return best(candidates.scores.ppl * unit, candidates, budget)


@pruner(needs=("losses",))
def stops_without_losses(candidates, budget, rng):
    if candidates.losses.isnan().all():
        raise SystemExit("no losses [/yet]")
    return best(candidates.losses.nan_to_num(), candidates, budget)


@pruner(needs=("losses",))
def fills_in_losses(candidates, budget, rng):
    candidates.losses[candidates.losses.isnan()] = 1.0
    return best(candidates.losses, candidates, budget)


def shrinks_the_scores(candidates, selection, budget, rng):
    candidates.scores.nll.mul_(0.5)
    return keep_highest(candidates.scores.nll, candidates, selection, budget.tokens, "batch")


def tokens_of_all_samples(candidates, selection, budget, rng):
    mask = torch.zeros(len(candidates.owner), dtype=torch.bool)
    mask[ranking(candidates.scores.nll, candidates.numbers[candidates.owner])[: budget.tokens]] = True
    return mask


@pruner(needs=("scores",))
def looks_at_losses(candidates, budget, rng):
    return best(candidates.losses.nan_to_num() + candidates.scores.ppl, candidates, budget)


@pruner(needs=())
def looks_whether_there_are_scores(candidates, budget, rng):
    return best(candidates.lengths * (-1) ** (candidates.scores is None), candidates, budget)


def returns_nothing(candidates, budget, rng):
    pass


def always_crashes(candidates, budget, rng):
    raise KeyError("missing")
"""

KEPT = ["well_behaved", "well_behaved_tokens", "weighted"]
OVER_BUDGET = "8 samples at 25x50: kept 4 samples, the budget is 2"
BROKEN = {  # the rules broken, and what is said of the first one
    "too_many": ("budget extremes", OVER_BUDGET),
    "first_of_the_batch": ("order", "break ties by candidates.numbers"),
    "equal_samples_by_position": ("order", "8 samples, each there twice, at 30x50: another order of the batch gave"),
    "first_tokens_of_the_batch": ("order", "break ties by candidates.numbers"),
    "drawn_by_torch": ("repeat", "draws from a global random generator; draw from `rng` alone"),
    "drawn_by_numpy": ("repeat", "draws from a global random generator"),
    "drawn_by_python": ("repeat", "draws from a global random generator"),
    "KeepsItsFirstThreshold": ("resume", "remembers earlier decisions, which a resumed run has not made"),
    "Counts": ("resume", "remembers earlier decisions"),
    "global_threshold": ("processes", "keep nothing in global variables"),
    "by_hash": ("processes", "do not depend on hash()"),
    "by_last_digits": ("rounding", "scores that differ in rounding alone"),
    "nan_of_equal_scores": ("extremes", "batch of one: pruner pruners_under_test:nan_of_equal_scores: keeps none of"),
    "crashes_on_equal_scores": ("extremes", "batch of one: ZeroDivisionError: "),
    "stops_without_losses": ("extremes", "batch of one with one token: SystemExit: no losses [/yet] (pruners_under"),
    "fills_in_losses": ("repeat", "changes its input"),
    "shrinks_the_scores": ("repeat", "changes its input"),
    "looks_at_losses": ("needs", "knowing only what it needs (scores): AttributeError: 'NoneType' object has no attri"),
    "looks_whether_there_are_scores": ("needs", "decides otherwise when it knows only what it needs (nothing)"),
    "tokens_of_all_samples": (" ".join(RULES), "keeps tokens of samples that are not selected"),
    "returns_nothing": (" ".join(RULES), "must return a SampleSelection, not NoneType"),
    "always_crashes": (" ".join(RULES), "KeyError: 'missing' (pruners_under_test.py, line "),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to stand in, with the file of pruners."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / f"{MODULE}.py").write_text(PRUNERS)
    return folder


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, list[Outcome]]:
    """What the kit says of each pruner of the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        places = {name: f"{MODULE}:{name}" for name in [*KEPT, *BROKEN, "global_count"]}
        subjects = [Subject(find_pruner(place, kind), kind) for place in places.values() for kind in kinds_of(place)]
        return dict(zip(places, check_pruners(subjects), strict=True))


def broken(outcomes: list[Outcome]) -> list[str]:
    assert [outcome.name for outcome in outcomes] == RULES
    return [outcome.name for outcome in outcomes if not outcome.passed]


def test_built_in_pruners_keep_every_rule() -> None:
    subjects = [Subject(info, kind) for kind, known in BUILT_IN.items() for info in known.values()]
    failures = [
        (subject.kind, subject.info.name, outcome)
        for subject, results in zip(subjects, check_pruners(subjects), strict=True)
        for outcome in results
        if not outcome.passed
    ]
    assert failures == []


@pytest.mark.parametrize("name", KEPT)
def test_good_pruners_of_ones_own_pass(outcomes: dict[str, list[Outcome]], name: str) -> None:
    assert broken(outcomes[name]) == [], outcomes[name]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pruner_breaks_exactly_its_rules_and_is_told_why(
    outcomes: dict[str, list[Outcome]], name: str
) -> None:
    rules, message = BROKEN[name]
    assert broken(outcomes[name]) == rules.split(), outcomes[name]
    details = [outcome.detail for outcome in outcomes[name] if not outcome.passed]
    assert message in details[0]
    assert all(detail and "\n" not in detail for detail in details)


def test_a_count_in_a_global_variable_does_not_pass(outcomes: dict[str, list[Outcome]]) -> None:
    """It decides otherwise each time, so more than one rule is broken; all that need the same answer twice."""
    assert {"repeat", "order", "rounding", "resume"} <= set(broken(outcomes["global_count"]))
    (repeat,) = [outcome for outcome in outcomes["global_count"] if outcome.name == "repeat"]
    assert "the same input gave two answers" in repeat.detail


def called(arguments: str, folder: Path, patch: pytest.MonkeyPatch) -> int:
    """Exit status of `qtuning check-pruner ARGUMENTS`, typed in that folder."""
    patch.chdir(folder)
    patch.setenv("COLUMNS", "100")
    patch.setattr(sys, "argv", ["qtuning", "check-pruner", *arguments.split()])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_an_option_is_for_the_pruner_that_knows_it() -> None:
    assert [(s.kind, s.options) for s in subjects_of("q-tuning", ["sample", "token"], {"lambda": 0.3})] == [
        ("sample", {}),
        ("token", {"lambda": 0.3}),
    ]


def test_several_pruners_get_one_line_each_and_the_broken_ones_a_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["none", f"{MODULE}:too_many", f"{MODULE}:stops_without_losses"]
    assert called(" ".join(names), folder, monkeypatch) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [
        "kind pruner rules broken",
        "ok token none none",
        f"FAIL sample {MODULE}:too_many budget, extremes",
        f"FAIL sample {MODULE}:stops_without_losses extremes",
    ]
    assert lines[4] == f"sample pruner {MODULE}:too_many"
    assert f"FAIL budget {OVER_BUDGET}" in lines
    assert "[/yet]" in " ".join(lines), "what a pruner says is no markup"
    assert lines[-1] == "3 pruners: 3 rules broken"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("longst", "'longst': unknown pruner; did you mean longest?"),
        ("longest --kind token", "'longest': unknown token pruner (it is a sample pruner)"),
        ("longest --kind both", "--kind = 'both': must be sample or token"),
        (f"{MODULE}:nothing", "has no 'nothing'"),
        (f"{MODULE}:well_behaved --option share", "--option = 'share': must be KEY=VALUE"),
        (f"{MODULE}:well_behaved --option sahre=1", "options: sahre: unknown key; did you mean share?"),
        (f"{MODULE}:well_behaved --option share=some", "options: share = 'some': is no number; write one"),
        ("--option share=1", "--option: give the options of one pruner at a time"),
        ("random longest --option share=1", "--option: give the options of one pruner at a time"),
    ],
)
def test_wrong_arguments_are_one_clear_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert called(arguments, folder, monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
