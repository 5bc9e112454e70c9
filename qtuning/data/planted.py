"""Plants flaws in a real train set (`planted` of a train set), so that controls know what its samples are.

A flawed sample takes the place of a right one, so the set keeps its size and its order. Everything follows from the
samples and the seed:

| kind | what happens to the sample |
|---|---|
| noise | the number that it answers (kinds.py, `answer_span`) becomes a wrong one wherever it stands; a response that \
answers no number becomes that of another sample |
| redundant | it becomes a copy of a sample that stays right |
| ambiguous | its question ends after half of its words, and its input is gone |
| clean | all others; a *slip* is one wrong number of a clean sample, not the one that it answers |

A wrong number has one digit changed. `errors` marks wrong numbers, and all of another sample's response.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from qtuning.data.kinds import answer_span
from qtuning.data.rows import Example
from qtuning.experiment.truth import Kind, Planted

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_ITEM = re.compile(r"^[ \t]*\d+[.)](?=\s)", re.MULTILINE)  # `1. ` begins an item of a list and says nothing wrong

Span = tuple[int, int]


def plant(examples: Sequence[Example], planted: Planted) -> list[Example]:
    """The same samples, flawed as `planted` says, each with its `kind` and `errors`.

    Shares are of all samples, rounded. Fewer slips are made where fewer clean samples have a number for one, and a
    single sample is left as it is.
    """
    # a text seeds the same on every machine and in every process
    rng = random.Random(f"planted {planted.seed}")
    order = list(range(len(examples)))
    rng.shuffle(order)
    shares: dict[Kind, float] = {"noise": planted.noise, "redundant": planted.redundant, "ambiguous": planted.ambiguous}
    chosen: dict[Kind, list[int]] = {}
    for kind, share in shares.items():
        count = min(round(share * len(examples)), len(order) - 1)
        chosen[kind], order = order[:count], order[count:]
    able = [index for index in order if _numbers(examples[index].response)]
    slipping = set(able[: min(round(planted.slips * len(examples)), len(order) - 1)])
    right = [index for index in order if index not in slipping]
    found = [replace(example, kind="clean", errors=()) for example in examples]
    for index in chosen["noise"]:
        found[index] = _noise(examples, index, rng)
    for index in chosen["redundant"]:
        found[index] = replace(found[rng.choice(right)], id=examples[index].id, kind="redundant")
    for index in chosen["ambiguous"]:
        found[index] = _ambiguous(found[index])
    for index in sorted(slipping):
        response = examples[index].response
        found[index] = _altered(found[index], [rng.choice(_numbers(response))], rng)
    return found


def _noise(examples: Sequence[Example], index: int, rng: random.Random) -> Example:
    example = replace(examples[index], kind="noise")
    if (answer := _answer(example.response)) is not None:
        places = [number.span() for number in _stated(example.response) if number.group() == answer]
        return _altered(example, places, rng)
    others = [other.response for other in examples if other.response != example.response]
    response = rng.choice(others or [example.response])
    return replace(example, response=response, errors=((0, len(response)),))


def _ambiguous(example: Example) -> Example:
    *before, question = example.prompt
    words = list(re.finditer(r"\S+", question.content))
    end = words[(len(words) - 1) // 2].end()
    return replace(
        example, prompt=(*before, replace(question, content=question.content[:end])), input="", kind="ambiguous"
    )


def _altered(example: Example, spans: Sequence[Span], rng: random.Random) -> Example:
    """The example with the same wrong number at all of `spans`, which hold one number; its length stays."""
    start, end = spans[0]
    wrong, response = _wrong(example.response[start:end], rng), example.response
    for start, end in spans:
        response = response[:start] + wrong + response[end:]
    return replace(example, response=response, errors=tuple(spans))


def _wrong(number: str, rng: random.Random) -> str:
    """The number with one digit changed. A number of several digits begins with no 0 that was not there."""
    place = rng.choice([place for place, character in enumerate(number) if character.isdigit()])
    leading = place == 0 and len(number) > 1
    digit = rng.choice([digit for digit in "0123456789"[leading:] if digit != number[place]])
    return number[:place] + digit + number[place + 1 :]


def _stated(response: str) -> list[re.Match[str]]:
    """The numbers of a response, but for those that begin an item of a list."""
    items = {item.end() for item in _ITEM.finditer(response)}
    return [number for number in _NUMBER.finditer(response) if number.end() + 1 not in items]


def _answer(response: str) -> str | None:
    """The last number in the final answer that the response states."""
    start, end = answer_span(response) or (0, 0)
    numbers = [number.group() for number in _stated(response) if start <= number.start() < end]
    return numbers[-1] if numbers else None


def _numbers(response: str) -> list[Span]:
    """Where the numbers stand that may slip: all but the one that is answered."""
    answer = _answer(response)
    return [number.span() for number in _stated(response) if number.group() != answer]
