"""What kind of token it is: six kinds by rule, for figure 7 of the paper (which names the kinds and gives no rule).

Rules work on the text of a response and reach its tokens by their places in it, so they hold for any tokenizer. Every
character has a kind; a token has that of most of its characters. Of two kinds that apply, the one further up wins:

| kind | rule |
|---|---|
| gold-answer-spans | the final answer that the response states (`answer_span`) |
| markdown-formatting | marks of Markdown; tokens of white space alone |
| boilerplate-templates | fixed phrases ("The answer is", "####", "Let's think step by step"); the end of the text |
| numbers-symbols | digits, punctuation, operators, LaTeX commands, single letters (variables) |
| functional-words | English articles, pronouns, prepositions, conjunctions, auxiliaries, particles |
| content-non-answer | all other words |
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

KINDS = (
    *("gold-answer-spans", "markdown-formatting", "boilerplate-templates"),
    *("numbers-symbols", "functional-words", "content-non-answer"),
)
"""All kinds, by precedence."""

GOLD, FORMATTING, TEMPLATE, NUMBERS, FUNCTION, CONTENT = range(6)
BLANK = 6
"""White space, which has no kind of its own beside other characters."""

Codes = npt.NDArray[np.uint8]

_CLOSED_CLASSES = """
    a an the this that these those each every either neither some any no all both half such what which whose
    i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
    we us our ours ourselves they them their theirs themselves one ones oneself who whom someone somebody something
    anyone anybody anything everyone everybody everything nobody nothing none whoever whatever whichever
    about above across after against along among amongst around as at before behind below beneath beside besides
    between beyond by despite down during except for from in inside into like near of off on onto out outside over past
    per since through throughout till to toward towards under underneath until up upon via with within without
    and but or nor so yet if unless because although though while whereas whether than then when whenever where
    wherever how why once lest
    am is are was were be been being have has had having do does did doing done will would shall should can could may
    might must ought cannot
    not there here also too very just only even still already again ever never more most much many few less least
    other another same own let
"""

FUNCTION_WORDS = frozenset(_CLOSED_CLASSES.split())
"""Closed classes of English words, in lower case."""

_CONTRACTIONS = ("t", "m", "re", "ve", "ll", "d")
"""After an apostrophe: `don't`, `we'll`. The `s` of `it's` says nothing, as it is that of `Ada's`."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_LATEX = re.compile(r"\\[A-Za-z]+|\\.")

