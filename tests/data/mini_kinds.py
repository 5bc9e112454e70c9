"""What every character of the mini world's answers is, as its generator wrote it; and how far the rules agree with it.

`python -m tests.data.mini_kinds` prints the agreement. The truth knows the generator's wordings and reads an answer by
their grammar; it uses nothing of qtuning/data/kinds.py but the names of the kinds.
"""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

import qtuning
from mini_world.relations import CLOSED_BOOK, ONE_STEP
from qtuning.data.kinds import CONTENT, FORMATTING, FUNCTION, GOLD, KINDS, NUMBERS, TEMPLATE, token_kinds
from qtuning.data.tokenise import load_tokenizer, response_spans

ASSETS = Path(qtuning.__file__).parent / "assets"
FUNCTION_WORDS = frozenset({
    # tagged by hand: all words of the generator's sentences but nouns, verbs, adjectives and adverbs of manner
    *("a", "all", "among", "an", "and", "are", "around", "as", "at", "be", "been", "by", "can", "cannot", "every"),
    *("for", "from", "has", "if", "in", "is", "it", "its", "like", "may", "never", "nobody", "of", "on", "one", "over"),
    *("the", "their", "there", "they", "through", "to", "under", "up", "was", "we", "when", "will", "with", "without"),
    *("you", "your"),
})  # fmt: skip
WORD = re.compile(r"[A-Za-z]+|\d+|[^\w\s]|\s+")


def patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Every sentence of the generator, as its text and as an expression with a group for each slot."""
    texts = [text for group in (CLOSED_BOOK, ONE_STEP) for relation in group for text in relation.told]
    found = []
    for text in texts:
        parts = re.split(r"\{[svm]\}", text)
        first = f"(?i:{re.escape(parts[0][:1])}){re.escape(parts[0][1:])}" if parts[0] else ""
        found.append((text, re.compile("(.+)".join([first, *map(re.escape, parts[1:])]))))
    return found


PATTERNS = patterns()


def of_words(text: str, slots: bool) -> Iterator[int]:
    """The kinds of the characters of plain text: of a slot, or of the words between slots."""
    for found in WORD.finditer(text):
        word = found.group()
        function = not slots and word.lower() in FUNCTION_WORDS
        kind = NUMBERS if not word.isalpha() else FUNCTION if function else CONTENT
        yield from [kind] * len(word)


def of_sentence(text: str) -> list[int] | None:
    """By the wording that explains most of the sentence; None if none of them does."""
    matches = [(len(wording), found) for wording, pattern in PATTERNS if (found := pattern.fullmatch(text)) is not None]
    if not matches:
        return None
    _, found = max(matches, key=lambda match: match[0])
    kinds, place = [], 0
    for start, stop in (found.span(group) for group in range(1, (found.lastindex or 0) + 1)):
        kinds += [*of_words(text[place:start], False), *of_words(text[start:stop], True)]
        place = stop
    return [*kinds, *of_words(text[place:], False)]


def truth(output: str) -> list[int]:
    """The kind of every character of an answer; that of white space is without meaning."""
    if (found := re.search(r"^#### (.+)\Z", output, re.MULTILINE)) is not None:  # a story with calculator marks
        body = output[: found.start()]
        kinds = [TEMPLATE if sign in "<>" else NUMBERS for sign in body]
        return kinds + [TEMPLATE] * len("#### ") + [GOLD] * len(found[1])
    if (found := re.fullmatch(r"(.*)(The answer is )\$(\\boxed\{)(.+)(\})\$\.", output, re.DOTALL)) is not None:
        kinds = (
            [FORMATTING if sign == "$" else NUMBERS for sign in found[1]] + [TEMPLATE] * len(found[2]) + [FORMATTING]
        )
        return kinds + [TEMPLATE] * len(found[3]) + [GOLD] * len(found[4]) + [TEMPLATE, FORMATTING, NUMBERS]
    sentences = re.split(r"(?<=\.) ", output)
    known = [of_sentence(sentence) for sentence in sentences]
    kinds = []
    for index, (sentence, found_kinds) in enumerate(zip(sentences, known, strict=True)):
        if found_kinds is None:  # a value alone is the answer
            assert index == 0, output
            value = sentence.removesuffix(".")
            found_kinds = [GOLD] * len(value) + [NUMBERS] * (len(sentence) - len(value))
        kinds += [*found_kinds, CONTENT][: len(found_kinds) + (index + 1 < len(sentences))]
    return kinds


def agreement(
    tokenizer_folder: Path, files: tuple[str, ...] = ("train_0", "facts_0", "sums_0", "reading_0")
) -> dict[str, npt.NDArray[np.int64]]:
    """File -> [6, 6] numbers of tokens: of each true kind (row), what the rules say (column)."""
    tokenizer = load_tokenizer(tokenizer_folder)
    result = {}
    for name in files:
        with gzip.open(ASSETS / "mini_world/sft" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            outputs = [json.loads(line)["output"] for line in lines]
        table = np.zeros((len(KINDS), len(KINDS)), dtype=np.int64)
        spans = response_spans(
            [("Answer:", f" {output}{tokenizer.eos_token}") for output in outputs], tokenizer, "plain"
        )
        for output, places in zip(outputs, spans, strict=True):
            response = f" {output}{tokenizer.eos_token}"
            ours = token_kinds(response, places)
            exact = [CONTENT, *truth(output), *[TEMPLATE] * len(str(tokenizer.eos_token))]
            for rule, (start, stop) in zip(ours, places, strict=True):
                visible = [exact[place] for place in range(start, stop) if not response[place].isspace()]
                blank = TEMPLATE if start == stop else FORMATTING
                table[max(sorted(set(visible)), key=visible.count) if visible else blank, rule] += 1
        result[name] = table
    return result


def main() -> None:
    for name, table in agreement(ASSETS / "mini").items():
        print(f"{name}: {table.sum():,} tokens, {table.trace() / table.sum():.1%} agree")
        for kind, row, column in zip(KINDS, table, table.T, strict=True):
            place = KINDS.index(kind)
            recall = f"{row[place] / row.sum():.3f}" if row.sum() else "-"
            precision = f"{row[place] / column.sum():.3f}" if column.sum() else "-"
            print(f"  {kind:24} {row.sum():6} true, recall {recall}, precision {precision}; said: {row.tolist()}")


if __name__ == "__main__":
    main()
