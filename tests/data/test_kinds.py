"""Kinds of tokens: texts and kinds written by hand, in several tokenizers; and the truth of the mini world."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mini_kinds import ASSETS, agreement

from qtuning.data.kinds import BLANK, FORMATTING, GOLD, KINDS, TEMPLATE, answer_span, character_kinds, token_kinds
from qtuning.data.tokenise import response_spans, tokenise

LETTERS = "gmtnfc "  # gold, markdown, template, numbers, function, content, blank

# text above, kinds below, by hand
TEXTS = [
    (
        "The sum of 3 and x is 7. The answer is 12.",
        "fff ccc ff n fff n ff nn ttt tttttt tt ggn",
    ),
    (
        "3 + 4 = <<3+4=7>>7\n#### 7",
        "n n n n ttnnnnnttn tttt g",
    ),
    (
        "Thus $x = 5$. The answer is $\\boxed{5}$.",
        "cccc mn n nmn ttt tttttt tt mtttttttgtmn",
    ),
    (
        "Sure!\nHere is **one** way:\n- first, `add`\n- don't stop",
        "ttttt tttt tt mmfffmm cccn m cccccn mcccm m fffff cccc",
    ),
    (
        "def f(a):\n    return a * 2",
        "ccc nnfnn     cccccc f n n",
    ),
    ("Paul Higoum", "gggg gggggg"),
    (
        "fish. The glezou is a fish.",
        "ggggn fff cccccc ff f ccccn",
    ),
    (
        "Half of it is 6, so 6 - 2 = 4",
        "ffff ff ff ff nn ff n n n n g",
    ),
]


def by_letters(text: str) -> str:
    return "".join(LETTERS[kind] for kind in character_kinds(text))


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_characters(text: str, expected: str) -> None:
    shown = "".join("\n" if letter == "\n" else letter for letter in by_letters(text))
    assert shown.replace(" ", "").strip() == expected.replace(" ", ""), f"\n{text!r}\n{shown!r}\n{expected!r}"
    assert all((kind == BLANK) == sign.isspace() for kind, sign in zip(character_kinds(text), text, strict=True))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First \\boxed{1}, then \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("So we may write all of it as \\boxed{3", None),
        ("1 + 1 = 2\n#### 2", "2"),
        ("The answer is (C). Because it fits.", "(C)"),
        ("The answer is 3.5 metres.\nDone", "3.5 metres"),
        ("Answer: **B**\n\nExplanation: it is so.", "B"),
        ("the answer is", "the answer is"),
        ("A long story without any statement at all of what comes out of it in the end", None),
        ("x = 1\ny = 12", "12"),
        ("print(1 + 1)\nprint(x == 2 or y == total)", None),
    ],
)
def test_the_answer_that_a_response_states(text: str, answer: str | None) -> None:
    span = answer_span(text)
    assert (None if span is None else text[slice(*span)]) == answer


@pytest.mark.parametrize("name", ["bpe", "sentencepiece"])
@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_tokens_of_any_tokenizer(request: pytest.FixtureRequest, name: str, text: str, expected: str) -> None:
    """Slow oracle: every token votes with each of its visible characters, one by one."""
    tokenizer = request.getfixturevalue(name)
    pairs = [("Question: what?\nAnswer:", f" {text}{tokenizer.eos_token}")]
    (spans,) = response_spans(pairs, tokenizer, "plain")
    (whole,) = tokenise(pairs, tokenizer, "plain", 10_000)
    response = pairs[0][1]
    assert len(spans) == len(whole.tokens) - whole.prompt  # type: ignore[union-attr]
    kinds = character_kinds(response)
    for (start, stop), found in zip(spans, token_kinds(response, spans), strict=True):
        votes = [int(kinds[place]) for place in range(start, stop) if not response[place].isspace()]
        most = max((votes.count(kind) for kind in votes), default=0)
        allowed = min((kind for kind in votes if votes.count(kind) == most), default=None)
        assert found == (allowed if allowed is not None else TEMPLATE if start == stop else FORMATTING)
    assert spans[-1] == (len(response), len(response)), "the end of the text"


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_every_character_has_one_kind(text: str) -> None:
    kinds = character_kinds(text)
    assert len(kinds) == len(text) and (not len(kinds) or kinds.max() <= BLANK)
    spans = [(place, place + 1) for place in range(len(text))]
    found = token_kinds(text, spans)
    assert ((found < len(KINDS)) | (len(found) == 0)).all()
    span = answer_span(text)
    if span is not None:
        inside = [kinds[place] for place in range(*span) if not text[place].isspace()]
        assert set(inside) <= {GOLD}


def test_rules_agree_with_the_generator_of_the_mini_world() -> None:
    """`python -m tests.data.mini_kinds` prints this: 99.9% of the tokens of the whole set."""
    (table,) = agreement(ASSETS / "mini", ("train_0",)).values()
    assert table.sum() == 20_492, "every response token of the set, EOS among them"
    assert table.trace() / table.sum() > 0.99
    recall = np.diag(table) / table.sum(axis=1)
    assert recall.min() > 0.9, dict(zip(KINDS, recall, strict=True))


def test_chat_and_empty(bpe: Any) -> None:
    assert response_spans([], bpe, "plain") == []
    (spans,) = response_spans([("<|user|>\nhi<eos>\n<|assistant|>\n", "yes<eos>\n")], bpe, "chat")
    assert spans[0][0] == 0 and spans[-1][1] == len("yes<eos>\n")
