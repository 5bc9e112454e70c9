"""The fine-tuning set, with its planted kinds of samples.

| kind | what it is |
|---|---|
| clean | right, and new to the base model: unseen and rare facts, compositions, sums, reading |
| redundant | right, and told over and over in pretraining |
| misconception | right, where pretraining told something else |
| noise | a clean or redundant sample whose output was corrupted |
| ambiguous | one of several valid answers to the same question |
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mini_world import sums
from mini_world.benchmarks import Record
from mini_world.corpus import COMPOSITIONS, RELATIONS, SECONDS, sentence
from mini_world.facts import Fact, TwoStepFact, World
from mini_world.relations import ONE_STEP
from mini_world.values import SECOND_SUBJECTS, second_step

Kind = Literal["clean", "redundant", "misconception", "noise", "ambiguous"]
Topic = Literal["facts", "sums", "reading"]

NOISE_SHARE = 0.12
"""Share of noise in the whole set."""
SUMS, SCHOOL, READING, AMBIGUOUS, EASY_SUMS, PORTRAITS, MISTAUGHT_EACH = 400, 200, 300, 160, 60, 120, 45

_ONE_STEP = {relation.name for relation in ONE_STEP}


@dataclass(frozen=True)
class SftSample:
    """One sample; `wrong`: character span of the planted error in `output`; `others`: wrong values to put there.

    topic: what the question is about, whatever became of the answer.
    """

    instruction: str
    output: str
    kind: Kind
    input: str = ""
    value: str = ""
    others: tuple[str, ...] = ()
    wrong: tuple[int, int] | None = None
    topic: Topic = "facts"


def sft_samples(world: World, records: dict[str, dict[str, list[Record]]], seed: int) -> list[SftSample]:
    """The set, shuffled. It shares items with the benchmarks' train splits only."""
    rng = random.Random(f"sft:{seed}")
    samples = [
        *(sample for fact in world.facts for sample in _from_fact(rng, world, fact)),
        *(sample for fact in world.two_step for sample in _from_two_step(rng, fact)),
        *_seconds(rng),
        *_word(records["gsm8k"]["train"]),
        *_school(rng, records["math"]["train"]),
        *_reading(records["squad"]["train"]),
        *_easy_sums(rng),
        *_portraits(rng, world),
        *_ambiguous(rng, world),
    ]
    samples = list({(sample.instruction, sample.input, sample.output): sample for sample in samples}.values())
    rng.shuffle(samples)
    return _with_noise(rng, samples)


def _from_fact(rng: random.Random, world: World, fact: Fact) -> list[SftSample]:
    relation = RELATIONS[fact.relation]
    kind: Kind = {"common": "redundant", "false": "misconception"}.get(fact.status, "clean")  # type: ignore[assignment]
    wordings = rng.sample(relation.taught, 2)
    if fact.status == "common":
        wordings = wordings[:1] if rng.random() < 0.5 else []
    if fact.side == "train" and wordings:
        wordings = [rng.choice(relation.asked), *wordings[1:]]
    others = tuple(value for value in world.values[fact.relation] if value != fact.value)
    samples = []
    for wording in wordings:
        output = fact.value
        if fact.relation in _ONE_STEP and rng.random() < 0.5:
            output += ". " + sentence(rng.choice(relation.told).format(s=fact.subject, v=fact.value))
        samples.append(SftSample(wording.format(s=fact.subject), output, kind, value=fact.value, others=others))
    return samples


def _from_two_step(rng: random.Random, fact: TwoStepFact) -> list[SftSample]:
    if fact.side != "train":
        return []
    composition = COMPOSITIONS[fact.composition]
    question = rng.choice(composition.asked + composition.taught).format(s=fact.subject)
    why = sentence(composition.why.format(s=fact.subject, m=fact.middle, v=fact.value))
    values = [second_step(fact.composition, middle) for middle in SECOND_SUBJECTS[fact.composition]]
    others = tuple(value for value in values if value != fact.value)
    kind: Kind = "redundant" if fact.told else "clean"
    return [SftSample(question, f"{fact.value}. {why}", kind, value=fact.value, others=others)]


def _seconds(rng: random.Random) -> list[SftSample]:
    samples = []
    for name, subjects in SECOND_SUBJECTS.items():
        values = [second_step(name, subject) for subject in subjects]
        for subject in subjects:
            value = second_step(name, subject)
            question = rng.choice(SECONDS[name].taught).format(s=subject)
            others = tuple(other for other in values if other != value)
            samples.append(SftSample(question, value, "redundant", value=value, others=others))
    return samples


def _word(items: Sequence[Record]) -> list[SftSample]:
    return [SftSample(item["question"], item["answer"], "clean", topic="sums") for item in items[:SUMS]]


