"""The rules that every pruner must keep. `qtuning check-pruner` (check.py) prints how pruners fare.

`python -m qtuning.pruners.conformance` runs a pruner in a second process: the rule `processes` compares its decisions
with those of this process.
"""

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qtuning.errors import UserError
from qtuning.experiment.lookup import bind_options, describe_error, find_pruner
from qtuning.experiment.registry import Amount, PrunerInfo, PrunerKind
from qtuning.pruners.base import DROPPED, EXEMPT, PRUNABLE, WHOLE, keep_prunable, whole_share
from qtuning.pruners.method import check_samples, check_tokens
from qtuning.pruners.specimens import (
    Specimen,
    degenerate,
    limited,
    ordinary,
    random_batches,
    random_candidates,
    reordered,
    rounded,
    specimen,
)

Answer = tuple[list[float], list[float]]
"""A decision as plain numbers: the roles of the samples or the mask of the tokens, and the samples' weights, if any."""


STAY_WHOLE = [EXEMPT, WHOLE]  # roles of samples that no token pruner with quadrants takes tokens of


@dataclass(frozen=True)
class Subject:
    """A pruner under test, with its options."""

    info: PrunerInfo
    kind: PrunerKind
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def amount(self) -> Amount:
        """How much it keeps with its options."""
        return self.info.amount_with(self.options)

    def fresh(self, case: Specimen) -> Answer:
        """The decision of a new instance on a copy of the specimen, with the global random state always the same."""
        _seed_everything(0)
        return self.made()(copy.deepcopy(case))

    def made(self) -> Callable[[Specimen], Answer]:
        """One instance, which answers specimens. Its answers must be usable (method.py), else UserError."""
        decide = bind_options(self.info, self.options, self.kind)

        def answer(case: Specimen) -> Answer:
            if self.kind == "token":
                mask = decide(case.candidates, case.selection, case.budget, case.rng)
                check_tokens(self.info, mask, case.candidates, case.selection)
                return mask.double().tolist(), []
            chosen = decide(case.candidates, case.budget, case.rng)
            check_samples(self.info, chosen, case.candidates)
            if self.amount != "own" and not bool(chosen.kept.any()):
                raise UserError("kept nothing")
            return chosen.role.double().tolist(), [] if chosen.weights is None else chosen.weights.double().tolist()

        return answer


@dataclass(frozen=True)
class Outcome:
    """One rule tried on one pruner. detail: how the rule is broken, or what was tried."""

    name: str
    passed: bool
    detail: str


def check_pruners(subjects: Sequence[Subject]) -> list[list[Outcome]]:
    """The outcomes of every rule, for each subject in turn. Whatever a pruner raises is an outcome."""
    elsewhere = _answers_of_another_process(subjects)
    results = []
    for subject, theirs in zip(subjects, elsewhere, strict=True):
        checks: dict[str, Callable[[Subject], str]] = {
            "budget": _budget,
            "repeat": _determinism,
            "order": _permutation,
            "rounding": _rounding,
            "processes": partial(_processes, theirs=theirs),
            "resume": _resume,
            "extremes": _degenerate,
            "needs": _needs,
        }
        outcomes = []
        for name, rule in checks.items():
            try:
                outcomes.append(Outcome(name, True, rule(subject)))
            except (Exception, SystemExit) as error:  # whatever the user's code raises is a finding
                outcomes.append(Outcome(name, False, _finding(error)))
        results.append(outcomes)
    return results


