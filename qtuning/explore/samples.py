"""The samples of a page: which ones, and their texts cut into tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from qtuning.data.kinds import Codes, token_kinds
from qtuning.data.samples import StoredSamples
from qtuning.probes.texts import Text
from qtuning.train.token_scores import order_to_show

EXCERPT = 90  # characters of the instruction in a list


@dataclass(frozen=True, eq=False)
class Shown:
    """A sample on the page.

    pieces: the text of each response token; empty for one that holds only a part of a character. rest: what the cutoff
    took. kinds: of the tokens (data/kinds.py). wrong: places in the response of tokens that are known to be wrong, or
    None where the train set does not say.
    """

    number: int
    id: str | None
    kind: str | None
    excerpt: str
    prompt: str
    prompt_tokens: int
    pieces: list[str]
    rest: str
    kinds: Codes
    wrong: list[int] | None


def choose(stored: StoredSamples, most: int) -> list[int]:
    """Numbers of at most `most` samples, ascending.

    They are the first of the order in which training keeps the scores of tokens, so those that have them come first.
    """
    chosen = order_to_show(len(stored))[:most]
    return sorted(stored.samples[position].number for position in chosen)


def shown_samples(stored: StoredSamples, numbers: Sequence[int], texts: dict[int, Text]) -> list[Shown]:
    """The samples of these numbers, in this order."""
    places = {sample.number: position for position, sample in enumerate(stored)}
    found = []
    for number in numbers:
        text, sample = texts[number], stored.samples[places[number]]
        pieces, rest = cut(text.response, text.spans)
        wrong = None
        if stored.errors is not None:
            wrong = [place - sample.prompt for place in stored.errors[places[number]] if place >= sample.prompt]
        excerpt = " ".join(text.instruction.split())
        found.append(
            Shown(
                number=number,
                id=text.id,
                kind=text.kind,
                excerpt=excerpt[:EXCERPT] + "…" * (len(excerpt) > EXCERPT),
                prompt=text.prompt,
                prompt_tokens=sample.prompt,
                pieces=pieces,
                rest=rest,
                kinds=token_kinds(text.response, text.spans),
                wrong=wrong,
            )
        )
    return found


def cut(response: str, spans: Sequence[tuple[int, int]]) -> tuple[list[str], str]:
    """(the text of each token, what follows the last one); all of them together are the response.

    Characters between two tokens go to the later one. Of tokens that share a character (the bytes of an emoji) the
    first one has it.
    """
    pieces, done = [], 0
    for _, stop in spans:
        pieces.append(response[done : max(done, stop)])
        done = max(done, stop)
    return pieces, response[done:]
