"""Parses a row of a train set into an `Example`, or says why it is none. Raises nothing, whatever the row holds."""

import re
from collections.abc import Mapping, Sequence

from qtuning.data.forms import Texts, read_form
from qtuning.data.rows import Example, Reason, Refusal, Refused, Row, kind_of, label_of, shown
from qtuning.experiment.cell import TrainSet
from qtuning.experiment.truth import KINDS

_MARKS = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|eot_id|end|endoftext|user|assistant)\|>|<(?:start|end)_of_turn>|\[/?INST\]|"
    r"<<SYS>>|</s>|<｜(?:User|Assistant|end▁of▁sentence)｜>"
)
"""What chat templates write around messages. In a text, it was most likely written by one, and comes twice."""


def parse_row(row: Row, train_set: TrainSet) -> Example | Refusal:
    """Read a row, in the form and with the column names of `train_set`."""
    if row.problem is not None:
        return Refusal(row.problem, row.detail)
    try:
        if not isinstance(row.value, Mapping):
            raise Refused(Reason.NOT_AN_OBJECT, f"found {kind_of(row.value)}")
        texts = read_form(row.value, train_set)
        if any(message.role == "user" and not message.content.strip() for message in texts.prompt):
            raise Refused(Reason.EMPTY_INSTRUCTION)
        if not texts.response.strip():
            raise Refused(Reason.EMPTY_RESPONSE)
        _check_size([*(message.content for message in texts.prompt), texts.input, texts.response], train_set)
        return Example(
            texts.prompt,
            texts.response,
            texts.input if texts.input.strip() else "",
            id=label_of(row.value.get("id")),
            kind=_kind_of_sample(row.value, train_set.columns.get("kind")),
            errors=_spans(row.value, texts.response, train_set.columns.get("errors")),
            remarks=(*row.remarks, *texts.remarks, *_oddities(texts)),
        )
    except Refused as refused:
        return refused.refusal


def _oddities(texts: Texts) -> list[str]:
    """What is as it stands, though hardly anyone means it."""
    found = [
        f"{name} that is the word {text.strip()}"
        for name, text in (("input", texts.input), ("response", texts.response))
        if text.strip() in ("nan", "NaN", "None", "null", "<NA>")  # empty cells that were made texts
    ]
    if any(message.role == "assistant" and not message.content.strip() for message in texts.prompt):
        found.append("empty answer before the response")
    marks = (_MARKS.search(text) for text in (texts.response, *(message.content for message in texts.prompt)))
    found += [f"mark of a chat template in a text: {mark.group()}" for mark in marks if mark is not None][:1]
    return found


def _check_size(texts: Sequence[str], train_set: TrainSet) -> None:
    most = train_set.max_row_bytes
    if 4 * sum(map(len, texts)) > most and (size := sum(len(text.encode()) for text in texts)) > most:
        raise Refused(Reason.TOO_LARGE, f"{size:,} bytes of text; max_row_bytes is {most:,}")


def _spans(row: Mapping[object, object], response: str, name: str | None) -> tuple[tuple[int, int], ...] | None:
    """The known errors, each [start, end] in characters of the response. None if the train set has no such column."""
    if name is None:
        return None
    if name not in row:
        raise Refused(Reason.MISSING_KEY, repr(name))
    value = row[name]
    if not isinstance(value, list | tuple):
        raise Refused(Reason.NOT_A_LIST, f"{name!r} is {kind_of(value)}")
    spans = []
    for span in value:
        if not isinstance(span, list | tuple) or [type(place) for place in span] != [int, int]:
            raise Refused(Reason.NO_SPANS, "expected [start, end], two whole numbers")
        start, end = span
        if not 0 <= start < end <= len(response):
            raise Refused(Reason.NO_SPANS, f"[{start}, {end}] in {len(response)} characters")
        spans.append((start, end))
    return tuple(spans)


def _kind_of_sample(row: Mapping[object, object], name: str | None) -> str | None:
    """What a sample is; one of truth.KINDS if the train set says which column tells it."""
    kind = label_of(row.get("kind" if name is None else name))
    if name is not None and kind not in KINDS:
        raise Refused(Reason.NO_KIND, f"{name!r} is {shown(kind)!r}; expected one of {', '.join(KINDS)}")
    return kind