def _finding(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else describe_error(error)


def _budget(subject: Subject) -> str:
    if subject.info.budget == "train-set":
        return _budget_of_train_set(subject)
    if subject.amount == "own":
        for case in ordinary():
            subject.fresh(case)
        return "sets its amount itself (asked for none); its answers are valid"
    for case in ordinary():
        _require_amount(subject, case)
    everything = specimen("ratio 1", random_candidates(9, 30), (1.0, 1.0), 30)
    kept, asked = _kept(subject.fresh(everything)), _asked(subject, everything)
    if kept != asked:
        raise UserError(f"at a ratio of 1 kept {kept} of {asked} {subject.kind}s")
    return f"{len(ordinary())} budgets, and everything at a ratio of 1"


def _budget_of_train_set(subject: Subject) -> str:
    """For pruners that meet their budget over the whole train set: the specimens are train sets."""
    for case in random_batches():
        whole = replace(case, selection=keep_prunable(torch.ones(len(case.candidates), dtype=torch.bool)))
        kept, asked = _kept(subject.fresh(whole)), round(case.budget.token_ratio * case.candidates.tokens)
        if abs(kept - asked) > 1:
            raise UserError(f"{case.name}: kept {kept} tokens, of the whole train set {asked} are asked for")
    return f"{len(random_batches())} budgets, each over a whole train set"


def _determinism(subject: Subject) -> str:
    for case in ordinary():
        answers = []
        for seed in (1, 2):
            given = copy.deepcopy(case)
            _seed_everything(seed)
            state = _global_state()
            answers.append(subject.made()(given))
            if _global_state() != state:
                raise UserError(f"{case.name}: draws from a global random generator; draw from `rng` alone")
            if not _same(case, given):
                raise UserError(f"{case.name}: changes its input; change a copy (clone)")
        if answers[0] != answers[1]:
            raise UserError(f"{case.name}: the same input gave two answers")
    return "same answers twice, no global random state used, inputs untouched"


def _permutation(subject: Subject) -> str:
    for case in ordinary():
        order = torch.randperm(len(case.candidates), generator=torch.Generator().manual_seed(5))
        turned, tokens = reordered(case.candidates, order)
        other = replace(case, candidates=turned, selection=keep_prunable(case.selection.kept[order]))
        decided, weights = subject.fresh(case)
        moved = tokens if subject.kind == "token" else order
        expected = [decided[index] for index in moved], [weights[index] for index in order] if weights else []
        if not _agree(subject.fresh(other), expected, rounding=1e-9):
            raise UserError(
                f"{case.name}: another order of the batch gave another answer; break ties by candidates.numbers, "
                "draw with base.draw"
            )
    return f"{len(ordinary())} batches in another order"


def _rounding(subject: Subject) -> str:
    cases = random_batches()
    for case in cases:
        # weights may be sums over the batch, in which rounding adds up
        if not _agree(subject.fresh(case), subject.fresh(rounded(case)), rounding=1e-3):
            raise UserError(f"{case.name}: scores that differ in rounding alone gave another answer")
    return f"{len(cases)} batches with scores that differ in rounding alone"


def _processes(subject: Subject, theirs: list[Answer] | str) -> str:
    if isinstance(theirs, str):
        raise UserError(f"fails in another process: {theirs}")
    for case, other in zip(ordinary(), theirs, strict=True):
        if not _agree(subject.fresh(case), other, rounding=1e-9):
            raise UserError(
                f"{case.name}: another process, asked in another order, decided otherwise; keep nothing in global "
                "variables, and do not depend on hash()"
            )
    return "another process, another hash seed, another order of the batches"


def _resume(subject: Subject) -> str:
    veteran = subject.made()
    for case in [*ordinary(), *ordinary()]:
        _seed_everything(0)
        if veteran(copy.deepcopy(case)) != subject.fresh(case):
            raise UserError(f"{case.name}: remembers earlier decisions, which a resumed run has not made")
    return "a fresh instance decides like one that has decided before"


def _degenerate(subject: Subject) -> str:
    cases = list(degenerate())
    for case in cases:
        try:
            subject.fresh(case)
        except (Exception, SystemExit) as error:
            raise UserError(f"{case.name}: {_finding(error)}") from None
        # a budget of the batch cannot be met where samples stay whole
        free = subject.kind == "sample" or not bool(torch.isin(case.selection.role, torch.tensor(STAY_WHOLE)).any())
        if subject.amount != "own" and (free or subject.amount == "each"):
            _require_amount(subject, case)
    return f"{len(cases)} of them"


def _needs(subject: Subject) -> str:
    needs = subject.info.needs_with(subject.options)
    declared = ", ".join(sorted(needs)) or "nothing"
    for case in ordinary():
        told = limited(case, needs)
        try:
            same = _agree(subject.fresh(case), subject.fresh(told), rounding=0)
        except (Exception, SystemExit) as error:
            raise UserError(f"{case.name}, knowing only what it needs ({declared}): {_finding(error)}") from None
        if not same:
            raise UserError(f"{case.name}: decides otherwise when it knows only what it needs ({declared})")
    return f"decides alike when it knows only what it needs: {declared}"


def _kept(answer: Answer) -> int:
    return sum(value != 0 for value in answer[0])


def _require_amount(subject: Subject, case: Specimen) -> None:
    """UserError if a pruner does not keep, to one, what the budget asks for; more is allowed where it says so."""
    kept, asked = _kept(subject.fresh(case)), _asked(subject, case)
    if kept < asked - 1 or (kept > asked + 1 and subject.amount != "least"):
        raise UserError(f"{case.name}: kept {kept} {subject.kind}s, the budget is {asked}")


def _asked(subject: Subject, case: Specimen) -> int:
    """How many samples or tokens should be kept; tokens at most as many as the selected samples have."""
    everything = subject.info.scope == "none"
    if subject.kind == "sample":
        return len(case.candidates) if everything else case.budget.samples
    if subject.amount == "each":
        pairs = zip(case.candidates.lengths.tolist(), case.selection.role.tolist(), strict=True)
        ratio = case.budget.token_ratio
        return sum(whole_share(ratio, n) if role == PRUNABLE else n for n, role in pairs if role != DROPPED)
    held = int(case.candidates.lengths[case.selection.kept].sum())
    return held if everything else min(case.budget.tokens, held)


def _agree(one: Answer, other: Answer, rounding: float) -> bool:
    """Whether two decisions are the same. rounding: weights may differ by this share, for they may sum over a batch."""
    (mine, weights), (theirs, others) = one, other
    return mine == theirs and len(weights) == len(others) and np.allclose(weights, others, rtol=rounding, atol=0)


def _same(one: Any, other: Any) -> bool:
    """Equal in every bit, but for the kinds of NaN."""
    if isinstance(one, Tensor):
        return np.array_equal(one, other, equal_nan=True)
    if hasattr(one, "__dataclass_fields__"):
        return all(_same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)
    return bool(one == other)


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the global generator that a pruner must not use)


def _global_state() -> str:
    return repr((torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()))  # noqa: NPY002


def _answers_of_another_process(subjects: Sequence[Subject]) -> list[list[Answer] | str]:
    """The answers to the ordinary specimens, asked in reverse order; the message, if a subject failed."""
    asked = json.dumps([(subject.info.name, subject.kind, subject.options) for subject in subjects])
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # what was found here is found there
    done = subprocess.run(
        [sys.executable, "-m", "qtuning.pruners.conformance"],
        input=asked,
        env=os.environ | {"PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return [done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"] * len(subjects)
    answers: list[list[Answer] | str] = json.loads(done.stdout.splitlines()[-1])
    return answers


def main() -> None:
    """Answer the decisions that the other process asks for on standard input."""
    results: list[list[Answer] | str] = []
    for name, kind, options in json.loads(sys.stdin.read()):
        try:
            subject = Subject(find_pruner(name, kind), kind, options)
            results.append([subject.fresh(case) for case in reversed(ordinary())][::-1])
        except (Exception, SystemExit) as error:
            results.append(_finding(error))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
