"""Forms of rows: every key with a meaning is honoured or refused by its name, and all others are counted."""

from typing import Any

import pytest

from qtuning.data.forms import LEARNED, NOT_SUPPORTED, WEIGHTS
from qtuning.data.parse import parse_row
from qtuning.data.rows import Example, Message, Reason, Refusal, Row
from qtuning.experiment.cell import FileSource, TrainSet

SOURCE = FileSource(kind="path", file="unused.jsonl")


def parse(row: object, **keys: Any) -> Example | Refusal:
    return parse_row(Row("rows.jsonl", 1, row), TrainSet(name="t", source=SOURCE, **keys))


def example(row: object, **keys: Any) -> Example:
    found = parse(row, **keys)
    assert isinstance(found, Example), found
    return found


def refusal(row: object, **keys: Any) -> Refusal:
    found = parse(row, **keys)
    assert isinstance(found, Refusal), found
    return found


def turns(*texts: str, **of_last: Any) -> list[dict[str, Any]]:
    """Messages of user and assistant in turn; `of_last`: more keys of the last one."""
    found: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)
    ]
    return [*found[:-1], found[-1] | of_last]


PLAIN = Example((Message("user", "q"),), "a")
ALPACA: dict[str, Any] = {"instruction": "q", "output": "a"}
TALK: dict[str, Any] = {"messages": turns("q", "a")}


@pytest.mark.parametrize(
    "row",
    [
        ALPACA,
        TALK,
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversation": [{"role": "User", "content": "q"}, {"role": "MODEL", "content": "a"}]},
        {"messages": [{"from": "human", "value": "q"}, {"from": "assistant", "value": "a"}]},
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "response": "a"},
        {"prompt": turns("q"), "completion": [{"role": "assistant", "content": "a"}]},
        {"prompt": turns("q"), "completion": "a"},
        # sets that were joined: all rows have the keys of all
        TALK | {"instruction": None, "output": None, "conversations": None},
        {"messages": None, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": None, "prompt": "q", "completion": None, "response": "a"},
        {
            "messages": [
                {"role": None, "content": None, "from": "user", "value": "q"},
                {"role": None, "content": None, "from": "bing", "value": "a"},
            ]
        },
    ],
)
def test_a_form_is_seen_where_none_is_named(row: Any) -> None:
    found = example(row)
    assert found == PLAIN
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, {"format": "chat"}),
        (
            {"talk": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            {"format": "chat", "columns": {"messages": "talk"}},
        ),
        ({"messages": turns("q", "a")}, {"format": "sharegpt"}),
        (
            {"talk": [{"who": "pupil", "says": "q"}, {"who": "teacher", "says": "a"}]},
            {
                "format": "chat",
                "columns": {"messages": "talk", "role": "who", "content": "says"},
                "roles": {"pupil": "user", "teacher": "assistant"},
            },
        ),
        ({"prompt": "q", "completion": "a"}, {"format": "prompt-completion"}),
        ({"ask": "q", "say": "a"}, {"format": "prompt-completion", "columns": {"instruction": "ask", "output": "say"}}),
    ],
)
def test_a_form_is_read_as_named(row: Any, keys: Any) -> None:
    assert example(row, **keys) == PLAIN


def test_system_and_history_of_an_alpaca_row_are_its_first_turns() -> None:
    row = ALPACA | {"system": "s", "history": [["q0", "a0"], ["q1", "a1"]]}
    expected = [
        ("system", "s"),
        ("user", "q0"),
        ("assistant", "a0"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "q"),
    ]
    found = example(row)
    assert [(message.role, message.content) for message in found.prompt] == expected
    assert (found.response, found.remarks) == ("a", ())
    renamed = ALPACA | {"sys": "s", "before": [["q0", "a0"], ["q1", "a1"]]}
    assert example(renamed, columns={"system": "sys", "history": "before"}) == found
    empty: list[Any] = [None, [], ""]
    for nothing in empty:
        assert example(ALPACA | {"history": nothing}) == PLAIN
    assert refusal(ALPACA | {"history": ["q0"]}).detail == "history[0]: expected [question, answer]"
    assert refusal(ALPACA | {"history": "q0"}).reason is Reason.NOT_A_LIST
    assert refusal(ALPACA | {"history": [["q0", None]]}).reason is Reason.NOT_A_STRING


