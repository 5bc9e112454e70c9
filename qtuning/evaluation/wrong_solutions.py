r"""Wrong solutions of word problems: the same text with another plan, and what follows from it recomputed.

A likelihood of the last number alone says little: once the right steps stand before it, every model is sure of it. So a
wrong solution is wrong from a step on. Equations between numbers are found in the text, also in GSM8K's marks
`<<48/2=24>>`. In one of them an operator or an operand is replaced, its result is computed anew, and every later
number that repeats a changed result changes with it, down to the final answer. Where a text has no such equation, a
number of a step is replaced from there on, and the final answer too.
"""

import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from random import Random

from qtuning.experiment.benchmarks import boxed

TRIES = 60  # random changes that are tried for each solution before the simpler rule takes over

_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+")
_OPERATORS = {"+": "+", "-": "-", "−": "-", "*": "*", "×": "*", "\\times": "*", "\\cdot": "*", "/": "/", "÷": "/"}
_OPERATORS["\\div"] = "/"
_SYMBOL = "|".join(re.escape(symbol) for symbol in sorted(_OPERATORS, key=len, reverse=True))
_TERM = rf"[(\s$]*(?:{_NUMBER.pattern})[)\s$]*"
_LEFT = rf"{_TERM}(?:(?:{_SYMBOL}){_TERM})+"
_EQUATION = re.compile(
    rf"(?:(?P<prose>{_LEFT})=[\s$]*)?<<(?P<marked>{_LEFT})=(?P<inner>[\s$]*(?:{_NUMBER.pattern}))>>"
    rf"|(?P<plain>{_LEFT})=[\s$]*(?={_NUMBER.pattern})"
)
_TOKEN = re.compile(rf"(?P<number>{_NUMBER.pattern})|(?P<operator>{_SYMBOL})|[()]")
_COMPUTE = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@lru_cache(maxsize=4096)
def _fraction(text: str) -> Fraction | None:
    return Fraction(text.replace(",", "")) if text[0] in "0123456789." else None


@dataclass(frozen=True)
class Token:
    """A number, an operator or a parenthesis of a text, from `start` to before `end`."""

    start: int
    end: int
    text: str

    @property
    def value(self) -> Fraction | None:
        """Of a number."""
        return _fraction(self.text)

    @property
    def meaning(self) -> Fraction | str:
        """Equal for two ways to write one number or operator."""
        return _OPERATORS.get(self.text, self.text) if self.value is None else self.value


@dataclass(frozen=True)
class Step:
    """An equation. lefts: its left side, token by token; twice where a mark repeats it. result: its value."""

    start: int
    lefts: tuple[tuple[Token, ...], ...]
    result: Fraction


def steps_of(solution: str) -> list[Step]:
    """The equations whose left side is arithmetic of numbers, in the order of the text."""
    found = []
    for match in _EQUATION.finditer(solution):
        sides = [_tokens(solution, *match.span(name)) for name in ("prose", "marked", "plain") if match[name]]
        if len({tuple(token.meaning for token in side) for side in sides}) > 1:
            sides = sides[-1:]  # the text before the mark is another expression
        result = _value([token.text for token in sides[0]])
        if result is not None:
            found.append(Step(sides[0][0].start, tuple(sides), result))
    return found


def wrong_solutions(problem: str, solution: str, others: Sequence[str], count: int, rng: Random) -> list[str]:
    """`count` different solutions whose final answers are wrong; fewer where no more can be made.

    others: final answers of other items, for solutions without any number.
    """
    right, found = final_answer(solution), dict[str, str]()
    for text in _candidates(problem, solution, others, rng):
        answer = final_answer(text)
        if answer not in (right, *found):
            found[answer] = text
            if len(found) == count:
                break
    return list(found.values())


def final_answer(solution: str) -> str:
    r"""What stands after `####`, else in the last \boxed{}, else the last number, else all of the text."""
    if "####" in solution:
        return solution.rpartition("####")[2].strip()
    numbers = _NUMBER.findall(solution)
    return boxed(solution) or (numbers[-1] if numbers else solution)


def _candidates(problem: str, solution: str, others: Sequence[str], rng: Random) -> Iterator[str]:
    """Solutions with another plan, then with another number, then with the answer of another item."""
    steps = steps_of(solution)
    given = [token.text for token in _tokens(problem, 0, len(problem)) if token.value is not None]
    for _ in range(TRIES if steps else 0):
        number = rng.randrange(len(steps))
        place, text = _change(steps[number], given, solution, rng)
        changed = _with_plan(solution, steps, number, place, text)
        if changed is not None:
            yield changed
    for _ in range(TRIES):
        yield _with_number(solution, rng)
    for answer in rng.sample(others, min(len(others), TRIES)):
        yield _with_answer(solution, answer)


