"""Parses a row of a train set into an `Example`, or says why it is none. Raises nothing, whatever the row holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Literal

from qtuning.experiment.cell import Column, TrainSet
from qtuning.experiment.truth import KINDS

Role = Literal["system", "user", "assistant"]


class Reason(StrEnum):
    """Why a row cannot be used, in the fixed words by which reports count."""

    INVALID_UTF8 = "invalid UTF-8"
    INVALID_JSON = "invalid JSON"
    NOT_AN_OBJECT = "not an object"
    MISSING_KEY = "missing key"
    NOT_A_STRING = "not a string"
    NOT_A_LIST = "not a list"
    EMPTY_INSTRUCTION = "empty instruction"
    EMPTY_RESPONSE = "empty response"
    NO_RESPONSE = "no response"
    WRONG_ROLE_ORDER = "wrong role order"
    REFUSED_BY_TEMPLATE = "refused by the chat template"
    RESPONSE_CUT_AWAY = "response cut away"
    NO_SPANS = "errors are no spans of the response"
    NO_KIND = "unknown kind"


@dataclass(frozen=True)
class Row:
    """One row as read.

    file: path, or id of a hub data set. line: line where the row begins, from 1 (Parquet, hub: number of the row).
    value: the decoded row; None if it could not be decoded, and `problem` then says why.
    """

    file: str
    line: int
    value: object | None
    problem: Reason | None = None


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Example:
    """The texts of a sample, before a template joins them.

    prompt: [system], user, (assistant, user)*; it ends with the user's turn. response: what the model learns to write.
    input: the `input` column of the alpaca form, "" if there is none; it belongs to the last turn of the prompt. id,
    kind: as the row gives them, for analyses. errors: spans of the response, (start, end) in characters, that are known
    to be wrong; None if nothing is known.
    """

    prompt: tuple[Message, ...]
    response: str
    input: str = ""
    id: str | None = None
    kind: str | None = None
    errors: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a row is no example. detail: which key or turn; may be empty."""

    reason: Reason
    detail: str = ""


class _Refused(Exception):
    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.refusal = Refusal(reason, detail)


def parse_row(row: Row, train_set: TrainSet) -> Example | Refusal:
    """Read a row, in the form and with the column names of `train_set`."""
    if row.problem is not None:
        return Refusal(row.problem)
    try:
        if not isinstance(row.value, Mapping):
            raise _Refused(Reason.NOT_AN_OBJECT, f"found {_kind(row.value)}")
        read = _alpaca if train_set.format == "alpaca" else partial(_chat, form=FORMS[train_set.format])
        prompt, response, input_ = read(row.value, train_set.columns)
        if any(message.role == "user" and not message.content.strip() for message in prompt):
            raise _Refused(Reason.EMPTY_INSTRUCTION)
        if not response.strip():
            raise _Refused(Reason.EMPTY_RESPONSE)
        return Example(
            prompt,
            response,
            input_ if input_.strip() else "",
            id=_label(row.value.get("id")),
            kind=_kind_of_sample(row.value, train_set.columns.get("kind")),
            errors=_spans(row.value, response, train_set.columns.get("errors")),
        )
    except _Refused as refused:
        return refused.refusal


_Texts = tuple[tuple[Message, ...], str, str]  # prompt, response, input


@dataclass(frozen=True)
class _Form:
    """How a conversation is written.

    column: of the list of messages. role, content: keys of a message. roles: words for system, user, assistant.
    """

    column: str
    role: str
    content: str
    roles: Mapping[str, Role]


FORMS: Mapping[str, _Form] = {
    "chat": _Form("messages", "role", "content", {"system": "system", "user": "user", "assistant": "assistant"}),
    "sharegpt": _Form("conversations", "from", "value", {"system": "system", "human": "user", "gpt": "assistant"}),
}


def _alpaca(row: Mapping[object, object], names: Mapping[Column, str]) -> _Texts:
    """{"instruction", "input" (optional), "output"}. A blank or null `input` is none."""
    instruction = _text(row, names.get("instruction", "instruction"))
    response = _text(row, names.get("output", "output"))
    given = row.get(names.get("input", "input"))
    input_ = "" if given is None else _string(given, names.get("input", "input"))
    return (Message("user", instruction),), response, input_