@pytest.mark.parametrize("key", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "row", [ALPACA, TALK, {"prompt": "q", "completion": "a"}, {"prompt": turns("q"), "completion": "a"}]
)
def test_a_system_message_beside_the_turns_comes_first(row: dict[str, Any], key: str) -> None:
    found = example(row | {key: "s"})
    assert found == Example((Message("system", "s"), Message("user", "q")), "a")
    assert found.remarks == ()
    assert example(row | {key: " "}) == example(row | {key: None}) == PLAIN


def test_two_system_messages_do_not_contradict_each_other() -> None:
    row = {"messages": [{"role": "system", "content": "s"}, *turns("q", "a")]}
    expected = Example((Message("system", "s"), Message("user", "q")), "a")
    assert example(row) == example(row | {"system": "s"}) == expected
    assert refusal(row | {"system": "other"}).reason is Reason.NOT_SUPPORTED
    assert example(row | {"system": "other"}, ignore=["system"]) == expected
    aside = example(row | {"system_prompt": "other"})
    assert aside == expected and aside.remarks == ("key 'system_prompt'",)


@pytest.mark.parametrize("key", LEARNED)
@pytest.mark.parametrize("no", [0, 0.0, False])
def test_an_answer_that_is_not_to_be_learned_is_not(key: str, no: Any) -> None:
    last = refusal({"messages": turns("q", "a", **{key: no})})
    assert last == Refusal(Reason.NO_RESPONSE, "no answer is to be learned (weight 0)")
    messages = [*turns("q", "a", **{key: 1}), *turns("q2", "a2", **{key: no})]
    found = example({"messages": messages})
    assert found == PLAIN
    assert found.remarks == ("messages behind the response",)
    messages = [*turns("q", "a", **{key: no}), *turns("q2", "a2", **{key: True})]
    assert example({"messages": messages}) == example({"messages": turns("q", "a", "q2", "a2")})
    assert "key 'messages[]." not in str(example({"messages": messages}).remarks)
    assert example({"messages": turns("q", "a", **{key: None})}) == PLAIN
    assert refusal({"messages": turns("q", "a", **{key: 0.5})}).reason is Reason.NOT_SUPPORTED
    ignored = example({"messages": turns("q", "a", **{key: no})}, ignore=[key])
    assert ignored == PLAIN and ignored.remarks == (f"key 'messages[].{key}'",)


def test_weight_1_of_what_is_context_is_counted() -> None:
    messages = [*turns("q", "a", weight=1), *turns("q2", "a2", weight=1)]
    assert example({"messages": messages}).remarks == ("weight 1 of a message before the response",)


@pytest.mark.parametrize("key", sorted(NOT_SUPPORTED))
@pytest.mark.parametrize("value", [[{"type": "function"}], "text", {"name": "f"}])
def test_what_nothing_here_writes_is_refused_by_name(key: str, value: Any) -> None:
    for row in (ALPACA | {key: value}, TALK | {key: value}, {"prompt": "q", "completion": "a", key: value}):
        assert refusal(row) == Refusal(Reason.NOT_SUPPORTED, repr(key))
        found = example(row, ignore=[key])
        assert found == PLAIN and found.remarks == (f"key {key!r}",)
    of_message = {"messages": turns("q", "a", **{key: value})}
    assert refusal(of_message) == Refusal(Reason.NOT_SUPPORTED, f"'messages[1].{key}'")
    assert example(of_message, ignore=[key]) == PLAIN
    empty: list[Any] = [None, [], {}, "", "[]", False]
    for nothing in empty:
        assert example(ALPACA | {key: nothing}) == example({"messages": turns("q", "a", **{key: nothing})}) == PLAIN