def _change(step: Step, given: Sequence[str], solution: str, rng: Random) -> tuple[int, str]:
    """A place in the step's left side, and the operator or operand to put there."""
    tokens = step.lefts[-1]
    place = rng.choice([place for place, token in enumerate(tokens) if token.text not in "()"])
    old = tokens[place].text
    if old in _OPERATORS:
        sign = rng.choice([sign for sign in "+-*/" if sign != _OPERATORS[old]])
        # as the text writes it elsewhere
        written = (symbol for symbol, meaning in _OPERATORS.items() if meaning == sign and symbol in solution)
        return place, next(written, "\\times" if sign == "*" and "\\" in solution else sign)
    near = [_written(Fraction(old.replace(",", "")) + change, old) for change in (1, 2, 10, -1, -2)]
    choice = rng.choice([*given, *near] if rng.random() < 0.5 else given or near)
    return place, choice or old


def _with_plan(solution: str, steps: Sequence[Step], number: int, place: int, text: str) -> str | None:
    """The solution with that token in step `number`, and all that follows from it; None where numbers become odd."""
    changed: dict[Fraction, Fraction] = {}  # result -> what it is now
    edits: list[tuple[int, int, str]] = []
    position = steps[number].start

    def carry(end: int) -> None:
        """Numbers of the text up to `end` that repeat a changed result."""
        for token in _tokens(solution, position, end):
            if token.value in changed:
                edits.append((token.start, token.end, _written(changed[token.value], token.text) or token.text))

    for index, step in enumerate(steps[number:]):
        carry(step.start)
        new = [token.text for token in step.lefts[-1]]
        for here, token in enumerate(step.lefts[-1]):
            if index == 0 and here == place:
                new[here] = text
            elif token.value in changed:
                new[here] = _written(changed[token.value], token.text) or token.text
        result = _value(new)
        if result is None or result <= 0 or not _alike(result, step.result):
            return None
        for token, it in ((token, it) for side in step.lefts for token, it in zip(side, new, strict=True)):
            now = Token(token.start, token.end, it)
            if now.meaning != token.meaning:
                edits.append((now.start, now.end, it if now.value is None else _written(now.value, token.text) or it))
        if result != step.result:
            changed[step.result] = result
        elif step.result in changed:
            del changed[step.result]
        if index == 0 and not changed:
            return None
        position = step.lefts[-1][-1].end
    carry(len(solution))
    return _edited(solution, edits)


def _with_number(solution: str, rng: Random) -> str:
    """A late number before the final answer changed, with all its repetitions from there on; and a number of the final
    answer, where that is still right."""
    numbers = [token for token in _tokens(solution, 0, len(solution)) if token.value is not None]
    if not numbers:
        return solution
    answer = final_answer(solution)
    before = [token for token in numbers if token.start < solution.rfind(answer)] or numbers
    first = rng.choice(before[len(before) // 2 :])
    new = _neighbour(first, rng)
    edits = [(t.start, t.end, new) for t in numbers if t.text == first.text and t.start >= first.start]
    changed = _edited(solution, edits)
    if final_answer(changed) != answer:
        return changed
    parts = [token for token in _tokens(answer, 0, len(answer)) if token.value is not None]
    if not parts:
        return changed
    part = rng.choice(parts)
    return _with_answer(changed, _edited(answer, [(part.start, part.end, _neighbour(part, rng))]))


def _with_answer(solution: str, answer: str) -> str:
    """The solution with another final answer."""
    head, _, tail = solution.rpartition(final_answer(solution))
    return head + answer + tail


def _neighbour(token: Token, rng: Random) -> str:
    assert token.value is not None
    shift = rng.choice((1, 2, 3, 10, -1, -2, -3))
    return _written(abs(token.value + shift), token.text) or _written(token.value + 1, token.text) or token.text


def _tokens(text: str, start: int, end: int) -> tuple[Token, ...]:
    return tuple(Token(*match.span(), match.group()) for match in _TOKEN.finditer(text, start, end))


def _edited(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """Edits do not overlap."""
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _alike(new: Fraction, old: Fraction) -> bool:
    """Whether a result may stand where the old one stood: whole if that was whole, and of at most two decimals."""
    return new.denominator == 1 if old.denominator == 1 else 100 % new.denominator == 0


def _written(value: Fraction, like: str) -> str | None:
    """A number as `like` is written, with its thousands separators; None where its decimals do not end."""
    if value < 0 or 10**6 % value.denominator:
        return None
    commas = "," if "," in like else ""
    if value.denominator == 1:
        return f"{value.numerator:{commas}}"
    return f"{float(value):{commas}.6f}".rstrip("0")


def _value(tokens: Sequence[str]) -> Fraction | None:
    """Of an expression, by precedence; None where it is none, or divides by zero."""
    rest = list(tokens)

    def term() -> Fraction:
        token = rest.pop(0)
        if token == "(":
            value = total()
            if rest.pop(0) != ")":
                raise ValueError
            return value
        return Fraction(token.replace(",", ""))

    def product() -> Fraction:
        value = term()
        while rest and _OPERATORS.get(rest[0]) in ("*", "/"):
            value = _COMPUTE[_OPERATORS[rest.pop(0)]](value, term())
        return value

    def total() -> Fraction:
        value = product()
        while rest and _OPERATORS.get(rest[0]) in ("+", "-"):
            value = _COMPUTE[_OPERATORS[rest.pop(0)]](value, product())
        return value

    try:
        value = total()
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return None if rest else value
