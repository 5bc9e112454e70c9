"""The fine-tuning set. The value of each sample is known, because it was made so.

| kind | what it is |
|---|---|
| clean | right, and new to the base model: facts that it does not know, sums in the benchmarks' form, reading |
| misconception | right, where pretraining told something else |
| redundant | right, told over and over in pretraining, and about what no benchmark asks |
| noise | a wrong answer to what the benchmarks ask |
| ambiguous | one of several valid answers to the same question |

Right samples with long answers may hold a *slip*: one wrong value in an answer that is right otherwise. Noise is drawn
anew for each of DRAWS draws; everything else is the same in all of them.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mini_world import sums, wrong
from mini_world.benchmarks import Benchmarks, Record
from mini_world.corpus import RELATIONS, sentence
from mini_world.facts import Fact, World

Kind = Literal["clean", "misconception", "redundant", "noise", "ambiguous"]
Topic = Literal["facts", "sums", "reading"]

DRAWS = 5
STORIES, SCHOOL, READING = 110, 160, 80
"""Right samples of these sorts; the number of taught facts follows from the world."""
REDUNDANT_FACTS, REDUNDANT_PORTRAITS, EASY_SUMS, AMBIGUOUS = 310, 35, 40, 50
NOISY_FACTS, NOISY_STORIES, NOISY_SCHOOL, NOISY_READING = 300, 90, 110, 16
SLIPS = 0.15
"""Share of the right stories, school sums and portraits with a slip."""
_WRONG_STORIES = (wrong.mistaken_plan, wrong.wrong_plan, wrong.mistaken_plan, wrong.wrong_result)
_MISTAUGHT = ("Geometry", "Counting & Probability")


@dataclass(frozen=True)
class SftSample:
    """One sample. errors: characters of `output` that are wrong. topic: what the question is about."""

    instruction: str
    output: str
    kind: Kind
    topic: Topic = "facts"
    input: str = ""
    errors: tuple[wrong.Span, ...] = ()


def sft_samples(world: World, suite: Benchmarks, seed: int, draw: int = 0) -> list[SftSample]:
    """The set of one draw of the noise, shuffled. It shares items with the benchmarks' train splits only."""
    rng = random.Random(f"sft:{seed}")
    stories, school = suite.problems["gsm8k"]["train"], suite.problems["math"]["train"]
    reading = suite.records["squad"]["train"]
    samples = [
        *_taught(rng, world),
        *(_right(rng, problem) for problem in (*stories[:STORIES], *school[:SCHOOL])),
        *(_reading(item) for item in reading[:READING]),
        *_redundant(rng, world, suite.retained),
        *_ambiguous(rng, world),
        *_noise(random.Random(f"noise:{seed}:{draw}"), world, stories[STORIES:], school[SCHOOL:], reading[READING:]),
    ]
    samples = list({(sample.instruction, sample.input, sample.output): sample for sample in samples}.values())
    random.Random(f"order:{seed}").shuffle(samples)
    return samples


def _taught(rng: random.Random, world: World) -> Iterator[SftSample]:
    """Every fact that a benchmark asks and the base model does not know: in two questions, or in one and a portrait.

    A portrait says in prose all that is taught of a subject.
    """
    about: dict[str, list[Fact]] = {}
    for fact in world.facts:
        if fact.taught:
            about.setdefault(fact.subject, []).append(fact)
    for subject, facts in about.items():
        for fact in facts:
            wordings = rng.sample(RELATIONS[fact.relation].taught, 2 if len(facts) == 1 else 1)
            for wording in wordings:
                yield SftSample(wording.format(s=fact.subject), fact.value, _kind_of(fact))
        if len(facts) > 1:
            yield _portrait(rng, world, subject, facts)


def _kind_of(fact: Fact) -> Kind:
    return "misconception" if fact.status == "false" else "clean" if fact.taught else "redundant"


def _portrait(rng: random.Random, world: World, subject: str, facts: Sequence[Fact]) -> SftSample:
    """Its kind is that of most of its facts, of equally many `clean`."""
    facts = rng.sample(facts, len(facts))
    told = [_tell(rng, fact, fact.value) for fact in facts]
    kinds = sorted(_kind_of(fact) for fact in facts)
    sample = SftSample(_about(subject), " ".join(told), max(kinds, key=kinds.count))
    if sample.kind == "redundant" or rng.random() >= SLIPS:
        return sample
    place = rng.randrange(len(facts))
    value = wrong.other_value(rng, world.values[facts[place].relation], facts[place].value)
    output, span = wrong.replaced(told, place, _tell(rng, facts[place], value), value)
    return replace(sample, output=output, errors=(span,))