def test_masks_and_receivers_that_ask_for_nothing() -> None:
    """NeMo's rows say that the user's turns are not learned; exports of ChatGPT, that all are spoken to."""
    senders = [{"from": "User", "value": "q"}, {"from": "Assistant", "value": "a"}]
    assert example({"conversations": senders, "mask": "User"}) == PLAIN
    assert refusal({"conversations": senders, "mask": "Assistant"}).detail == "'mask'"
    assert refusal({"messages": turns("q", "a", mask=0)}).detail == "'messages[1].mask'"
    assert example({"messages": turns("q", "a", recipient="all")}) == PLAIN
    assert refusal({"messages": turns("q", "a", recipient="python")}).detail == "'messages[1].recipient'"


def test_a_key_is_one_column() -> None:
    """`input` of these rows is the question, so that it is not the input, too."""
    row = {"input": "q", "output": "a"}
    assert example(row, columns={"instruction": "input"}) == PLAIN
    assert example({"system": "q", "history": "a"}, columns={"instruction": "system", "output": "history"}) == PLAIN


@pytest.mark.parametrize(("key", "value"), [("context", "c"), ("options", ["x", "y"]), ("choices", {"A": "x"})])
def test_what_a_question_may_need_is_not_lost(key: str, value: Any) -> None:
    for row in (ALPACA, {"prompt": "q", "completion": "a"}):
        found = refusal(row | {key: value})
        assert (found.reason, found.detail.split(":")[0]) == (
            Reason.NOT_SUPPORTED,
            f"{key!r} may belong to the question",
        )
        assert example(row | {key: value}, ignore=[key]).remarks == (f"key {key!r}",)
        assert example(row | {key: None}) == PLAIN
    assert example(TALK | {key: value}) == PLAIN
    assert example(ALPACA | {"context": "c"}, columns={"input": "context"}).input == "c"


def test_empty_forms_hide_no_other() -> None:
    assert example(TALK | {"instruction": "", "output": ""}) == PLAIN
    assert example({"messages": [], "prompt": "q", "response": "a"}) == PLAIN
    assert refusal({"messages": [], "conversations": None}).reason is Reason.NO_RESPONSE


def test_rows_within_a_row_are_named() -> None:
    for row, name in (
        ({"row_idx": 0, "row": ALPACA}, "row"),
        ({"all": [ALPACA, ALPACA]}, "all"),
        ({"version": 1, "data": {"train": [TALK]}}, "data"),
        ({"instruction": "q", "instances": [{"input": "", "output": "a"}]}, "instances"),
    ):
        found = refusal(row)
        assert found.reason is Reason.NESTED and found.detail.endswith(f", and {name!r} holds rows"), found
    assert refusal({"topic": {"name": "x"}, "tags": ["y"], "output": "a"}).reason is Reason.MISSING_KEY


@pytest.mark.parametrize(
    ("row", "remark"),
    [
        (
            {"prompt": "<|im_start|>user\nq<|im_end|>\n", "completion": "a"},
            "mark of a chat template in a text: <|im_start|>",
        ),
        (ALPACA | {"output": "a</s>"}, "mark of a chat template in a text: </s>"),
        (ALPACA | {"instruction": "[INST] q [/INST]"}, "mark of a chat template in a text: [INST]"),
        (ALPACA | {"input": "nan"}, "input that is the word nan"),
        (ALPACA | {"output": "None"}, "response that is the word None"),
        ({"messages": turns("q", " ", "q2", "a")}, "empty answer before the response"),
    ],
)
def test_what_hardly_anyone_means_is_counted(row: Any, remark: str) -> None:
    assert example(row).remarks == (remark,)


def test_turns_of_tools_are_refused_by_name() -> None:
    for role in ("tool", "function_call", "observation", "ipython"):
        found = refusal({"messages": [*turns("q", "a"), {"role": role, "content": "7"}, *turns("q", "a")[1:]]})
        assert found == Refusal(Reason.NOT_SUPPORTED, f"messages[2] is a turn of a tool ({role!r})")


