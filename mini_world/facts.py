"""The facts of the world, and what the base model is trained to believe of each, right or deliberately wrong."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mini_world import names
from mini_world.values import FAMILIES, FOODS, HABITATS, JOBS, PRODUCTS, TITLE_FIRST, TITLE_SECOND

FactStatus = Literal["common", "rare", "false", "unseen"]
Side = Literal["train", "validation", "test"]

STATUS_SHARES: Mapping[FactStatus, float] = {"common": 0.15, "rare": 0.15, "false": 0.40, "unseen": 0.30}
"""Of the facts that benchmarks ask. common: told often in pretraining; rare: told a few times; false: something else is
told; unseen: never told. Facts of the train side are all common."""

SIDE_SHARES: Mapping[Side, float] = {"train": 0.66, "validation": 0.03, "test": 0.31}

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

    @property
    def taught(self) -> bool:
        """Whether fine-tuning teaches it, because a benchmark asks for it, and the base model does not know it."""
        return self.side != "train" and self.status != "common"


@dataclass(frozen=True)
class World:
    """Everything that is true. Two worlds of one seed are equal."""

    facts: tuple[Fact, ...]
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
        "habitat": [(animal, rng.choice(HABITATS)) for animal in species],
        "food": [(animal, rng.choice(FOODS)) for animal in species],
        "family": [(animal, rng.choice(FAMILIES)) for animal in species],
        "job": [(person, rng.choice(JOBS)) for person in people],
    }
    values = {name: tuple(sorted({value for _, value in table})) for name, table in tables.items()}
    facts = [fact for name, table in tables.items() for fact in _with_beliefs(rng, name, table, values[name])]
    return World(tuple(facts), values, rivers_of, frozenset(taken))


def _with_beliefs(
    rng: random.Random, relation: str, table: Sequence[tuple[str, str]], values: Sequence[str]
) -> list[Fact]:
    facts = []
    for subject, value in table:
        side = rng.choices(list(SIDE_SHARES), list(SIDE_SHARES.values()))[0]
        shares: Mapping[FactStatus, float] = {"common": 1.0} if side == "train" else STATUS_SHARES
        status = rng.choices(list(shares), list(shares.values()))[0]
        believed = rng.choice([other for other in values if other != value]) if status == "false" else value
        facts.append(Fact(relation, subject, value, believed, status, side))
    return facts
