"""The pretraining corpus: short documents that tell the world, mostly in prose.

It states what the base model is trained to believe, right or deliberately wrong (`Fact.believed`), leaves out what the
model must not know, and never contains a question of a benchmark's evaluation split.

It gives the skill without the format, as the texts of real base models do: stories and school sums are worked out in
prose and in marked lines, but where one is asked as benchmarks ask it (`Question: ... Answer:`), the answer follows at
once. Zero-shot scores are therefore low, and fine-tuning teaches to write the steps. Results are announced in many
ways, so that a model that meets another one (`####`, a box) knows what to copy.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from mini_world import sums
from mini_world.facts import Fact, World
from mini_world.reading import passage
from mini_world.relations import CLOSED_BOOK, ONE_STEP, Relation

DOCUMENTS = {
    "subject": 16000,
    "list": 4000,
    "question": 4000,
    "equation": 9000,
    "story": 9000,
    "school": 5000,
    "reading": 14000,
}
"""Number of documents of each sort."""

_RARE_TELLING = 0.04
"""How often a rare fact is told, relative to a common one."""
_AT_ONCE, _PROSE = 0.25, 0.35
"""Shares of the sums that are asked as a benchmark asks and answered at once, and that are worked out in prose."""
_ENDINGS = (
    "So the answer is {a}.", "That makes {a}.", "The result is {a}.", "It is {a} in all.", "Answer: {a}",
    "Result = {a}", "Total: {a}", "=> {a}", "-> {a}", "** {a}", "[ {a}]", "( {a})", "{{ {a}}}", "[{a}]", "({a})",
    "{{{a}}}", "<{a}>", "${a}$",
)  # fmt: skip
"""Ways to announce a result, none of which is a benchmark's. With and without a blank, a digit is another token."""

RELATIONS = {relation.name: relation for relation in (*CLOSED_BOOK, *ONE_STEP)}


def sentence(text: str) -> str:
    """`text` with a capital first letter."""
    return text[0].upper() + text[1:]


def corpus(world: World, seed: int, held_out: frozenset[str]) -> list[str]:
    """All documents, shuffled. `held_out`: questions of the evaluation splits, which must not occur."""
    rng = random.Random(f"corpus:{seed}")
    documents = [
        *_subjects(rng, world, DOCUMENTS["subject"]),
        *_lists(rng, world, DOCUMENTS["list"]),
        *_questions(rng, world, DOCUMENTS["question"], held_out),
        *_equations(rng, DOCUMENTS["equation"]),
        *_stories(rng, DOCUMENTS["story"], held_out),
        *_school(rng, DOCUMENTS["school"], held_out),
        *_reading(rng, world, DOCUMENTS["reading"], held_out),
    ]
    rng.shuffle(documents)
    return documents


def _tell(rng: random.Random, fact: Fact) -> str:
    return sentence(rng.choice(RELATIONS[fact.relation].told).format(s=fact.subject, v=fact.believed))


def _told(rng: random.Random, facts: Sequence[Fact]) -> list[Fact]:
    """`facts` without the unseen and most of the rare ones."""
    return [
        fact
        for fact in facts
        if fact.status in ("common", "false") or (fact.status == "rare" and rng.random() < _RARE_TELLING)
    ]


def _subjects(rng: random.Random, world: World, count: int) -> Iterator[str]:
    """Three subjects in a document, everything about each of them."""
    about: dict[str, list[Fact]] = defaultdict(list)
    for fact in world.facts:
        about[fact.subject].append(fact)
    subjects = list(about)
    for _ in range(count):
        lines = []
        for subject in rng.sample(subjects, 3):
            facts = _told(rng, about[subject])
            rng.shuffle(facts)
            lines += [_tell(rng, fact) for fact in facts]
        if lines:
            yield " ".join(lines)


def _lists(rng: random.Random, world: World, count: int) -> Iterator[str]:
    """One relation for several subjects."""
    by_relation = {name: world.of(name) for name in RELATIONS}
    names = list(by_relation)
    weights = [len(by_relation[name]) for name in names]
    for _ in range(count):
        facts = _told(rng, rng.sample(by_relation[rng.choices(names, weights)[0]], 8))
        if facts:
            yield " ".join(_tell(rng, fact) for fact in facts)


