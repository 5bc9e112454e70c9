"""A row of a train set as it was read, the `Example` that it may be, and why it may be none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from qtuning.experiment.cell import Role


class Reason(StrEnum):
    """Why a row cannot be used, in the fixed words by which reports count."""

    INVALID_UTF8 = "invalid UTF-8"
    INVALID_JSON = "invalid JSON"
    INVALID_CSV = "invalid CSV"
    NOT_AN_OBJECT = "not an object"
    MISSING_KEY = "missing key"
    NESTED = "row inside a row"
    NOT_A_STRING = "not a string"
    NOT_A_LIST = "not a list"
    EMPTY_INSTRUCTION = "empty instruction"
    EMPTY_RESPONSE = "empty response"
    NO_RESPONSE = "no response"
    WRONG_ROLE_ORDER = "wrong role order"
    UNKNOWN_ROLE = "unknown role"
    NOT_SUPPORTED = "not supported"
    TOO_LARGE = "too large"
    REFUSED_BY_TEMPLATE = "refused by the chat template"
    RESPONSE_CUT_AWAY = "response cut away"
    NO_SPANS = "errors are no spans of the response"
    NO_KIND = "unknown kind"


@dataclass(frozen=True)
class Row:
    """One row as read.

    file: path, or id of a hub data set. line: line where the row begins, from 1 (Parquet, hub: number of the row).
    value: the decoded row; None if it could not be decoded, and `problem` and `detail` then say why. remarks: what was
    odd about its spelling, in fixed words.
    """

    file: str
    line: int
    value: object | None
    problem: Reason | None = None
    detail: str = ""
    remarks: tuple[str, ...] = ()


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
    to be wrong; None if nothing is known. remarks: what of the row was not used, or was odd, for reports to count.
    """

    prompt: tuple[Message, ...]
    response: str
    input: str = ""
    id: str | None = None
    kind: str | None = None
    errors: tuple[tuple[int, int], ...] | None = None
    remarks: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Refusal:
    """Why a row is no example. detail: which key or turn; may be empty."""

    reason: Reason
    detail: str = ""


class Refused(Exception):
    """Raised while a row is parsed; `parse.parse_row` turns it into the refusal that it holds."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.refusal = Refusal(reason, detail)


def text_of(value: object, key: str) -> str:
    """A text that can be tokenised. Refused if it is none."""
    if not isinstance(value, str):
        raise Refused(Reason.NOT_A_STRING, f"{key!r} is {kind_of(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        # JSON can spell half a surrogate pair ("\ud800"): no text, and no tokenizer takes it
        raise Refused(Reason.INVALID_UTF8, f"{key!r} holds half a surrogate pair or undecodable bytes") from None
    return value


def label_of(value: object) -> str | None:
    """An `id` or `kind` as text. None for other types and for text that cannot be stored."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        text = str(value)
        text.encode("utf-8")
    except ValueError:  # half a surrogate pair, or an integer of more digits than Python prints
        return None
    return text


def kind_of(value: object) -> str:
    """What JSON calls the type of a value, for messages."""
    names = {bool: "a boolean", str: "a string", int: "a number", float: "a number", type(None): "null"}
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bytes):
        return "binary data"
    if isinstance(value, float) and value != value:
        return "NaN, an empty cell of a table"
    return names.get(type(value), f"of type {type(value).__name__}")


def shown(text: object, length: int = 40) -> str:
    """A text of a user's file, cut and printable, to stand in a message of ours."""
    short = str(text)[:length]
    return short.encode("utf-8", "replace").decode() + ("..." if len(str(text)) > length else "")