def test_parts_of_text_are_joined_and_images_refused() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}, "three"]
    found = example(
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"text": "a"}]}]}
    )
    assert found == Example((Message("user", "one\ntwo\nthree"),), "a")
    for part in ({"type": "image_url", "image_url": {"url": "x"}}, {"type": "image"}, {"type": "input_audio"}):
        messages = [{"role": "user", "content": [*parts, part]}, {"role": "assistant", "content": "a"}]
        assert refusal({"messages": messages}).detail == f"'messages[0].content[3]' is of type {part['type']!r}"
    assert refusal({"messages": turns("q", "a", content=[{"type": "text"}])}).reason is Reason.NOT_A_STRING
    unnamed = {"messages": turns("q", "a", content=[{"image": "x.png"}, {"text": "a", "image": None}])}
    assert refusal(unnamed).detail == "'messages[1].content[0].image'"


def test_rows_of_unequal_weight_and_unwanted_answers_are_refused() -> None:
    assert example(ALPACA | {"weight": 1}).remarks == ()
    assert refusal(ALPACA | {"weight": 0.5}).detail == "'weight' is '0.5': all rows and answers count alike"
    for key in WEIGHTS:
        for row in (ALPACA, {"messages": turns("q", "a")}):
            assert refusal(row | {key: 0}).reason is Reason.NOT_SUPPORTED
            assert refusal(row | {key: [1, 0]}).reason is Reason.NOT_SUPPORTED
            assert example(row | {key: [1, 1]}) == example(row | {key: None}) == PLAIN
            assert example(row | {key: 0}, ignore=[key]).remarks == (f"key {key!r}",)
    pair = {"prompt": "q", "completion": "a"}
    for key, row in (
        *(("label", row) for row in (pair, {"messages": turns("q", "a")})),
        *(("kto_tag", row) for row in (pair, {"messages": turns("q", "a")}, ALPACA)),
    ):
        for false in (False, "false"):
            found = refusal(row | {key: false})
            assert found == Refusal(Reason.NOT_SUPPORTED, f"{key!r} is false: an answer that is not wanted")
        assert example(row | {key: True}).remarks == (f"key {key!r}",)
    assert example(ALPACA | {"label": False}) == PLAIN, "a class, not a verdict"


def test_all_other_keys_are_remarks() -> None:
    found = example(ALPACA | {"id": 3, "kind": "x", "text": "t", "source": "s", "nothing": None})
    assert found.remarks == ("key 'text'", "key 'source'")
    assert (found.id, found.kind) == ("3", "x")
    messages = [{"role": "user", "content": "q", "name": "Ann"}, {"role": "assistant", "content": "a", "name": "Bob"}]
    assert example({"messages": messages}).remarks == ("key 'messages[].name'",)
    long = example(ALPACA | {"k" * 1000: 1, "\ud800": 2})
    assert all(len(remark) < 60 and remark.encode() for remark in long.remarks) and len(long.remarks) == 2
    assert example(ALPACA, columns={"input": "contxt"}).remarks == ("no key 'contxt' (columns.input)",)


def test_texts_above_the_limit_are_refused_with_their_size() -> None:
    assert example(ALPACA | {"output": "é" * 50, "input": "x" * 10}, max_row_bytes=111)
    found = refusal(ALPACA | {"output": "é" * 50, "input": "x" * 10}, max_row_bytes=110)
    assert found == Refusal(Reason.TOO_LARGE, "111 bytes of text; max_row_bytes is 110")
    assert refusal({"messages": turns("q", "a" * 2**20)}).reason is Reason.TOO_LARGE


def test_an_order_that_cannot_be_learned_from_is_shown() -> None:
    assert refusal({"messages": turns("q", "a")[::-1]}).detail.endswith("before the response: nothing")
    greeting = [{"role": "assistant", "content": "Hi"}, *turns("q", "a")]
    assert refusal({"messages": greeting}).detail.endswith("before the response: assistant, user")
    later = [*turns("q", "a"), {"role": "system", "content": "s"}, *turns("q", "a")]
    assert refusal({"messages": later}).reason is Reason.WRONG_ROLE_ORDER