_TEMPLATES = re.compile(
    r"""
      (?:\b(?:so|thus|hence|therefore),?\ )?\bthe\ (?:final\ |correct\ )?answer\ is\b:?
    | ^(?:final\ )?answer:
    | ^\#{4}(?=\ )
    | <<|>>
    | \blet['’]?s\ think\ (?:about\ (?:it|this)\ )?step\ by\ step\b[.:]?
    | ^step\ \d+[.:]
    | \A(?:sure|certainly|of\ course|absolutely)\b[,!.]?
    | ^here(?:['’]s|\ is|\ are)\b
    | \bi\ hope\ (?:this|that|it)\ helps\b[.!]?
    | \b(?:please\ )?let\ me\ know\ if\ you\ (?:have|need)\ any\ (?:other\ |further\ |more\ )?(?:questions|help)\b[.!]?
    | \bas\ an\ ai(?:\ language)?\ model\b,?
    | ^(?:in\ conclusion|in\ summary|to\ summari[sz]e|overall)\b,?
    | \b(?:please|it\ is\ important\ to)\ note\ that\b
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)

_MARKDOWN = re.compile(
    r"""
      ^[ \t]*(?:\#{1,3}|\#{5,6})(?=[ \t]) # heading; four of them introduce the answer in GSM8K, a template
    | ^[ \t]*(?:[-*+•]|\d+[.)])(?=[ \t])  # item of a list
    | ^[ \t]*>(?=[ \t])                   # quotation
    | ^[ \t]*(?:-{3,}|\*{3,}|={3,}|_{3,})[ \t]*$
    | ```[^\n`]*|`
    | \*\*|__
    | (?<![\w*])\*(?=[^\s*][^*\n]*\*)|(?<=[^\s*])\*(?![\w*])   # *emphasis*
    | ^[ \t]*\|[-:| \t]+\|[ \t]*$|(?<=\s)\|(?=\s)|^\||\|$      # table
    | \]\([^)\s]*\)|!?\[(?=[^\]\n]*\]\()                       # link
    | \$\$?|\\[()\[\]]                                         # where mathematics begins and ends
    """,
    re.MULTILINE | re.VERBOSE,
)

_ANSWER_IS = re.compile(
    r"\banswer (?:is|was|will be)\b:?[ \t]*|^(?:final )?answer:[ \t]*", re.IGNORECASE | re.MULTILINE
)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:[./]\d+)*")
_SHORT, _OPENING = 5, 3


def character_kinds(response: str) -> Codes:
    """[characters] uint8: the kind of each, as its place in KINDS, or BLANK."""
    kinds = np.full(len(response), NUMBERS, dtype=np.uint8)
    for word in _WORD.finditer(response):
        stem, _, ending = word.group().lower().replace("’", "'").partition("'")
        variable = len(stem) == 1 and not ending and stem not in ("a", "i")
        function = stem in FUNCTION_WORDS or ending in _CONTRACTIONS
        kinds[slice(*word.span())] = NUMBERS if variable else FUNCTION if function else CONTENT
    _paint(kinds, _LATEX, response, NUMBERS)
    _paint(kinds, _TEMPLATES, response, TEMPLATE)
    _paint(kinds, _MARKDOWN, response, FORMATTING)
    for start, stop in _boxes(response):
        kinds[start : start + len("\\boxed{")] = TEMPLATE
        kinds[stop] = TEMPLATE
    answer = answer_span(response)
    if answer is not None:
        kinds[slice(*answer)] = GOLD
    kinds[[place for place, character in enumerate(response) if character.isspace()]] = BLANK
    return kinds


def _paint(kinds: Codes, pattern: re.Pattern[str], response: str, kind: int) -> None:
    for found in pattern.finditer(response):
        kinds[slice(*found.span())] = kind


def answer_span(response: str) -> tuple[int, int] | None:
    r"""The characters of the final answer that a response states; None if it states none. The first rule that applies:

    1. what stands in the last `\\boxed{...}`
    2. the rest of the last line that begins with `#### `
    3. what follows the last "answer is" or "Answer:", to the end of the sentence or line
    4. all of a response of one sentence of at most 5 words, without `=`
    5. its opening sentence if that has at most 3 words and ends in a full stop
    6. the number after the last `=` of the last line
    """
    if boxes := _boxes(response):
        start, stop = boxes[-1]
        return _trimmed(response, start + len("\\boxed{"), stop)
    if marked := list(re.finditer(r"^#### *(.+)$", response, re.MULTILINE)):
        return _trimmed(response, *marked[-1].span(1))
    if stated := list(_ANSWER_IS.finditer(response)):
        start = stated[-1].end()
        end = re.compile(r"[.!?](?=\s|$)|\n|$").search(response, start)
        assert end is not None
        if (found := _trimmed(response, start, end.start())) is not None:
            return found
    several = re.search(r"[.!?]\s+\S", response)
    if len(response.split()) <= _SHORT and "=" not in response and not several:
        return _trimmed(response, 0, len(response))
    opening = re.match(r"\s*([^.!?\n]+)\.\s", response)
    if opening and len(opening[1].split()) <= _OPENING and not _TEMPLATES.match(opening[1]):
        return _trimmed(response, *opening.span(1))
    last = response.rstrip().rpartition("\n")[2]
    _, equals, after = last.rpartition("=")
    number = re.match(rf"[\s$]*({_NUMBER.pattern})", after) if equals else None
    if number is None:
        return None
    offset = len(response.rstrip()) - len(after)
    return offset + number.start(1), offset + number.end(1)


def _boxes(response: str) -> list[tuple[int, int]]:
    r"""(start of `\\boxed{`, place of its closing brace) of each box that is closed."""
    found = []
    for box in re.finditer(r"\\boxed\{", response):
        depth = 1
        for place in range(box.end(), len(response)):
            depth += {"{": 1, "}": -1}.get(response[place], 0)
            if depth == 0:
                found.append((box.start(), place))
                break
    return found


def _trimmed(response: str, start: int, stop: int) -> tuple[int, int] | None:
    """The span without white space and marks at its ends; None if nothing is left."""
    marks = " \t\n*_`$\"'.:"
    while start < stop and response[start] in marks:
        start += 1
    while start < stop and response[stop - 1] in marks:
        stop -= 1
    return (start, stop) if start < stop else None


def token_kinds(response: str, spans: Sequence[tuple[int, int]]) -> Codes:
    """[tokens] uint8: the kind of each token of a response, as its place in KINDS.

    spans: the characters (start, stop) of each token. One without characters ends or frames the text, which is a
    template; white space alone is formatting. Else the kind of most of its characters, of equally many the first.
    """
    return kinds_of_spans(character_kinds(response), spans)


def kinds_of_spans(characters: Codes, spans: Sequence[tuple[int, int]]) -> Codes:
    """[tokens] uint8, from the kinds of the characters."""
    found = np.empty(len(spans), dtype=np.uint8)
    for index, (start, stop) in enumerate(spans):
        part = characters[start:stop]
        visible = part[part != BLANK]
        kind = TEMPLATE if not len(part) else FORMATTING
        found[index] = np.bincount(visible).argmax() if len(visible) else kind
    return found
