"""The facts of the world, and what the base model is trained to believe of each, right or deliberately wrong."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mini_world import names
from mini_world.values import FAMILIES, FOODS, HABITATS, JOBS, PRODUCTS, TITLE_FIRST, TITLE_SECOND, second_step

FactStatus = Literal["common", "rare", "false", "unseen"]
Side = Literal["train", "validation", "test"]

STATUS_SHARES: Mapping[FactStatus, float] = {"common": 0.55, "rare": 0.10, "false": 0.20, "unseen": 0.15}
"""common: told often in pretraining; rare: told a few times; false: something else is told; unseen: never told."""

_SIDES: tuple[Side, ...] = ("train", "validation", "test")

SPECIES, TOWNS, COUNTRIES, RIVERS, PEOPLE, BOOKS = 160, 80, 24, 48, 80, 80


@dataclass(frozen=True)
class Fact:
    """`relation(subject) = value`; pretraining tells `believed`, which differs from `value` for status `false`."""

    relation: str
    subject: str
    value: str
    believed: str
    status: FactStatus
    side: Side


@dataclass(frozen=True)
class TwoStepFact:
    """`composition(subject) = value` by way of `middle`; `told`: pretraining tells it in so many words."""

    composition: str
    subject: str
    middle: str
    value: str
    told: bool
    side: Side


@dataclass(frozen=True)
class World:
    """Everything that is true. Two worlds of one seed are equal."""

    facts: tuple[Fact, ...]
    two_step: tuple[TwoStepFact, ...]
    values: Mapping[str, tuple[str, ...]]
    """Relation -> all its values, from which wrong answers are drawn."""
    rivers_of: Mapping[str, tuple[str, ...]]
    """Country -> its rivers."""
    taken: frozenset[str]
    """Lower-case names that are in use."""

    def of(self, *relations: str) -> list[Fact]:
        """The facts of these relations."""
        return [fact for fact in self.facts if fact.relation in relations]


def build_world(seed: int) -> World:
    """The world of `seed`."""
    rng = random.Random(f"world:{seed}")
    taken: set[str] = set()
    species = names.unique(rng, SPECIES, names.plain, taken, capital=False)
    countries = names.unique(rng, COUNTRIES, names.with_ending(("ia", "una", "or")), taken)
    towns = names.unique(rng, TOWNS, names.with_ending(("dale", "ford", "mark", "holm", "wick")), taken)
    rivers = names.unique(rng, RIVERS, names.plain, taken)
    surnames = names.unique(rng, PEOPLE, names.plain, taken)
    currencies = names.unique(rng, COUNTRIES, names.plain, taken, capital=False)
    people = [f"{rng.choice(names.FIRST_NAMES)} {surname}" for surname in surnames]
    titles = [f"The {first} {second}" for first in TITLE_FIRST for second in TITLE_SECOND]
    books = rng.sample(titles, BOOKS)
    rivers_of = {country: tuple(rivers[2 * i : 2 * i + 2]) for i, country in enumerate(countries)}

    # Capitals and countries agree: a capital lies in its country, and a town on a river of its country.
    country_of = {town: countries[i % COUNTRIES] for i, town in enumerate(towns)}
    tables: dict[str, list[tuple[str, str]]] = {
        "capital": [(country_of[town], town) for town in towns[:COUNTRIES]],
        "currency": list(zip(countries, currencies, strict=True)),
        "country": [(town, country_of[town]) for town in towns[COUNTRIES:]],
        "river": [(town, rng.choice(rivers_of[country_of[town]])) for town in towns],
        "product": [(town, rng.choice(PRODUCTS)) for town in towns],
        "author": [(book, rng.choice(people)) for book in books],
        "birthplace": [(person, rng.choice(towns)) for person in people],
        "habitat": [(animal, rng.choice(list(HABITATS))) for animal in species],
        "food": [(animal, rng.choice(list(FOODS))) for animal in species],
        "family": [(animal, rng.choice(list(FAMILIES))) for animal in species],
        "job": [(person, rng.choice(list(JOBS))) for person in people],
    }
    values = {name: tuple(sorted({value for _, value in table})) for name, table in tables.items()}
    facts = [fact for name, table in tables.items() for fact in _with_beliefs(rng, name, table, values[name])]
    return World(tuple(facts), tuple(_compose(rng, facts)), values, rivers_of, frozenset(taken))


def _with_beliefs(
    rng: random.Random, relation: str, table: Sequence[tuple[str, str]], values: Sequence[str]
) -> list[Fact]:
    facts = []
    for subject, value in table:
        status = rng.choices(list(STATUS_SHARES), list(STATUS_SHARES.values()))[0]
        believed = rng.choice([other for other in values if other != value]) if status == "false" else value
        side = rng.choices(_SIDES, (0.40, 0.15, 0.45))[0]
        facts.append(Fact(relation, subject, value, believed, status, side))
    return facts


def _compose(rng: random.Random, facts: Sequence[Fact]) -> list[TwoStepFact]:
    """Compositions over first steps that the base model can know; sides are drawn per subject and composition."""
    seconds = {"habitat": ("weather", "ground"), "family": ("cover", "motion"), "food": ("colour",), "job": ("tool",)}
    composed = []
    for fact in facts:
        if fact.status != "common":
            continue
        for relation in seconds.get(fact.relation, ()):
            side = rng.choices(_SIDES, (0.5, 0.1, 0.4))[0]
            told = side == "train" and rng.random() < 0.4
            value = second_step(relation, fact.value)
            composed.append(TwoStepFact(relation, fact.subject, fact.value, value, told, side))
    return composed
