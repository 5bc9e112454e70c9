"""N-gram overlap of texts: an index of the n-grams of some texts, in which other texts are looked up.

A text is a list of words, without case and punctuation. Texts of fewer than n words are looked for as a whole.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

Gram = tuple[str, ...]
WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words of a text in NFKC and lower case. Whatever is no letter or digit separates words."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return WORD.findall(text.lower())


@dataclass
class Index:
    """The distinct n-grams of texts, and which of them have been seen in a sample.

    sizes: by text, its distinct n-grams; 0 if it is shorter than n. single: by text, the most of its n-grams that one
    sample had. found: short texts that were seen as a whole. Takes some 300 bytes for each distinct n-gram, however
    many samples are scanned.
    """

    n: int
    sizes: list[int] = field(default_factory=list)
    single: list[int] = field(default_factory=list)
    found: set[int] = field(default_factory=set)
    # a number, not a list of one, saves memory: most n-grams stand in one text
    _grams: dict[Gram, int | list[int]] = field(default_factory=dict)
    _seen: set[Gram] = field(default_factory=set)
    # by first word, then length: few words of a sample begin a short text
    _short: dict[str, dict[int, dict[Gram, list[int]]]] = field(default_factory=dict)
    _vocabulary: dict[str, str] = field(default_factory=dict)

    def add(self, text: Sequence[str], short: bool) -> int:
        """Index a text and return its number. short: look for it as a whole if it has fewer than n words."""
        number = len(self.sizes)
        text = [self._vocabulary.setdefault(word, word) for word in text]  # n-grams share their words: less memory
        grams = set(_grams(text, self.n))
        self.sizes.append(len(grams))
        self.single.append(0)
        for gram in grams:
            owners = self._grams.setdefault(gram, number)
            if isinstance(owners, list):
                owners.append(number)
            elif owners != number:
                self._grams[gram] = [owners, number]
        if short and text and not grams:
            by_length = self._short.setdefault(text[0], {})
            by_length.setdefault(len(text), {}).setdefault(tuple(text), []).append(number)
        return number

    def scan(self, sample: Iterable[Sequence[str]]) -> dict[int, tuple[int, Gram]]:
        """What one training sample shares: by text, how many distinct n-grams, and the first of them.

        A short text that stands in the sample as a whole has 0 and its own words. The texts (messages) of the sample
        stay apart: no n-gram reaches from one into the next.
        """
        shared: dict[int, tuple[int, Gram]] = {}
        hits: set[Gram] = set()
        for text in sample:
            hits |= self._grams.keys() & set(_grams(text, self.n))
            for start, word in enumerate(text if self._short else ()):
                for length, candidates in self._short.get(word, {}).items():
                    gram = tuple(text[start : start + length])
                    shared |= dict.fromkeys(candidates.get(gram, ()), (0, gram))
        self._seen |= hits
        self.found |= shared.keys()
        for gram in sorted(hits):
            for number in self._owners(gram):
                count, first = shared.get(number, (0, gram))
                shared[number] = count + 1, first
                self.single[number] = max(self.single[number], count + 1)
        return shared

    def covered(self) -> list[int]:
        """By text, how many of its distinct n-grams have been seen in any sample."""
        covered = [0] * len(self.sizes)
        for gram in self._seen:
            for number in self._owners(gram):
                covered[number] += 1
        return covered

    def _owners(self, gram: Gram) -> list[int]:
        owners = self._grams[gram]
        return owners if isinstance(owners, list) else [owners]


def _grams(text: Sequence[str], n: int) -> Iterator[Gram]:
    return zip(*(text[start:] for start in range(n)), strict=False)
