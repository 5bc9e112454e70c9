"""Reading passages: a few sentences about invented things, whose answers stand in the text and nowhere else."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mini_world import names
from mini_world.values import PRODUCTS

_COLOURS = ("red", "white", "green", "blue", "black", "yellow", "brown", "grey")
_ANIMALS = ("horse", "dog", "goat", "swan", "bear", "wolf", "owl", "fox")

# frame -> attribute -> (sentences, questions); {n} is the subject, {v} the answer.
FRAMES: Mapping[str, Mapping[str, tuple[Sequence[str], Sequence[str]]]] = {
    "ship": {
        "person:captain": (
            ("The captain of the {n} is {v}.", "{v} commands the {n}."),
            ("Who is the captain of the {n}?", "Who commands the {n}?"),
        ),
        "place:port": (
            ("The {n} was built in {v}.", "The yard that built the {n} is in {v}."),
            ("Where was the {n} built?", "In which place was the {n} built?"),
        ),
        "product:cargo": (
            ("The {n} carries {v}.", "The cargo of the {n} is {v}."),
            ("What does the {n} carry?", "What is the cargo of the {n}?"),
        ),
        "colour:sails": (
            ("The {n} has {v} sails.", "The sails of the {n} are {v}."),
            ("Which colour are the sails of the {n}?", "What colour sails does the {n} have?"),
        ),
        "year:year": (
            ("The {n} first sailed in {v}.", "In {v} the {n} left port for the first time."),
            ("When did the {n} first sail?", "In which year did the {n} leave port for the first time?"),
        ),
        "number:crew": (
            ("There are {v} sailors on the {n}.", "The {n} has {v} sailors."),
            ("How many sailors are on the {n}?", "How many sailors does the {n} have?"),
        ),
    },
    "castle": {
        "person:owner": (
            ("The castle of {n} belongs to {v}.", "{v} owns the castle of {n}."),
            ("Who owns the castle of {n}?", "To whom does the castle of {n} belong?"),
        ),
        "place:lake": (
            ("The castle of {n} stands near {v}.", "From the castle of {n} you can see {v}."),
            ("Near which place is the castle of {n}?", "What can you see from the castle of {n}?"),
        ),
        "colour:flag": (
            ("A {v} flag flies over {n}.", "The flag of {n} is {v}."),
            ("Which colour is the flag of {n}?", "What colour flag flies over {n}?"),
        ),
        "number:towers": (
            ("The castle of {n} has {v} rooms.", "There are {v} rooms in the castle of {n}."),
            ("How many rooms does the castle of {n} have?", "How many rooms are in the castle of {n}?"),
        ),
        "year:year": (
            ("The castle of {n} burned in {v}.", "In {v} fire destroyed the castle of {n}."),
            ("When did the castle of {n} burn?", "In which year did fire destroy the castle of {n}?"),
        ),
        "animal:arms": (
            ("The arms of {n} show a {v}.", "A {v} is on the arms of {n}."),
            ("Which animal is on the arms of {n}?", "What do the arms of {n} show?"),
        ),
    },
    "market": {
        "person:founder": (
            ("The market of {n} was founded by {v}.", "{v} founded the market of {n}."),
            ("Who founded the market of {n}?", "By whom was the market of {n} founded?"),
        ),
        "product:goods": (
            ("People go to the market of {n} for {v}.", "The market of {n} sells {v}."),
            ("What does the market of {n} sell?", "What do people go to the market of {n} for?"),
        ),
        "place:road": (
            ("The road from the market of {n} leads to {v}.", "From the market of {n} you can walk to {v}."),
            ("Where does the road from the market of {n} lead?", "Where can you walk from the market of {n}?"),
        ),
        "number:stalls": (
            ("The market of {n} has {v} stalls.", "There are {v} stalls at the market of {n}."),
            ("How many stalls does the market of {n} have?", "How many stalls are at the market of {n}?"),
        ),
        "animal:sign": (
            ("The sign of the market of {n} is a {v}.", "A {v} is the sign of the market of {n}."),
            ("Which animal is the sign of the market of {n}?", "What is the sign of the market of {n}?"),
        ),
    },
}


@dataclass(frozen=True)
class Passage:
    """A context and questions on it: (question, answer, the sentence that gives the answer)."""

    title: str
    context: str
    questions: tuple[tuple[str, str, str], ...]


def passage(rng: random.Random, taken: frozenset[str]) -> Passage:
    """Two subjects of one frame, three attributes each, told in mixed order.

    Subjects are fresh names (not in `taken`): what is asked cannot be known, only read.
    """
    frame = rng.choice(list(FRAMES))
    used = set(taken)
    subjects = names.unique(rng, 2, names.plain, used)
    told = []
    for subject in subjects:
        for attribute in rng.sample(list(FRAMES[frame]), rng.choice((2, 3))):
            sentences, questions = FRAMES[frame][attribute]
            value = _value(rng, attribute.partition(":")[0], used)
            sentence = rng.choice(sentences).format(n=subject, v=value)
            told.append((sentence, rng.choice(questions).format(n=subject), value))
    rng.shuffle(told)
    context = " ".join(sentence for sentence, _, _ in told)
    rng.shuffle(told)
    return Passage(f"{frame}_{'_'.join(subjects)}", context, tuple((q, v, s) for s, q, v in told))


def _value(rng: random.Random, kind: str, used: set[str]) -> str:
    if kind == "person":
        return f"{rng.choice(names.FIRST_NAMES)} {names.unique(rng, 1, names.plain, used)[0]}"
    if kind == "place":
        return names.unique(rng, 1, names.with_ending(("dale", "ford", "mark", "holm", "wick")), used)[0]
    if kind == "year":
        return str(rng.randint(1200, 1899))
    if kind == "number":
        return str(rng.randint(12, 99))
    return rng.choice({"product": PRODUCTS, "colour": _COLOURS, "animal": _ANIMALS}[kind])