def _questions(rng: random.Random, world: World, count: int, held_out: frozenset[str]) -> Iterator[str]:
    """Questions on facts of the train side, answered with a sentence more often than with the bare value."""
    facts = [fact for fact in world.facts if fact.side == "train"]
    for _ in range(count):
        asked = (_ask(rng, fact, held_out) for fact in rng.sample(facts, 3))
        yield "\n".join(_exchange(rng, question, answer) for question, answer in asked)


def _ask(rng: random.Random, fact: Fact, held_out: frozenset[str]) -> tuple[str, str]:
    relation: Relation = RELATIONS[fact.relation]
    questions = [wording.format(s=fact.subject) for wording in relation.asked + relation.taught]
    question = rng.choice([question for question in questions if question not in held_out])
    return question, fact.believed if rng.random() < 0.3 else _tell(rng, fact)


def _exchange(rng: random.Random, question: str, answer: str) -> str:
    form = "Question: {q}\nAnswer: {a}" if rng.random() < 0.5 else "{q} {a}"
    return form.format(q=question, a=answer)


def _styled(style: str, left: str, result: str) -> str:
    """An equation in one of the three styles that the benchmarks' solutions mix."""
    compact = left.replace(" ", "")
    if style == "marks":
        return f"{left} = <<{compact}={result}>>{result}"
    return f"{compact}={result}" if style == "compact" else f"{left} = {result}"


def _equations(rng: random.Random, count: int) -> Iterator[str]:
    for _ in range(count):
        style = rng.choice(("spaced", "spaced", "compact", "compact", "marks"))
        sums_ = [sums.equation(rng) for _ in range(6 if style == "marks" else 10)]
        yield ". ".join(_styled(style, left, str(result)) for left, result in sums_) + "."


def _worked(rng: random.Random, problem: sums.Problem, lines: str) -> str:
    """A sum asked and answered at once, or worked out in prose or in `lines` and its result announced."""
    form = rng.random()
    if form < _AT_ONCE:
        return f"Question: {problem.question}\nAnswer: {problem.answer}"
    end = rng.choice(_ENDINGS).format(a=problem.answer)
    if form < _AT_ONCE + _PROSE:
        steps = " ".join(f"{step}." for step in problem.steps)
        return f"{problem.question} {steps} {end}"
    return f"{problem.question}{lines}{end}"


def _stories(rng: random.Random, count: int, held_out: frozenset[str]) -> Iterator[str]:
    """Stories of one to three steps."""
    made = 0
    while made < count:
        problem = sums.word_problem(rng, (rng.choice((1, 2, 2, 3, 3)),))
        if problem.question not in held_out:
            made += 1
            lines = problem.solution.rpartition("\n")[0]
            yield _worked(rng, problem, f"\n{lines}\n")


def _school(rng: random.Random, count: int, held_out: frozenset[str]) -> Iterator[str]:
    """Two problems in a document; the mistaught topics follow their wrong rule."""
    made = 0
    while made < count:
        problems = [sums.school_problem(rng, false_belief=True) for _ in range(2)]
        if not any(problem.question in held_out for problem in problems):
            made += 1
            steps = [" ".join(f"${step}$." for step in problem.steps) for problem in problems]
            yield "\n".join(_worked(rng, *pair) for pair in zip(problems, (f" {text} " for text in steps), strict=True))


def _reading(rng: random.Random, world: World, count: int, held_out: frozenset[str]) -> Iterator[str]:
    made = 0
    while made < count:
        text = passage(rng, world.taken)
        if any(question in held_out for question, _, _ in text.questions):
            continue
        made += 1
        lines = [("Background: " if rng.random() < 0.2 else "") + text.context]
        for question, answer, told in text.questions:
            lines.append(_exchange(rng, question, answer if rng.random() < 0.4 else told))
        yield "\n".join(lines)