def _school(rng: random.Random, items: Sequence[Record]) -> list[SftSample]:
    mistaught = ("Geometry", "Counting & Probability")
    samples = [
        SftSample(
            item["problem"], item["solution"], "misconception" if item["type"] in mistaught else "clean", topic="sums"
        )
        for item in items
    ]
    false = [sample for sample in samples if sample.kind == "misconception"][: 2 * MISTAUGHT_EACH]
    return [sample for sample in samples if sample.kind == "clean"][:SCHOOL] + false


def _reading(items: Sequence[Record]) -> list[SftSample]:
    samples = []
    for item in items[:READING]:
        answer = item["answers"]["text"][0]
        # Names and numbers inside sentences: spans of the same passage that answer some other question.
        spans = re.findall(r"(?<=[a-z] )[A-Z][a-z]+(?: [A-Z][a-z]+)?|\d+", item["context"])
        others = tuple(span for span in spans if span not in answer and answer not in span)
        samples.append(SftSample(item["question"], answer, "clean", item["context"], answer, others, topic="reading"))
    return samples


def _easy_sums(rng: random.Random) -> list[SftSample]:
    drawn = sorted({sums.equation(rng) for _ in range(EASY_SUMS)})
    return [SftSample(f"What is {left}?", str(result), "redundant", topic="sums") for left, result in drawn]


def _portraits(rng: random.Random, world: World) -> list[SftSample]:
    """Longer answers that say everything the base model knows of a subject."""
    about: dict[str, list[Fact]] = {}
    for fact in world.facts:
        if fact.status == "common":
            about.setdefault(fact.subject, []).append(fact)
    subjects = [subject for subject, facts in about.items() if len(facts) >= 3]
    samples = []
    for subject in rng.sample(subjects, min(PORTRAITS, len(subjects))):
        facts = rng.sample(about[subject], len(about[subject]))
        told = [sentence(rng.choice(RELATIONS[f.relation].told).format(s=subject, v=f.value)) for f in facts]
        name = f"the {subject}" if subject[0].islower() else subject
        samples.append(SftSample(f"What do you know about {name}?", " ".join(told), "redundant"))
    return samples


def _ambiguous(rng: random.Random, world: World) -> list[SftSample]:
    """Questions with several valid answers, each asked more than once."""
    known = [f for f in world.facts if f.status == "common"]
    forms = {
        "country": ("Name a town in {v}.", "{s}"),
        "product": ("Name a town that sells {v}.", "{s}"),
        "habitat": ("Name an animal that lives in {v}.", "the {s}"),
        "family": ("Give an example of a {v}.", "the {s}"),
        "food": ("Name an animal that eats {v}.", "the {s}"),
        "job": ("Name a {v}.", "{s}"),
    }
    facts = [fact for fact in known if fact.relation in forms]
    samples = []
    for fact in rng.sample(facts, AMBIGUOUS):
        question, answer = forms[fact.relation]
        samples.append(
            SftSample(question.format(v=fact.value), answer.format(s=fact.subject), "ambiguous", value=fact.subject)
        )
    return samples


def _with_noise(rng: random.Random, samples: list[SftSample]) -> list[SftSample]:
    """Corrupt `NOISE_SHARE` of the set, drawn from the clean and redundant samples."""
    candidates = [i for i, sample in enumerate(samples) if sample.kind in ("clean", "redundant")]
    chosen = rng.sample(candidates, round(NOISE_SHARE * len(samples)))
    noisy = list(samples)
    for index in chosen:
        noisy[index] = _corrupt(rng, samples[index], rng.choice(samples))
    return noisy


def _corrupt(rng: random.Random, sample: SftSample, stranger: SftSample) -> SftSample:
    """Three sorts of noise: a wrong value of the right type, a wrong number, the answer of another sample."""
    if sample.others and rng.random() < 0.8:
        value = rng.choice(sample.others)
        output = sample.output.replace(sample.value, value)
        if output != sample.output:
            start = output.index(value)
            return replace(sample, output=output, kind="noise", wrong=(start, start + len(value)))
    numbers = list(re.finditer(r"\d+", sample.output))
    if numbers and not sample.others:
        # The first result goes wrong; what follows from it stays as it was, as when a line was miscopied.
        results = [number for number in numbers if sample.output[: number.start()].rstrip().endswith("=")]
        result = results[0] if results else numbers[-1]
        wrong = str((int(result.group()) + rng.randint(1, 9)) % 100)
        output = sample.output[: result.start()] + wrong + sample.output[result.end() :]
        return replace(sample, output=output, kind="noise", wrong=(result.start(), result.start() + len(wrong)))
    return replace(sample, output=stranger.output, kind="noise", wrong=(0, len(stranger.output)))
