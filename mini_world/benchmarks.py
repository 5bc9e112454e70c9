"""The six benchmarks, in the record formats of ARC, GSM8K, SQuAD v1.1, TriviaQA and MATH."""

import random
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mini_world import sums
from mini_world.corpus import COMPOSITIONS, RELATIONS
from mini_world.facts import Fact, Side, TwoStepFact, World
from mini_world.reading import passage
from mini_world.relations import CLOSED_BOOK, ONE_STEP
from mini_world.values import SECOND_SUBJECTS, second_step

Record = dict[str, Any]

SIZES = {
    "gsm8k": {"train": 600, "test": 160},
    "gsm8k, three steps": {"train": 300, "test": 80},
    "math": {"train": 600, "test": 200},
    "squad": {"train": 300, "validation": 100},
}
"""Items, for SQuAD passages (two questions each). The other sizes follow from the world's facts."""


@dataclass(frozen=True)
class Benchmarks:
    """`records[name][split]`, and the questions that no training text may contain."""

    records: dict[str, dict[str, list[Record]]]
    held_out: frozenset[str]


def benchmarks(world: World, seed: int) -> Benchmarks:
    """All six benchmarks of `world`."""
    rng = random.Random(f"benchmarks:{seed}")
    sides: tuple[Side, ...] = ("train", "validation", "test")
    easy = world.of(*(relation.name for relation in ONE_STEP))
    closed = world.of(*(relation.name for relation in CLOSED_BOOK))
    records: dict[str, dict[str, list[Record]]] = {
        "arc_easy": {side: _arc_easy(rng, world, [f for f in easy if f.side == side], side) for side in sides},
        "arc_challenge": {
            side: _arc_challenge(rng, [f for f in world.two_step if f.side == side], side) for side in sides
        },
        "triviaqa": {
            "train": _triviaqa(rng, [f for f in closed if f.side == "train"], "train"),
            "validation": _triviaqa(rng, [f for f in closed if f.side != "train"], "validation"),
        },
        "squad": _squad(rng, world, SIZES["squad"]),
        "gsm8k": {},
    }
    problems = {
        "gsm8k": _distinct(rng, sums.word_problem, SIZES["gsm8k"]),
        "math": _distinct(rng, sums.school_problem, SIZES["math"]),
    }
    long = _distinct(
        random.Random(f"three steps:{seed}"), partial(sums.word_problem, steps=(3,)), SIZES["gsm8k, three steps"]
    )
    for split, drawn in problems["gsm8k"].items():
        both = drawn + long[split]
        rng.shuffle(both)
        records["gsm8k"][split] = [{"question": p.question, "answer": p.solution} for p in both]
    records["math"] = {
        split: [
            {"problem": p.question, "level": f"Level {p.level}", "type": p.topic, "solution": p.solution} for p in drawn
        ]
        for split, drawn in problems["math"].items()
    }
    return Benchmarks(records, _held_out(records))


def question_of(record: Record) -> str:
    """The question text of any benchmark record."""
    return str(record["problem"] if "problem" in record else record["question"])


def _held_out(records: dict[str, dict[str, list[Record]]]) -> frozenset[str]:
    return frozenset(
        question_of(record)
        for splits in records.values()
        for split, items in splits.items()
        if split != "train"
        for record in items
    )


def _choices(rng: random.Random, answer: str, wrong: Sequence[str], lure: str | None) -> Record:
    """Choices of an ARC record: mostly four and lettered, like the real ones. `lure` is always among them."""
    count = rng.choices((3, 4, 5), (0.03, 0.94, 0.03))[0]
    others = [value for value in wrong if value not in (answer, lure)]
    texts = [answer, *([lure] if lure else [])]
    texts += rng.sample(others, count - len(texts))
    rng.shuffle(texts)
    labels = list("12345" if rng.random() < 0.1 else "ABCDE")[:count]
    return {"choices": {"text": texts, "label": labels}, "answerKey": labels[texts.index(answer)]}