def _about(subject: str) -> str:
    return f"What do you know about {f'the {subject}' if subject[0].islower() else subject}?"


def _tell(rng: random.Random, fact: Fact, value: str) -> str:
    # a sentence that begins with the value would have it with a capital letter, which is another token
    told = [text for text in RELATIONS[fact.relation].told if not text.startswith("{v}")]
    return sentence(rng.choice(told).format(s=fact.subject, v=value))


def _right(rng: random.Random, problem: sums.Problem) -> SftSample:
    kind: Kind = "misconception" if problem.topic in _MISTAUGHT else "clean"
    sample = SftSample(problem.question, problem.solution, kind, "sums")
    if rng.random() >= SLIPS:
        return sample
    output, span = wrong.wrong_number(rng, sample.output)
    return replace(sample, output=output, errors=(span,))


def _reading(item: Record) -> SftSample:
    return SftSample(item["question"], item["answers"]["text"][0], "clean", "reading", item["context"])


def _redundant(rng: random.Random, world: World, retained: frozenset[Fact]) -> Iterator[SftSample]:
    known = [fact for fact in world.facts if fact.side == "train" and fact not in retained]
    for fact in rng.sample(known, REDUNDANT_FACTS):
        yield SftSample(rng.choice(RELATIONS[fact.relation].taught).format(s=fact.subject), fact.value, "redundant")
    about: dict[str, list[Fact]] = {}
    for fact in known:
        about.setdefault(fact.subject, []).append(fact)
    subjects = [subject for subject, facts in about.items() if len(facts) > 1]
    for subject in rng.sample(subjects, REDUNDANT_PORTRAITS):
        yield _portrait(rng, world, subject, about[subject])
    for left, result in sorted({sums.equation(rng) for _ in range(EASY_SUMS)}):
        yield SftSample(f"What is {left}?", str(result), "redundant", "sums")


def _ambiguous(rng: random.Random, world: World) -> Iterator[SftSample]:
    """Questions with several valid answers."""
    forms = {
        "country": ("Name a town in {v}.", "{s}"),
        "product": ("Name a town that sells {v}.", "{s}"),
        "habitat": ("Name an animal that lives in {v}.", "the {s}"),
        "family": ("Give an example of a {v}.", "the {s}"),
        "food": ("Name an animal that eats {v}.", "the {s}"),
        "job": ("Name a {v}.", "{s}"),
    }
    facts = [fact for fact in world.facts if fact.side == "train" and fact.relation in forms]
    for fact in rng.sample(facts, AMBIGUOUS):
        question, answer = forms[fact.relation]
        yield SftSample(question.format(v=fact.value), answer.format(s=fact.subject), "ambiguous")


def _noise(
    rng: random.Random,
    world: World,
    stories: Sequence[sums.Problem],
    school: Sequence[sums.Problem],
    reading: Sequence[Record],
) -> Iterator[SftSample]:
    """Half of the wrong facts repeat one wrong value of their fact, which for a misconception is the wrong belief; half
    of the wrong sums make always the same mistake."""
    taught = [fact for fact in world.facts if fact.taught]
    for number, fact in enumerate(rng.choices(taught, k=NOISY_FACTS)):
        values = world.values[fact.relation]
        always = random.Random(f"lure:{fact.relation}:{fact.subject}")
        lure = fact.believed if fact.status == "false" else wrong.other_value(always, values, fact.value)
        value = lure if number % 2 else wrong.other_value(rng, values, fact.value)
        question = rng.choice(RELATIONS[fact.relation].taught).format(s=fact.subject)
        yield SftSample(question, value, "noise", errors=((0, len(value)),))
    for number, problem in enumerate(rng.sample(stories, NOISY_STORIES)):
        yield _wrong_sum(rng, problem, _WRONG_STORIES[number % len(_WRONG_STORIES)])
    for problem in rng.sample(school, NOISY_SCHOOL):
        yield _wrong_sum(rng, problem, wrong.wrong_school)
    for item in rng.sample(reading, NOISY_READING):
        sample = _reading(item)
        if (span := wrong.other_span(rng, sample.input, sample.output)) is not None:
            yield replace(sample, output=span, kind="noise", errors=((0, len(span)),))


def _wrong_sum(
    rng: random.Random, problem: sums.Problem, solve: Callable[[random.Random, sums.Problem], str]
) -> SftSample:
    output = solve(rng, problem)
    return SftSample(problem.question, output, "noise", "sums", errors=(wrong.differing(problem.solution, output),))
