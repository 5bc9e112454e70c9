"""Rows: every value is an example or a refusal with one of the fixed reasons."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.data.forms import ROLES
from qtuning.data.parse import parse_row
from qtuning.data.rows import Example, Message, Reason, Refusal, Row
from qtuning.experiment.cell import FileSource, TrainSet

SOURCE = FileSource(kind="path", file="unused.jsonl")
ALPACA = TrainSet(name="a", label="A", source=SOURCE)
CHAT = TrainSet(name="c", label="C", source=SOURCE, format="chat")
SHAREGPT = TrainSet(name="s", label="S", source=SOURCE, format="sharegpt")

any_text = st.text(st.characters(), max_size=20)  # every code point, lone surrogates and control characters included
odd_text = st.sampled_from(
    ["", " ", "\t\n", "\x00\x1b[2J", "🙂\u200d🙂", "שלום \u202eabc", "\ud800", "\ufeff", "x" * 1_000_000]
)
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | odd_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)
nearly_alpaca = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("instruction", "input", "output", "id", "kind"), any_text | odd_text | garbage)
)
turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]) | garbage, "content": any_text | odd_text | garbage}
)
nearly_chat = st.fixed_dictionaries({"messages": st.lists(turn | garbage, max_size=5) | garbage})


def parse(value: object, train_set: TrainSet) -> Example | Refusal:
    return parse_row(Row("rows.jsonl", 1, value), train_set)


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)


@settings(max_examples=300, deadline=None)
@given(garbage | nearly_alpaca)
def test_an_alpaca_row_is_an_example_exactly_if_its_texts_are_there(row: Any) -> None:
    result = parse(row, ALPACA)
    given_input = row.get("input") if isinstance(row, dict) else None
    texts = [row.get(key) for key in ("instruction", "input", "output")] if isinstance(row, dict) else []
    usable = (
        isinstance(row, dict)
        and is_text(row.get("instruction"))
        and is_text(row.get("output"))
        and sum(len(text.encode()) for text in texts if is_text(text)) <= 2**20
        and (given_input is None or is_text(given_input) or (isinstance(given_input, str) and not given_input.strip()))
    )
    assert isinstance(result, Example) == usable
    if isinstance(result, Example):
        assert result.prompt == (Message("user", row["instruction"]),)
        assert result.response == row["output"]
        assert result.input == (given_input if is_text(given_input) else "")
    else:
        assert result.reason in Reason


@settings(max_examples=300, deadline=None)
@given(garbage | nearly_chat)
def test_a_chat_row_is_an_example_or_a_reason(row: Any) -> None:
    result = parse(row, CHAT)
    if isinstance(result, Refusal):
        assert result.reason in Reason
        return
    roles = [message.role for message in result.prompt if message.role != "system"]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    assert all(message.role != "system" for message in result.prompt[1:])
    assert is_text(result.response)
    assert [m["content"] for m in row["messages"][: len(result.prompt) + 1]] == [
        *(message.content for message in result.prompt),
        result.response,
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, Reason.NOT_AN_OBJECT),
        ([{"instruction": "a", "output": "b"}], Reason.NOT_AN_OBJECT),
        ({"output": "b"}, Reason.MISSING_KEY),
        ({"instruction": "a"}, Reason.MISSING_KEY),
        ({"instruction": "a", "output": None}, Reason.NOT_A_STRING),
        ({"instruction": "a", "output": 4}, Reason.NOT_A_STRING),
        ({"instruction": "a", "output": "b", "input": math.nan}, Reason.NOT_A_STRING),
        ({"instruction": ["a"], "output": "b"}, Reason.NOT_A_STRING),
        ({"instruction": " \n", "output": "b"}, Reason.EMPTY_INSTRUCTION),
        ({"instruction": "a", "output": ""}, Reason.EMPTY_RESPONSE),
        ({"instruction": "a", "output": "b\udc80"}, Reason.INVALID_UTF8),
    ],
)
def test_reasons_of_alpaca_rows(row: Any, reason: str) -> None:
    result = parse(row, ALPACA)
    assert isinstance(result, Refusal)
    assert result.reason is reason


def conversation(*turns: tuple[str, object]) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, Reason.MISSING_KEY),
        ({"messages": "hello"}, Reason.NOT_A_LIST),
        ({"messages": []}, Reason.NO_RESPONSE),
        ({"messages": ["hello"]}, Reason.NOT_AN_OBJECT),
        ({"messages": [{"role": "user"}]}, Reason.MISSING_KEY),
        (conversation(("user", "a")), Reason.NO_RESPONSE),
        (conversation(("user", "a"), ("assistant", None)), Reason.NOT_A_STRING),
        (conversation(("user", "a"), ("assistant", " ")), Reason.EMPTY_RESPONSE),
        (conversation(("user", ""), ("assistant", "b")), Reason.EMPTY_INSTRUCTION),
        (conversation(("assistant", "b")), Reason.WRONG_ROLE_ORDER),
        (conversation(("system", "s"), ("assistant", "b")), Reason.WRONG_ROLE_ORDER),
        (conversation(("user", "a"), ("system", "s"), ("assistant", "b")), Reason.WRONG_ROLE_ORDER),
        (conversation(("user", "a"), ("user", "a"), ("assistant", "b")), Reason.WRONG_ROLE_ORDER),
        (conversation(("user", "a"), ("assistant", "b"), ("assistant", "c")), Reason.WRONG_ROLE_ORDER),
        (conversation(("user", "a"), ("tool", "t"), ("assistant", "b")), Reason.NOT_SUPPORTED),
        (conversation(("user", "a"), ("narrator", "t"), ("assistant", "b")), Reason.UNKNOWN_ROLE),
    ],
)
def test_reasons_of_chat_rows(row: Any, reason: str) -> None:
    result = parse(row, CHAT)
    assert isinstance(result, Refusal)
    assert result.reason is reason


def test_the_last_assistant_message_is_the_response_and_what_follows_is_left_out() -> None:
    row = conversation(
        ("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")
    )
    result = parse(row, CHAT)
    assert isinstance(result, Example)
    assert result.response == "d"
    assert [message.content for message in result.prompt] == ["s", "a", "b", "c"]


SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(SPEAKERS)), st.text(max_size=3)), max_size=6))
def test_a_sharegpt_row_is_the_chat_row_in_other_words(turns: list[tuple[str, str]]) -> None:
    row = {
        "conversations": [{"from": SPEAKERS[role], "value": text, "weight": None} for role, text in turns],
        "source": "airoboros2.2",
        "system_prompt": None,
    }
    found, expected = parse(row, SHAREGPT), parse(conversation(*turns), CHAT)
    if isinstance(expected, Example):
        assert found == expected
    else:
        assert isinstance(found, Refusal) and found.reason is expected.reason


def test_a_sharegpt_row_says_what_it_lacks() -> None:
    for turn, detail in (
        ({"value": "a"}, "conversations[0]: 'role'; the message has value"),
        ({"from": "human"}, "conversations[0]: 'value'; the message has from"),
        ({"from": "narrator", "value": "a"}, f"conversations[0]: 'narrator' (known: {', '.join(ROLES)})"),
    ):
        found = parse({"conversations": [turn]}, SHAREGPT)
        assert isinstance(found, Refusal) and found.detail == detail
    found = parse({"texts": []}, SHAREGPT)
    assert found == Refusal(Reason.MISSING_KEY, "'conversations'; the row has texts")
    twice = {"conversations": [{"from": "human", "value": "a"}] * 2 + [{"from": "gpt", "value": "b"}]}
    found = parse(twice, SHAREGPT)
    order = "expected [system], user, assistant, user, ...; before the response: user, user"
    assert found == Refusal(Reason.WRONG_ROLE_ORDER, order)
    named = SHAREGPT.model_copy(update={"columns": {"messages": "turns"}})
    assert parse({"turns": twice["conversations"][1:]}, named) == Example((Message("user", "a"),), "b")


def test_columns_id_and_kind() -> None:
    train_set = ALPACA.model_copy(
        update={"columns": {"instruction": "question", "output": "answer", "input": "context"}}
    )
    row = {"question": "q", "answer": "a", "context": "c", "id": 7, "kind": "clean", "instruction": 3}
    assert parse(row, train_set) == Example((Message("user", "q"),), "a", input="c", id="7", kind="clean")
    unusable_labels = {"question": "q", "answer": "a", "id": 10**5000, "kind": ["x"]}
    assert parse(unusable_labels, train_set) == Example((Message("user", "q"),), "a")


def test_details_name_the_key_and_stay_short() -> None:
    result = parse({"messages": [{"role": "x" * 10_000, "content": "a"}]}, CHAT)
    assert isinstance(result, Refusal)
    assert "messages[0]" in result.detail
    assert len(result.detail) < 200
    missing = parse({"question": "q"}, ALPACA)
    assert missing == Refusal(Reason.MISSING_KEY, "'instruction'; the row has question")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "a", "output": "bcd"}, Reason.MISSING_KEY),
        ({"instruction": "a", "output": "bcd", "errors": "1"}, Reason.NOT_A_LIST),
        ({"instruction": "a", "output": "bcd", "errors": [1, 2]}, Reason.NO_SPANS),
        ({"instruction": "a", "output": "bcd", "errors": [[0, True]]}, Reason.NO_SPANS),
        ({"instruction": "a", "output": "bcd", "errors": [[1, 1]]}, Reason.NO_SPANS),
        ({"instruction": "a", "output": "bcd", "errors": [[2, 4]]}, Reason.NO_SPANS),
        ({"instruction": "a", "output": "bcd", "errors": [[-1, 1]]}, Reason.NO_SPANS),
    ],
)
def test_reasons_of_known_errors(row: Any, reason: str) -> None:
    result = parse(row, ALPACA.model_copy(update={"columns": {"errors": "errors"}}))
    assert isinstance(result, Refusal)
    assert result.reason is reason
    assert isinstance(parse(row, ALPACA), Example), "who does not ask for them does not care"
