"""N-gram overlap of texts: an index of the n-grams of some texts, in which other texts are looked up.

A text is a list of words, without case and punctuation. Texts of fewer than n words are looked for as a whole.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Gram = tuple[str, ...]
WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words of a text in NFKC and lower case. Whatever is no letter or digit separates words."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return WORD.findall(text.lower())


@dataclass(frozen=True)
class Shared:
    """What a training sample shares with indexed texts.

    counts: by text, how many distinct n-grams. whole: the short texts that stand in it. grams: by text, one shared
    n-gram, or the short text.
    """

    counts: dict[int, int]
    whole: frozenset[int]
    grams: dict[int, Gram]

    @property
    def texts(self) -> set[int]:
        """Numbers of all texts that share something with the sample."""
        return self.counts.keys() | self.whole


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
    _grams: dict[Gram, int | list[int]] = field(default_factory=dict)
    _seen: set[Gram] = field(default_factory=set)
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

    def scan(self, sample: Iterable[Sequence[str]]) -> Shared:
        """Look up one training sample. Its texts (messages) stay apart: no n-gram reaches from one into the next."""
        hits: set[Gram] = set()
        whole: dict[int, Gram] = {}
        for text in sample:
            hits |= self._grams.keys() & set(_grams(text, self.n))
            whole |= self._whole(text)
        self._seen |= hits
        self.found |= whole.keys()
        counts: Counter[int] = Counter()
        grams: dict[int, Gram] = dict(whole)
        for gram in sorted(hits):
            owners = self._grams[gram]
            for number in owners if isinstance(owners, list) else [owners]:
                counts[number] += 1
                grams.setdefault(number, gram)
        for number, count in counts.items():
            self.single[number] = max(self.single[number], count)
        return Shared(dict(counts), frozenset(whole), grams)

    def covered(self) -> list[int]:
        """By text, how many of its distinct n-grams have been seen in any sample."""
        covered = [0] * len(self.sizes)
        for gram in self._seen:
            owners = self._grams[gram]
            for number in owners if isinstance(owners, list) else [owners]:
                covered[number] += 1
        return covered

    def _whole(self, text: Sequence[str]) -> dict[int, Gram]:
        """The short texts that stand in `text`, word for word."""
        found: dict[int, Gram] = {}
        if not self._short:
            return found
        for start, word in enumerate(text):
            for length, candidates in self._short.get(word, {}).items():
                gram = tuple(text[start : start + length])
                found |= dict.fromkeys(candidates.get(gram, ()), gram)
        return found


def _grams(text: Sequence[str], n: int) -> Iterable[Gram]:
    return zip(*(text[start:] for start in range(n)), strict=False)
