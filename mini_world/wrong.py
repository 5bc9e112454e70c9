"""Ways to be wrong: wrong plans and results of sums, other spans of a passage, and slips in answers that are right.

A wrong sum follows from its mistake: the later steps and the answer are those that the mistake leads to.
"""

import random
import re
from collections.abc import Sequence

from mini_world import sums

Span = tuple[int, int]
"""Characters of an answer that are wrong: start, end."""

_EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)$")


_MISTAKE = {"+": "-", "-": "+", "*": "+"}
"""The operator that a systematic mistake puts in the place of another."""


def mistaken_plan(rng: random.Random, problem: sums.Problem) -> str:
    """The solution of a story with a mistake that is always the same: the last step by the wrong operator."""
    *before, (left, operator, right, name) = problem.plan
    steps = [*before, (left, _MISTAKE[operator], right, name)]
    results = sums.follow(steps, problem.values)
    if results is None or results[name] == int(problem.answer):
        return wrong_plan(rng, problem)
    return sums.marked(steps, {**problem.values, **results})


def wrong_plan(rng: random.Random, problem: sums.Problem) -> str:
    """The solution of a story by another plan: another operator, another number, or one step less or more."""
    names = list(problem.values)
    while True:
        plan = [list(step) for step in problem.plan]
        change = rng.choice(("operator", "number", "step"))
        if change == "step":
            if len(plan) > 1 and rng.random() < 0.5:
                plan.pop()
            else:
                plan.append([plan[-1][3], rng.choice("+-"), rng.choice(names), "more"])
        else:
            step = rng.choice(plan)
            if change == "operator":
                step[1] = rng.choice([operator for operator in "+-*" if operator != step[1]])
            else:
                step[rng.choice((0, 2))] = rng.choice(names)
        steps = [(left, operator, right, name) for left, operator, right, name in plan]
        results = sums.follow(steps, problem.values)
        if results is not None and results[steps[-1][3]] != int(problem.answer):
            return sums.marked(steps, {**problem.values, **results})


def wrong_result(rng: random.Random, problem: sums.Problem) -> str:
    """The solution of a story with one result off by 1 to 9."""
    while True:
        place = rng.randrange(len(problem.plan))
        before = sums.follow(problem.plan[: place + 1], problem.values)
        assert before is not None
        name = problem.plan[place][3]
        before[name] += rng.choice((-1, 1)) * rng.randint(1, 9)
        after = (
            sums.follow(problem.plan[place + 1 :], {**problem.values, **before})
            if place + 1 < len(problem.plan)
            else {}
        )
        if after is not None and 0 < before[name] < 100:
            return sums.marked(problem.plan, {**problem.values, **before, **after})


def wrong_school(rng: random.Random, problem: sums.Problem) -> str:
    """The solution of a school problem with its last step by the systematic mistake, or any step off by 1 to 9."""
    systematic = rng.random() < 0.5
    while True:
        steps = list(problem.steps)
        place = len(steps) - 1 if systematic else rng.randrange(len(steps))
        found = _EQUATION.search(steps[place])
        assert found is not None, steps[place]
        left, operator, right, result = found.groups()
        wrong = int(result) + rng.choice((-1, 1)) * rng.randint(1, 9)
        if systematic:
            operator = _MISTAKE.get(operator, "-")
            wrong = sums.calculate(int(left), operator, int(right))
        if not 0 < wrong < 100 or wrong == int(result):
            systematic = False
            continue
        steps[place] = f"{steps[place][: found.start()]}{left} {operator} {right} = {wrong}"
        changed = {result: str(wrong)}
        for later in range(place + 1, len(steps)):
            steps[later] = _again(steps[later], changed)
        answer = steps[-1].rpartition("= ")[2]
        systematic = False
        if answer != problem.answer and 0 < int(answer) < 100:
            return sums.boxed(steps, answer)


def _again(step: str, changed: dict[str, str]) -> str:
    """A later step with the changed numbers; `changed` grows by what becomes of its result."""
    found = _EQUATION.search(step)
    assert found is not None, step
    left, operator, right, result = found.groups()
    left, right = changed.get(left, left), changed.get(right, right)
    new = int(left) // int(right) if operator == "/" else sums.calculate(int(left), operator, int(right))
    changed[result] = str(new)
    return f"{step[: found.start()]}{left} {operator} {right} = {new}"


def other_span(rng: random.Random, context: str, answer: str) -> str | None:
    """A name or number of the passage that answers another question; None if there is none."""
    spans = re.findall(r"(?<=[a-z] )[A-Z][a-z]+(?: [A-Z][a-z]+)?|\d+", context)
    others = [span for span in spans if span not in answer and answer not in span]
    return rng.choice(others) if others else None


def wrong_number(rng: random.Random, text: str) -> tuple[str, Span]:
    """`text` with one number whose digits all differ from the right ones, and where it stands."""
    number = rng.choice(list(re.finditer(r"\d+", text)))
    wrong = "".join(_other_digit(rng, digit, first=place == 0) for place, digit in enumerate(number.group()))
    return text[: number.start()] + wrong + text[number.end() :], number.span()


def _other_digit(rng: random.Random, digit: str, first: bool) -> str:
    return rng.choice([other for other in "0123456789" if other != digit and not (first and other == "0")])


def other_value(rng: random.Random, values: Sequence[str], *not_these: str) -> str:
    """One of `values`, but none of these."""
    return rng.choice([value for value in values if value not in not_these])


def differing(right: str, wrong: str) -> Span:
    """The characters of `wrong` from the first that differs from `right` to the end."""
    pairs = zip(right, wrong, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(right), len(wrong) - 1)), len(wrong)


def replaced(told: Sequence[str], place: int, sentence: str, value: str) -> tuple[str, Span]:
    """The sentences of a portrait with the one at `place` replaced, and where `value` stands in it."""
    before = sum(len(text) + 1 for text in told[:place])
    start = before + sentence.index(value)
    return " ".join([*told[:place], sentence, *told[place + 1 :]]), (start, start + len(value))
