"""Invented names: pronounceable, unique, and made of few tokens."""

import random
from collections.abc import Callable, Sequence

_ONSETS = ("b", "br", "d", "dr", "f", "g", "gl", "h", "k", "kr", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "tr",
           "v", "w", "z")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ei", "ou")
_CODAS = ("", "l", "m", "n", "r", "s", "k", "nd", "rn", "x")

FIRST_NAMES = (
    "Ada", "Bela", "Cora", "Dina", "Edda", "Fay", "Gwen", "Hana", "Ines", "June", "Kira", "Lena", "Mona",
    "Nora", "Olga", "Pia", "Rosa", "Sara", "Tess", "Uma", "Vera", "Wanda", "Yara", "Zoe", "Abel",
    "Boris", "Carl", "Doran", "Emil", "Felix", "Gus", "Hugo", "Ivan", "Jonas", "Karl", "Leo", "Milo",
    "Nils", "Oscar", "Paul", "Rolf", "Simon", "Tom", "Udo", "Victor", "Walt", "Yuri", "Zeno",
)  # fmt: skip


def syllable(rng: random.Random) -> str:
    """One syllable, such as `kron`."""
    return rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)


def open_syllable(rng: random.Random) -> str:
    """A syllable that ends in a vowel, such as `bra`."""
    return rng.choice(_ONSETS) + rng.choice(_VOWELS[:5])


def unique(
    rng: random.Random, count: int, make: Callable[[random.Random], str], taken: set[str], capital: bool = True
) -> list[str]:
    """`count` different names from `make`, none in `taken` (which grows by them)."""
    names: list[str] = []
    while len(names) < count:
        name = make(rng)
        name = name.capitalize() if capital else name
        if 4 <= len(name) <= 9 and name.lower() not in taken:
            taken.add(name.lower())
            names.append(name)
    return names


def with_ending(endings: Sequence[str]) -> Callable[[random.Random], str]:
    """A maker of names that end in one of `endings`, such as `Krondale`."""
    return lambda rng: syllable(rng) + rng.choice(endings)


def plain(rng: random.Random) -> str:
    """A name of two syllables."""
    return open_syllable(rng) + syllable(rng)
