"""The forms in which rows spell a question and its answer: columns, conversations, prompts with completions.

A key with a meaning is honoured, or the row is refused by the key's name. Any other key is a remark of the example.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from qtuning.data.rows import Message, Reason, Refused, kind_of, shown, text_of
from qtuning.experiment.cell import Role, TrainSet

Object = Mapping[object, object]

SYSTEM = ("system", "system_prompt", "system_message")
CHAT, SHAREGPT = ("messages", "conversations", "conversation"), ("conversations", "conversation", "messages")
PAIRS = (("prompt", "completion"), ("prompt", "response"))
STYLES = (("role", "content"), ("from", "value"))
ROLES: dict[str, Role] = {
    **{"system": "system", "developer": "system"},
    **{"user": "user", "human": "user", "prompter": "user"},
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "ai", "chatgpt", "bing", "bard", "claude"), "assistant"),
}
OF_TOOLS = {"tool", "function", "function_call", "tool_call", "observation", "ipython", "function_response"}
LEARNED = ("weight", "train", "training", "trainable", "loss", "loss_mask", "loss_weight")
"""Keys of a message that say whether an answer is to be learned."""
WEIGHTS = ("weight", "weights", "sample_weight", "loss_weight", "loss_mask")
"""Keys of a row that say how much it counts, or which of its answers."""
UNWANTED = ("label", "kto_tag")
"""Keys of a row whose `false` says that the answer is a bad one."""
NOT_SUPPORTED = {
    *("tools", "functions", "tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "thought"),
    *("images", "image", "image_url", "videos", "video", "audios", "audio", "train_detail", "masked", "mask"),
    *("documents", "chat_template_kwargs", "recipient"),
}
"""Keys of a row, a message or its parts that change what a model reads or learns, in ways that nothing here writes."""
PLAIN = {"mask": ("user", "human"), "recipient": ("all",)}
"""Values of these that ask for nothing: NeMo's rows say whose turns are not learned, ChatGPT's who is spoken to."""
OF_QUESTION = ("context", "choices", "options")
"""Keys of rows without messages that questions may need."""
TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass
class Texts:
    """What a row says. used: its keys that were read. remarks: what was not honoured, for reports to count."""

    prompt: tuple[Message, ...]
    response: str
    input: str = ""
    used: set[object] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)


def read_form(row: Object, train_set: TrainSet) -> Texts:
    """The texts of a row, in the form that the train set names or, where it says `alpaca`, that the row's keys show.

    Refused where the row is not in this form, or asks for what cannot be done.
    """
    names, ignored = train_set.columns, train_set.ignore
    _check_supported(row, "", ignored)
    for key in WEIGHTS:
        value = row.get(key)
        if key not in ignored and any(
            each not in (None, 1) for each in (value if isinstance(value, list) else [value])
        ):
            raise Refused(Reason.NOT_SUPPORTED, f"{key!r} is {shown(value)!r}: all rows and answers count alike")
    reader = _reader(row, train_set)
    for key in UNWANTED:  # beside columns, `label` is a class more often than a verdict
        told = (value := row.get(key)) is False or value in ("false", "False")
        if told and key not in ignored and (key != "label" or reader is not _alpaca):
            raise Refused(Reason.NOT_SUPPORTED, f"{key!r} is false: an answer that is not wanted")
    texts = reader(row, train_set)
    for key in OF_QUESTION if reader in (_alpaca, _pair) else ():
        if key not in ignored and key not in names.values() and _given(row.get(key)):
            how = f"columns: {{input: {key}}}" if isinstance(row[key], str) else "it into the question's text"
            raise Refused(Reason.NOT_SUPPORTED, f"{key!r} may belong to the question: if so, write {how}")
    texts.remarks += [
        f"no key {name!r} (columns.{column})"
        for column, name in names.items()
        if column in ("input", "system", "history") and name not in row
    ]
    known = {"id", "kind", *WEIGHTS, *names.values(), *texts.used} - set(ignored)
    texts.remarks += [f"key {shown(key)!r}" for key, value in row.items() if key not in known and value is not None]
    return texts


def _reader(row: Object, train_set: TrainSet) -> Callable[[Object, TrainSet], Texts]:
    form, names = train_set.format, train_set.columns
    if form != "alpaca":
        return _pair if form == "prompt-completion" else partial(_chat, keys=CHAT if form == "chat" else SHAREGPT)
    if {"instruction", "output"} & names.keys():
        return _alpaca
    given = {key: value for key, value in row.items() if _given(value)}
    for keys in (given, row):  # where sets were joined, all rows have the keys of all, most of them null
        if "instruction" in keys:
            return _alpaca
        if "messages" in names or any(key in keys for key in CHAT):
            return partial(_chat, keys=CHAT)
        if any(prompt in keys and answer in keys for prompt, answer in PAIRS):
            return _pair
    return _alpaca


def _present(row: Object, keys: Sequence[str]) -> str | None:
    """The first of these keys that says anything in the row, else the first that it has."""
    return next((key for key in keys if _given(row.get(key))), next((key for key in keys if key in row), None))


def _alpaca(row: Object, train_set: TrainSet) -> Texts:
    """{"instruction", "input", "output", "system", "history"}; all but two are optional."""
    names = train_set.columns
    keys = [names.get(column, column) for column in ("instruction", "output")]
    instruction, response = (_text(row, key) for key in keys)
    # a key that is another column is not this one, too: `columns: {instruction: input}` leaves no input
    more = [names.get(column, column if column not in names.values() else None) for column in ("input", "history")]
    given = row.get(more[0])
    input_ = "" if more[0] is None or given is None else text_of(given, more[0])
    turns = [] if more[1] is None or more[1] in train_set.ignore else _history(row, more[1])
    system, used = _system(row, train_set)
    return Texts((*system, *turns, Message("user", instruction)), response, input_, {*keys, *more, *used})


def _history(row: Object, key: str) -> list[Message]:
    """Earlier turns: a list of [question, answer]."""
    turns: list[Message] = []
    if not _given(row.get(key)):
        return turns
    for index, pair in enumerate(_list(row, key)):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Refused(Reason.NOT_A_LIST, f"{key}[{index}]: expected [question, answer]")
        question, answer = (text_of(text, f"{key}[{index}]") for text in pair)
        turns += [Message("user", question), Message("assistant", answer)]
    return turns


def _pair(row: Object, train_set: TrainSet) -> Texts:
    """{"prompt", "completion"}: two texts, or two lists of messages that are one conversation."""
    names = train_set.columns
    answer = _present(row, [pair[1] for pair in PAIRS])
    ask, answer = next((pair for pair in PAIRS if pair[1] == answer), PAIRS[0])
    ask, answer = names.get("instruction", ask), names.get("output", answer)
    system, used = _system(row, train_set)
    if not isinstance(row.get(ask), list | tuple):
        return Texts((*system, Message("user", _text(row, ask))), _text(row, answer), "", {ask, answer, *used})
    alone = [{"role": "assistant", "content": row.get(answer)}]
    answers = _list(row, answer) if isinstance(row.get(answer), list | tuple) else alone
    texts = _conversation([*_list(row, ask), *answers], "prompt", row, train_set)
    texts.used |= {ask, answer}
    return texts


def _chat(row: Object, train_set: TrainSet, keys: Sequence[str]) -> Texts:
    """A list of messages under the first of `keys` that the row has."""
    name = train_set.columns.get("messages") or _present(row, keys) or keys[0]
    texts = _conversation(_list(row, name), name, row, train_set)
    texts.used.add(name)
    return texts


@dataclass(frozen=True)
class _Turn:
    message: Message
    learned: bool | None  # None: nothing is said


def _conversation(turns: Sequence[object], name: str, row: Object, train_set: TrainSet) -> Texts:
    """The last answer that may be learned is the response, and all before it is the prompt.

    Messages behind it have no response to learn and are left out.
    """
    remarks: set[str] = set()
    read = [_turn(turn, f"{name}[{index}]", name, train_set, remarks) for index, turn in enumerate(turns)]
    answers = [index for index, turn in enumerate(read) if turn.message.role == "assistant"]
    wanted = [index for index in answers if read[index].learned is not False]
    if not wanted:
        raise Refused(Reason.NO_RESPONSE, "no answer is to be learned (weight 0)" if answers else "")
    if any(turn.learned for turn in read[: wanted[-1]]):
        remarks.add("weight 1 of a message before the response")
    if len(read) > wanted[-1] + 1:
        remarks.add("messages behind the response")
    prompt, response = tuple(turn.message for turn in read[: wanted[-1]]), read[wanted[-1]].message.content
    own = next((message.content for message in prompt if message.role == "system"), None)
    system, used = _system(row, train_set, own)
    prompt = (*system, *prompt)
    turns_only = prompt[1:] if prompt and prompt[0].role == "system" else prompt
    expected = tuple("user" if index % 2 == 0 else "assistant" for index in range(len(turns_only)))
    if not len(turns_only) % 2 or tuple(message.role for message in turns_only) != expected:
        found = ", ".join(message.role for message in prompt[:6]) + (", ..." if len(prompt) > 6 else "")
        raise Refused(
            Reason.WRONG_ROLE_ORDER,
            f"expected [system], user, assistant, user, ...; before the response: {found or 'nothing'}",
        )
    return Texts(prompt, response, "", used, sorted(remarks))


def _turn(turn: object, where: str, name: str, train_set: TrainSet, remarks: set[str]) -> _Turn:
    if not isinstance(turn, Mapping):
        raise Refused(Reason.NOT_AN_OBJECT, f"{where} is {kind_of(turn)}")
    by_sender = turn.get("from") is not None and turn.get("role") is None
    role_key, content_key = STYLES[1] if by_sender else STYLES[0]
    if train_set.columns:
        role_key = train_set.columns.get("role", role_key)
        content_key = train_set.columns.get("content", content_key)
    more = len(turn) > 2  # keys than these; most have none
    if more:
        _check_supported(turn, f"{where}.", train_set.ignore)
    role = _role(_text(turn, role_key, where), where, train_set)
    if content_key not in turn:
        raise _missing(turn, content_key, where)
    message = Message(role, _joined(turn[content_key], f"{where}.{content_key}", train_set.ignore))
    if not more:
        return _Turn(message, None)
    known = {role_key, content_key, *LEARNED} - set(train_set.ignore)
    remarks |= {f"key '{name}[].{shown(key)}'" for key, value in turn.items() if key not in known and value is not None}
    return _Turn(message, _learned(turn, where, train_set.ignore))


def _role(word: str, where: str, train_set: TrainSet) -> Role:
    if (role := train_set.roles.get(word) or ROLES.get(word.lower())) is not None:
        return role
    if word.lower() in OF_TOOLS:
        raise Refused(Reason.NOT_SUPPORTED, f"{where} is a turn of a tool ({shown(word)!r})")
    known = ", ".join([*train_set.roles, *ROLES])
    raise Refused(Reason.UNKNOWN_ROLE, f"{where}: {shown(word, 20)!r} (known: {known})")


def _learned(turn: Object, where: str, ignored: Collection[str]) -> bool | None:
    """Whether a message asks to be learned; None if it says nothing."""
    found = None
    for key in LEARNED:
        value = turn.get(key)
        if value is None or key in ignored:
            continue
        if value not in (0, 1):
            raise Refused(
                Reason.NOT_SUPPORTED, f"'{where}.{key}' is {shown(value)!r}: a message is learned (1) or not (0)"
            )
        found = bool(value) and found is not False
    return found


def _joined(content: object, where: str, ignored: Collection[str]) -> str:
    """The text of a message. Parts of text are joined by line breaks."""
    if not isinstance(content, list | tuple):
        return text_of(content, where)
    texts = []
    for index, part in enumerate(content):
        if isinstance(part, Mapping):
            kind = part.get("type", "text")
            if kind not in TEXT_PARTS:
                raise Refused(Reason.NOT_SUPPORTED, f"'{where}[{index}]' is of type {shown(kind)!r}")
            _check_supported(part, f"{where}[{index}].", ignored)
            part = part.get("text")
        texts.append(text_of(part, f"{where}[{index}]"))
    return "\n".join(texts)


def _system(row: Object, train_set: TrainSet, own: str | None = None) -> tuple[list[Message], set[object]]:
    """The system message that the row states beside its turns, and the keys that say it.

    own: that of the conversation itself. A `system` that contradicts it is refused. Other keys often repeat or
    shorten what the conversation holds (OpenHermes), so the conversation wins, and they count as not read.
    """
    name, found = train_set.columns.get("system"), own
    used: set[object] = set()
    for key in (name,) if name is not None else [key for key in SYSTEM if key not in train_set.columns.values()]:
        value = row.get(key)
        if value is None or key in train_set.ignore:
            continue
        text = text_of(value, key)
        if text.strip() and found is not None and text.strip() != found.strip():
            if key != "system" and name is None:
                continue
            raise Refused(Reason.NOT_SUPPORTED, f"{key!r} differs from the system message of the conversation")
        used.add(key)
        found = text if text.strip() and found is None else found
    return ([Message("system", found)] if found is not None and own is None else []), used


def _check_supported(found: Object, where: str, ignored: Collection[str]) -> None:
    if NOT_SUPPORTED.isdisjoint(found):
        return
    for key in NOT_SUPPORTED & found.keys():
        if key not in ignored and _given(found[key]) and str(found[key]).lower() not in PLAIN.get(key, ()):
            raise Refused(Reason.NOT_SUPPORTED, f"'{where}{key}'")


def _given(value: object) -> bool:
    """Whether a key says anything: some files write every key into every row."""
    if isinstance(value, str):
        return value.strip() not in ("", "[]", "{}", "null")
    return value is not None and value is not False and not (isinstance(value, list | tuple | Mapping) and not value)


def _list(row: Object, key: str) -> Sequence[object]:
    if key not in row:
        raise _missing(row, key)
    value = row[key]
    if not isinstance(value, list | tuple):
        raise Refused(Reason.NOT_A_LIST, f"{key!r} is {kind_of(value)}")
    return value


def _text(row: Object, key: str, where: str = "") -> str:
    if key not in row:
        raise _missing(row, key, where)
    return text_of(row[key], f"{where}.{key}" if where else key)


def _missing(row: Object, key: str, where: str = "") -> Refused:
    keys = [shown(name, 30) for name in row]
    has = (", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")) or "no keys"
    if where:
        return Refused(Reason.MISSING_KEY, f"{where}: {key!r}; the message has {has}")
    if (name := _with_rows(row, key)) is not None:
        return Refused(Reason.NESTED, f"{key!r}; the row has {has}, and {shown(name, 30)!r} holds rows")
    return Refused(Reason.MISSING_KEY, f"{key!r}; the row has {has}")


def _with_rows(found: Object, key: str, depth: int = 2) -> object | None:
    """The key under which an object has what would be a row: one with `key`, or with a key that begins a form."""
    for name, value in found.items():
        inner = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(inner, Mapping) and (
            not inner.keys().isdisjoint({key, "instruction", *CHAT})
            or (depth > 1 and _with_rows(inner, key, depth - 1) is not None)
        ):
            return name
    return None
