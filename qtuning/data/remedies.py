"""What a user is told of rows that cannot be used, and of keys that are not read."""

from collections import Counter
from collections.abc import Iterable

from qtuning.data.rows import Example, Reason

REMARKS = 50
"""Remarks that a report lists."""

_REMEDIES = {
    Reason.INVALID_UTF8: "save the file as UTF-8 (`iconv -f ENCODING -t UTF-8`; ENCODING is what its program writes, "
    "e.g. WINDOWS-1252 in Western Europe, GB18030 in China)",
    Reason.INVALID_JSON: "write one JSON object a line (`json.dumps`), or all in one JSON list",
    Reason.INVALID_CSV: "put cells that hold commas, quotes or line breaks in quotes, or save the table as JSONL",
    Reason.NOT_AN_OBJECT: "write rows and messages as JSON objects, keys with values",
    Reason.MISSING_KEY: "name the keys of its rows in its YAML: `columns: {instruction: KEY, output: KEY}`, or "
    "`columns: {messages: KEY, role: KEY, content: KEY}`; a row needs both a question and an answer, a message both "
    "whose turn it is and a text",
    Reason.NESTED: "write each of these as a row of its own, not as a part of another one",
    Reason.NOT_A_STRING: "make these texts, or name others under `columns` in its YAML",
    Reason.NOT_A_LIST: "write a list there (a list inside a text is none), or name another key under `columns`",
    Reason.EMPTY_INSTRUCTION: "fill in the questions, or leave these rows out",
    Reason.EMPTY_RESPONSE: "fill in the answers, or leave these rows out",
    Reason.NO_RESPONSE: "give each conversation an answer to learn, or leave these rows out",
    Reason.WRONG_ROLE_ORDER: "put the turns in that order (join turns of one role), or leave these rows out",
    Reason.UNKNOWN_ROLE: "say whose turns these are: `roles: {NAME: user}` or `roles: {NAME: assistant}` in its YAML",
    Reason.NOT_SUPPORTED: "leave these rows out; of a key that does not matter, write `ignore: [KEY]` in its YAML",
    Reason.TOO_LARGE: "shorten or split these rows, or raise max_row_bytes in its YAML",
    Reason.REFUSED_BY_TEMPLATE: "choose another `template` in the YAML of the model, or leave these rows out",
    Reason.RESPONSE_CUT_AWAY: "raise training.cutoff",
    Reason.NO_SPANS: "mend the column that `columns.errors` names",
    Reason.NO_KIND: "mend the column that `columns.kind` names",
}


def remedy_of(reason: Reason) -> str:
    """What to do about rows that are refused for this reason."""
    return _REMEDIES[reason]


def count_remarks(examples: Iterable[Example]) -> Counter[str]:
    """How many examples have each remark."""
    return Counter(remark for example in examples for remark in set(example.remarks))


def most_frequent(counts: Counter[str]) -> dict[str, int]:
    """The most frequent remarks first; at most REMARKS of them."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return dict(ordered[:REMARKS])