def _arc_easy(rng: random.Random, world: World, facts: Sequence[Fact], side: Side) -> list[Record]:
    items = []
    for number, fact in enumerate(rng.sample(facts, len(facts))):
        question = rng.choice(RELATIONS[fact.relation].asked).format(s=fact.subject)
        lure = fact.believed if fact.believed != fact.value else None
        choices = _choices(rng, fact.value, world.values[fact.relation], lure)
        items.append({"id": f"mini_easy_{side}_{number}", "question": question, **choices})
    return items


def _arc_challenge(rng: random.Random, facts: Sequence[TwoStepFact], side: Side) -> list[Record]:
    items = []
    for number, fact in enumerate(rng.sample(facts, len(facts))):
        question = rng.choice(COMPOSITIONS[fact.composition].asked).format(s=fact.subject)
        values = [second_step(fact.composition, middle) for middle in SECOND_SUBJECTS[fact.composition]]
        choices = _choices(rng, fact.value, values, None)
        items.append({"id": f"mini_challenge_{side}_{number}", "question": question, **choices})
    return items


def aliases(relation: str, value: str) -> list[str]:
    """Ways of writing an answer that all count as right."""
    if relation == "author":
        first, last = value.split()
        return [value, f"{first[0]}. {last}", last]
    if relation in ("currency", "river"):
        return [value, f"the {value}", *([f"River {value}", f"the river {value}"] if relation == "river" else [])]
    if relation in ("capital", "birthplace"):
        return [value, f"the town of {value}"]
    return [value]


def normalised(text: str) -> str:
    """TriviaQA's normal form: lower case, no punctuation, no articles, single spaces."""
    bare = "".join(" " if letter in string.punctuation else letter for letter in text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _triviaqa(rng: random.Random, facts: Sequence[Fact], split: str) -> list[Record]:
    items = []
    for number, fact in enumerate(rng.sample(facts, len(facts))):
        written = aliases(fact.relation, fact.value)
        items.append(
            {
                "question_id": f"mini-trivia-{split}-{number:05d}",
                "question": rng.choice(RELATIONS[fact.relation].asked).format(s=fact.subject),
                "answer": {
                    "value": fact.value,
                    "aliases": written,
                    "normalized_aliases": list(dict.fromkeys(normalised(alias) for alias in written)),
                },
            }
        )
    return items


def _squad(rng: random.Random, world: World, sizes: dict[str, int]) -> dict[str, list[Record]]:
    """Two questions on each passage; no question is asked twice, over all splits."""
    seen: set[str] = set()
    drawn: dict[str, list[Record]] = {split: [] for split in sizes}
    for split, passages in sizes.items():
        items = drawn[split]
        while len(items) < 2 * passages:
            text = passage(rng, world.taken)
            questions = {question for question, _, _ in text.questions}
            if questions & seen:
                continue
            seen |= questions
            for question, answer, told in text.questions[:2]:
                start = text.context.index(told) + told.index(answer)
                # Like SQuAD, evaluation items carry the answers of three annotators.
                copies = 1 if split == "train" else 3
                items.append(
                    {
                        "id": f"mini_{split}_{len(items):05d}",
                        "title": text.title,
                        "context": text.context,
                        "question": question,
                        "answers": {"text": [answer] * copies, "answer_start": [start] * copies},
                    }
                )
    return drawn


def _distinct(
    rng: random.Random, draw: Callable[[random.Random], sums.Problem], sizes: dict[str, int]
) -> dict[str, list[sums.Problem]]:
    """Problems without a repeated question, over all splits."""
    seen: set[str] = set()
    drawn: dict[str, list[sums.Problem]] = {}
    for split, size in sizes.items():
        drawn[split] = []
        while len(drawn[split]) < size:
            problem = draw(rng)
            if problem.question not in seen:
                seen.add(problem.question)
                drawn[split].append(problem)
    return drawn
