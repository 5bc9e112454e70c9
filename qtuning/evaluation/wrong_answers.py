"""Three plausible wrong answers for an item without choices, made by rule (docs/metrics.md).

They depend on the items of the benchmark and on nothing else, so every model is asked the same. Own choices of an item
are its choices; solutions of word problems are in wrong_solutions.py.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from qtuning.evaluation.scoring import squad_f1, squad_normal, trivia_normal
from qtuning.evaluation.wrong_solutions import final_answer, wrong_solutions

WRONG = 3
"""Wrong answers of an item; fewer where the items offer no more."""

Item = Mapping[str, Any]

_MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
_NUMBER = r"[$£€]?\d[\d,.]*\d|[$£€]?\d"
_SPANS = {
    "date": re.compile(rf"\b(?:\d{{1,2}} )?(?:{_MONTH})(?: \d{{1,2}}\b)?(?:,? \d{{4}})?\b", re.IGNORECASE),
    "year": re.compile(r"\b[12]\d{3}\b"),
    "number": re.compile(rf"(?:{_NUMBER})(?:%| (?:percent|million|billion|thousand|hundred))?"),
    "name": re.compile(r"\b[A-Z](?:[\w'’-]+|\.)(?:(?: (?:of|the|de|von|van|and))? [A-Z](?:[\w'’-]+|\.))*"),
}
"""Sort of an answer -> what such spans look like in a text. An answer of none of these sorts is a phrase."""
_WORD = re.compile(r"[\w'’-]+")
_FUNCTION = re.compile(
    r"an?|the|and|or|of|in|on|at|to|by|for|from|with|as|is|are|was|were|be|been|it|its|that|this|which|who|their|his|her"
    r"|they|he|she|you|there|had|has|have|not|but|than|then|also|into|can"
)
_QUESTION_WORD = re.compile(r"\b(who|whom|whose|where|when|how (?:many|much|long|old)|why|which|what)\b(?: (\w+))?")


def answer_choices(
    benchmark: str, items: Sequence[Item], asked: Sequence[int], targets: Sequence[str]
) -> Iterator[list[str]]:
    """For each item that is asked: the gold answer, then wrong ones. items: all of the benchmark, asked or not.

    asked: places of those that are asked, ascending. targets: their gold answers, as few-shot examples show them.
    """
    make = {"squad": _of_passages, "triviaqa": _of_one_type, "gsm8k": _of_problems, "math": _of_problems}[benchmark]
    gold = dict(zip(asked, targets, strict=True))
    for place, wrong in enumerate(make(items)):
        if place in gold:
            yield [gold[place], *wrong]


def _of_problems(items: Sequence[Item]) -> Iterator[list[str]]:
    """Other plans and results (GSM8K, MATH)."""
    texts = [(item.get("problem") or item["question"], item.get("solution") or item["answer"]) for item in items]
    others = sorted({answer for _, text in texts if not re.search(r"\d", answer := final_answer(text))})
    for problem, solution in texts:
        yield wrong_solutions(problem, solution, others, WRONG, Random(problem))


def _of_passages(items: Sequence[Item]) -> Iterator[list[str]]:
    """Other spans of the passage of the same sort, first those that answer another question; where the passage has too
    few, answers of that sort to other questions."""
    pools: dict[str, list[str]] = defaultdict(list)
    of_passage: dict[str, list[str]] = defaultdict(list)
    for item in items:
        answer = item["answers"]["text"][0]
        pools[sort_of(answer)].append(answer)
        of_passage[item["context"]].append(answer)
    known_answers = {sort: frozenset(pool) for sort, pool in pools.items()}
    for item in items:
        answers, rng = item["answers"]["text"], Random(item["context"] + item["question"])
        sort = sort_of(answers[0])
        spans = spans_of(item["context"], sort, len(answers[0].split()))
        asked = {text: None for text in of_passage[item["context"]] if sort_of(text) == sort}
        asked |= dict.fromkeys(text for text in spans if text in known_answers[sort])
        found: list[str] = []
        for candidates in (list(asked), spans, pools[sort]):
            for candidate in _shuffled(candidates, rng):
                known = [*answers, *found]
                if len(found) < WRONG and squad_normal(candidate) and _apart(candidate, known):
                    found.append(candidate)
        yield found


def _apart(candidate: str, known: Sequence[str]) -> bool:
    """Whether a span is neither one of these nor shares half of its words with one."""
    return all(squad_f1(candidate, other) < 0.5 for other in known)


def sort_of(answer: str) -> str:
    """`date`, `year`, `number`, `name` or `phrase`."""
    words = answer.removeprefix("the ").removeprefix("The ")
    for sort, pattern in _SPANS.items():
        if sort == "number" and re.match(_NUMBER, answer):
            return sort
        if pattern.fullmatch(words):
            return sort
    return "phrase"


def spans_of(passage: str, sort: str, words: int) -> list[str]:
    """The spans of a sort in a passage, each once. A phrase is so many words inside a clause, the first without a
    capital, at its ends no article, preposition or the like. A name that only begins a sentence is none: it is a
    capitalised common word. A number is no year."""
    if sort != "phrase":
        found = [match.group() for match in _SPANS[sort].finditer(passage)]
        if sort == "number":
            found = [text for text in found if not _SPANS["year"].fullmatch(text)]
        common = {word.lower() for word in re.findall(r"(?:^|[.!?] )(\w+)", passage)} if sort == "name" else set()
        return list(dict.fromkeys(text for text in found if text.lower() not in common))
    spans = []
    for clause in re.split(r"[.,;:!?()\[\]\"–—]", passage):
        parts = [match.span() for match in _WORD.finditer(clause)]
        for start, end in zip(parts, parts[words - 1 :], strict=False):
            edges = clause[slice(*start)], clause[slice(*end)]
            if edges[0][0].islower() and not any(_FUNCTION.fullmatch(edge) or edge[0].isdigit() for edge in edges):
                spans.append(clause[start[0] : end[1]])
    return list(dict.fromkeys(spans))


def _of_one_type(items: Sequence[Item]) -> Iterator[list[str]]:
    """Answers to other questions of the same type (TriviaQA): the same question word, for `which` and `what` with the
    word that follows, and the same sort of answer; where there are too few, only the same sort; then any."""
    pools: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for item in items:
        for kind in _types(item):
            pools[kind].append(item["answer"]["value"])
    for item in items:
        known = {trivia_normal(text) for text in (item["answer"]["value"], *item["answer"]["aliases"])}
        rng, found = Random(item["question"]), list[str]()
        for kind in _types(item):
            for candidate in _shuffled(pools[kind], rng):
                if len(found) == WRONG:
                    break
                if (normal := trivia_normal(candidate)) not in known:
                    known.add(normal)
                    found.append(candidate)
        yield found


def _types(item: Item) -> tuple[tuple[str, ...], ...]:
    """From the closest to the widest."""
    asked = _QUESTION_WORD.search(item["question"].lower())
    word, noun = (asked[1], asked[2] or "") if asked else ("", "")
    answer = item["answer"]["value"]
    sort = sort_of(answer)
    length = str(min(len(answer.split()), 3)) if sort in ("name", "phrase") else ""
    closest = (word, noun if word in ("which", "what") else "", sort)
    return closest, (word, sort, length, "any noun"), (sort, length), ()


def _shuffled(candidates: Sequence[str], rng: Random) -> Iterator[str]:
    """All of them in random order, drawn one at a time: of thousands, a handful are wanted."""
    places: dict[int, int] = {}
    for drawn in range(len(candidates)):
        place = rng.randrange(drawn, len(candidates))
        yield candidates[places.get(place, place)]
        places[place] = places.get(drawn, drawn)