def _chat(row: Mapping[object, object], names: Mapping[Column, str], form: _Form) -> _Texts:
    """A list of messages: the last one of the assistant is the response, all before it the prompt.

    Messages after it have no response to learn and are left out.
    """
    name = names.get("messages", form.column)
    messages = [_message(turn, f"{name}[{index}]", form) for index, turn in enumerate(_list(row, name))]
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        raise _Refused(Reason.NO_RESPONSE)
    prompt, response = tuple(messages[: answers[-1]]), messages[answers[-1]].content
    turns_only = prompt[1:] if prompt and prompt[0].role == "system" else prompt
    expected = tuple("user" if index % 2 == 0 else "assistant" for index in range(len(turns_only)))
    found = tuple(message.role for message in turns_only)
    if not turns_only or found != expected or found[-1] != "user":
        system, user, assistant = form.roles
        raise _Refused(Reason.WRONG_ROLE_ORDER, f"expected [{system}], {user}, {assistant}, {user}, {assistant}, ...")
    return prompt, response, ""


def _spans(row: Mapping[object, object], response: str, name: str | None) -> tuple[tuple[int, int], ...] | None:
    """The known errors, each [start, end] in characters of the response. None if the train set has no such column."""
    if name is None:
        return None
    spans = []
    for span in _list(row, name):
        if not isinstance(span, list | tuple) or [type(place) for place in span] != [int, int]:
            raise _Refused(Reason.NO_SPANS, "expected [start, end], two whole numbers")
        start, end = span
        if not 0 <= start < end <= len(response):
            raise _Refused(Reason.NO_SPANS, f"[{start}, {end}] in {len(response)} characters")
        spans.append((start, end))
    return tuple(spans)


def _kind_of_sample(row: Mapping[object, object], name: str | None) -> str | None:
    """What a sample is; one of truth.KINDS if the train set says which column tells it."""
    kind = _label(row.get("kind" if name is None else name))
    if name is not None and kind not in KINDS:
        raise _Refused(Reason.NO_KIND, f"{name!r} is {kind!r}; expected one of {', '.join(KINDS)}")
    return kind


def _message(turn: object, where: str, form: _Form) -> Message:
    if not isinstance(turn, Mapping):
        raise _Refused(Reason.NOT_AN_OBJECT, f"{where} is {_kind(turn)}")
    role, content = _text(turn, form.role, where), _text(turn, form.content, where)
    if role not in form.roles:
        shown = role if len(role) <= 20 else role[:20] + "..."
        raise _Refused(Reason.WRONG_ROLE_ORDER, f"{where}: unknown role {shown!r} (known: {', '.join(form.roles)})")
    return Message(form.roles[role], content)


def _list(row: Mapping[object, object], key: str) -> Sequence[object]:
    if key not in row:
        raise _Refused(Reason.MISSING_KEY, repr(key))
    value = row[key]
    if not isinstance(value, list | tuple):
        raise _Refused(Reason.NOT_A_LIST, f"{key!r} is {_kind(value)}")
    return value


def _text(row: Mapping[object, object], key: str, where: str = "") -> str:
    if key not in row:
        raise _Refused(Reason.MISSING_KEY, f"{where}: {key!r}" if where else repr(key))
    return _string(row[key], f"{where}.{key}" if where else key)


def _string(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise _Refused(Reason.NOT_A_STRING, f"{key!r} is {_kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        # JSON can spell half a surrogate pair ("\ud800"): no text, and no tokenizer takes it
        raise _Refused(Reason.INVALID_UTF8, f"{key!r} holds half a surrogate pair or undecodable bytes") from None
    return value


def _label(value: object) -> str | None:
    """An `id` or `kind` as text. None for other types and for text that cannot be stored."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        text = str(value)
        text.encode("utf-8")
    except ValueError:  # half a surrogate pair, or an integer of more digits than Python prints
        return None
    return text


def _kind(value: object) -> str:
    """What JSON calls the type of a value, for messages."""
    names = {bool: "a boolean", str: "a string", int: "a number", float: "a number", type(None): "null"}
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return names.get(type(value), f"of type {type(value).__name__}")
