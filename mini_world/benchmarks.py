"""The benchmarks, in the record formats of ARC, GSM8K, SQuAD v1.1, TriviaQA and MATH, and `retention`.

ARC-Easy asks what fine-tuning teaches anew, ARC-Challenge what the base model believes wrongly, with the wrong belief
among the choices, and `retention` (in ARC's format, outside of all averages) what the base model knows and fine-tuning
does not repeat. A fact that fine-tuning teaches is asked in two wordings, which share a `cluster`.
"""

import random
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mini_world import sums
from mini_world.corpus import RELATIONS
from mini_world.facts import Fact, Side, World
from mini_world.reading import passage
from mini_world.relations import CLOSED_BOOK, ONE_STEP

Record = dict[str, Any]
SIDES: tuple[Side, ...] = ("train", "validation", "test")

SIZES = {
    "gsm8k": {"train": 600, "test": 160},
    "gsm8k, three steps": {"train": 300, "test": 80},
    "math": {"train": 600, "test": 240},
    "squad": {"train": 300, "validation": 120},
}
"""Items, for SQuAD passages (two questions each). The other sizes follow from the world's facts."""
RETAINED = 150
"""Facts of the train side that `retention` asks and fine-tuning leaves alone."""


@dataclass(frozen=True)
class Benchmarks:
    """`records[name][split]`; the questions that no training text may contain; the facts that fine-tuning leaves alone;
    and the sums behind GSM8K and MATH."""

    records: dict[str, dict[str, list[Record]]]
    held_out: frozenset[str]
    retained: frozenset[Fact]
    problems: dict[str, dict[str, list[sums.Problem]]]


def benchmarks(world: World, seed: int) -> Benchmarks:
    """All benchmarks of `world`."""
    rng = random.Random(f"benchmarks:{seed}")
    easy = world.of(*(relation.name for relation in ONE_STEP))
    closed = world.of(*(relation.name for relation in CLOSED_BOOK))
    records: dict[str, dict[str, list[Record]]] = {name: {} for name in ("arc_easy", "arc_challenge", "triviaqa")}
    for side in SIDES:
        mine = [fact for fact in easy if fact.side == side]
        believed = [fact for fact in mine if fact.status == "false" or side == "train"]
        records["arc_easy"][side] = _arc(rng, world, [f for f in mine if f.status != "false"], f"mini_easy_{side}")
        records["arc_challenge"][side] = _arc(rng, world, believed, f"mini_challenge_{side}")
    for split, sides in (("train", {"train"}), ("validation", {"validation", "test"})):
        records["triviaqa"][split] = _triviaqa(rng, [fact for fact in closed if fact.side in sides], split)
    retained = rng.sample([fact for fact in world.facts if fact.side == "train"], RETAINED)
    records["retention"] = {"test": _arc(rng, world, retained, "mini_retention")}
    records["squad"] = _squad(rng, world, SIZES["squad"])
    records["gsm8k"] = {}
    problems = {
        "gsm8k": _distinct(rng, sums.word_problem, SIZES["gsm8k"]),
        "math": _distinct(rng, sums.school_problem, SIZES["math"]),
    }
    long = _distinct(
        random.Random(f"three steps:{seed}"), partial(sums.word_problem, steps=(3,)), SIZES["gsm8k, three steps"]
    )
    for split, drawn in problems["gsm8k"].items():
        drawn += long[split]
        rng.shuffle(drawn)
        records["gsm8k"][split] = [{"question": p.question, "answer": p.solution} for p in drawn]
    records["math"] = {
        split: [
            {"problem": p.question, "level": f"Level {p.level}", "type": p.topic, "solution": p.solution} for p in drawn
        ]
        for split, drawn in problems["math"].items()
    }
    held_out = _held_out(records)
    for splits in records.values():  # retention asks facts of the train side: no train split has its questions
        if "train" in splits:
            splits["train"] = [record for record in splits["train"] if question_of(record) not in held_out]
    return Benchmarks(records, held_out, frozenset(retained), problems)


def _asked(rng: random.Random, facts: Sequence[Fact]) -> Iterator[tuple[str, Fact, str]]:
    """(number, fact, question) in random order: both wordings of facts that fine-tuning teaches, else one."""
    for number, fact in enumerate(rng.sample(facts, len(facts))):
        wordings = rng.sample(RELATIONS[fact.relation].asked, 2 if fact.taught else 1)
        for place, wording in enumerate(wordings):
            yield f"{number:03d}{'ab'[place]}", fact, wording.format(s=fact.subject)


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


def _arc(rng: random.Random, world: World, facts: Sequence[Fact], prefix: str) -> list[Record]:
    items = []
    for number, fact, question in _asked(rng, facts):
        lure = fact.believed if fact.believed != fact.value else None
        choices = _choices(rng, fact.value, world.values[fact.relation], lure)
        name = f"{prefix}_{number}"
        items.append({"id": name, "cluster": name[:-1], "question": question, **choices})
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
    for number, fact, question in _asked(rng, facts):
        written = aliases(fact.relation, fact.value)
        name = f"mini-trivia-{split}-{number}"
        answer = {
            "value": fact.value,
            "aliases": written,
            "normalized_aliases": list(dict.fromkeys(normalised(alias) for alias in written)),
        }
        items.append({"question_id": name, "cluster": name[:-1], "question": question, "answer": answer})
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
