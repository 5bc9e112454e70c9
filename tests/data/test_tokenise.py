"""Tokenising: nothing of a text is lost, and prompt and response part where a slow oracle parts them."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qtuning.data.rows import Example, Message, Reason, Refusal
from qtuning.data.templates import render
from qtuning.data.tokenise import Tokenised, opening_tokens, tokenise

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)
words = st.lists(
    st.sampled_from(["What", "is", "::", "\n", " ", "12", "=", "é", "🙂", "Paris", "."]), min_size=1, max_size=12
)
any_text = text | words.map("".join).filter(str.strip)
templates = st.sampled_from(["plain", "alpaca", "chat"])


def encode(instruction: str, response: str, template: Any, tokenizer: Any, cutoff: int = 10_000) -> Any:
    made = Example((Message("user", instruction),), response)
    rendered = render(made, template, tokenizer)
    (result,) = tokenise([rendered], tokenizer, template, cutoff)
    return rendered, result


@settings(max_examples=300, deadline=None)
@given(instruction=any_text, response=any_text, template=templates)
@example(instruction="a", response="::", template="alpaca")
@example(instruction="a", response="</s><eos><bos>", template="plain")
@example(instruction="\x00", response="\x00", template="chat")
def test_bpe_round_trip(bpe: Any, instruction: str, response: str, template: str) -> None:
    (prompt, answer), result = encode(instruction, response, template, bpe)
    before, after = bpe.decode(result.tokens[: result.prompt]), bpe.decode(result.tokens[result.prompt :])
    opening = "" if template == "chat" else "<bos>"
    assert before + after == opening + prompt + answer
    assert after == answer


@settings(max_examples=300, deadline=None)
@given(instruction=any_text, response=any_text, template=templates)
def test_the_prompt_has_the_tokens_that_it_has_alone(bpe: Any, instruction: str, response: str, template: str) -> None:
    """As a model that generates sees it. Oracle: the tokenizer's own call."""
    (prompt, _), result = encode(instruction, response, template, bpe)
    chat = template == "chat"
    alone = bpe(prompt, split_special_tokens=not chat, add_special_tokens=not chat)["input_ids"]
    assert result.tokens[: result.prompt] == alone


@settings(max_examples=300, deadline=None)
@given(instruction=any_text, response=any_text, template=st.sampled_from(["plain", "alpaca"]))
def test_sentencepiece_border(sentencepiece: Any, instruction: str, response: str, template: str) -> None:
    """No space comes between prompt and response, and none is lost, whether or not they are tokenised as one text."""
    instruction, response = instruction.replace("▁", "_"), response.replace("▁", "_")
    (prompt, answer), result = encode(instruction, response, template, sentencepiece)
    whole = "<bos>" + prompt + answer

    def decoded(count: int) -> str:
        # LLaMA's decoder drops the space that its normalizer puts before the text
        return sentencepiece.decode(result.tokens[:count]).replace("<bos> ", "<bos>", 1)

    assert decoded(len(result.tokens)) == whole
    assert decoded(result.prompt) == "<bos>" + prompt


def test_a_token_would_span_the_border(bpe: Any) -> None:
    (prompt, answer), result = encode("a", "::", "alpaca", bpe)
    merged = bpe(prompt + "::", split_special_tokens=True)["input_ids"]
    assert bpe.decode(merged[-2]) == "::" and bpe.decode(merged[-1]) == ":", "the trained tokenizer merges colons"
    assert bpe.decode(result.tokens[: result.prompt]) == "<bos>" + prompt
    assert bpe.decode(result.tokens[result.prompt :]) == answer == "::<eos>"


def test_opening_and_end_tokens(bpe: Any, sentencepiece: Any) -> None:
    for tokenizer in (bpe, sentencepiece):
        assert opening_tokens(tokenizer) == [tokenizer.bos_token_id]
        _, result = encode("a", "b", "plain", tokenizer)
        assert result.tokens[0] == tokenizer.bos_token_id
        assert result.tokens[-1] == tokenizer.eos_token_id
        assert result.tokens.count(tokenizer.bos_token_id) == result.tokens.count(tokenizer.eos_token_id) == 1


def test_special_tokens_spelled_in_data_stay_text(bpe: Any) -> None:
    _, result = encode("<bos>", "stop <eos> go", "plain", bpe)
    assert result.tokens.count(bpe.eos_token_id) == 1
    assert result.tokens.count(bpe.bos_token_id) == 1
    assert bpe("<eos>")["input_ids"] == [bpe.bos_token_id, bpe.eos_token_id], "the tokenizer is left as it was"


def test_chat_special_tokens_are_the_template_s(bpe: Any) -> None:
    _, result = encode("a", "b", "chat", bpe)
    assert result.tokens.count(bpe.eos_token_id) == 2
    assert result.tokens.count(bpe.bos_token_id) == 0


@pytest.mark.parametrize("template", ["plain", "alpaca", "chat"])
def test_cutoff(bpe: Any, template: str) -> None:
    _, whole = encode("What is it?", "one, two, three", template, bpe)
    assert not whole.truncated
    for cutoff in range(2, len(whole.tokens) + 2):
        _, cut = encode("What is it?", "one, two, three", template, bpe, cutoff)
        if cutoff <= whole.prompt:
            assert isinstance(cut, Refusal)
            assert cut.reason is Reason.RESPONSE_CUT_AWAY
            assert str(whole.prompt) in cut.detail
        else:
            assert cut == Tokenised(whole.tokens[:cutoff], whole.prompt, cutoff < len(whole.tokens))


def test_batches_and_single_texts_agree_and_nothing_is_fine(bpe: Any) -> None:
    texts = [render(Example((Message("user", "q" * n),), "a" * n), "plain", bpe) for n in range(1, 9)]
    assert tokenise(texts, bpe, "plain", 99) == [tokenise([pair], bpe, "plain", 99)[0] for pair in texts]
    assert tokenise([], bpe, "plain", 99) == []


def test_a_megabyte_of_text(bpe: Any) -> None:
    _, result = encode("x" * 1_000_000, "y", "plain", bpe, cutoff=2_000_000)
    assert bpe.decode(result.tokens[result.prompt :]) == " y<eos>"


@settings(max_examples=300, deadline=None)
@given(data=st.data(), instruction=any_text, response=any_text, template=st.sampled_from(["plain", "alpaca"]))
def test_marked_tokens_cover_the_marked_characters(
    bpe: Any, data: Any, instruction: str, response: str, template: Any
) -> None:
    """Oracle: decode before, at and after the marked tokens, and look for the span in that."""
    start = data.draw(st.integers(0, len(response) - 1))
    stop = data.draw(st.integers(start + 1, len(response)))
    made = Example((Message("user", instruction),), response, errors=((start, stop),))
    prompt, answer = render(made, template, bpe)
    lead = len(answer) - len(response) - len("<eos>")
    (result,) = tokenise([(prompt, answer)], bpe, template, 10_000, [[(lead + start, lead + stop)]])
    marked = list(result.marked)
    assert marked == list(range(marked[0], marked[-1] + 1))
    # bytes, since a token may be a part of a character
    before = len(b"<bos>" + (prompt + answer)[: len(prompt) + lead + start].encode())
    size = len(response[start:stop].encode())
    widths = [
        len(bpe.backend_tokenizer.id_to_token(token)) for token in result.tokens
    ]  # byte-level: a letter is a byte
    first, last = sum(widths[: marked[0]]), sum(widths[: marked[-1] + 1])
    assert first <= before
    assert before + size <= last
    one_character = max(map(len, map(str.encode, response)))
    assert first + widths[marked[0]] > before - one_character
    assert last - widths[marked[-1]] < before + size + one_character


def test_marks_behind_the_cutoff_are_gone(bpe: Any) -> None:
    made = Example((Message("user", "a"),), "one two three four five six")
    rendered = render(made, "plain", bpe)
    (whole,) = tokenise([rendered], bpe, "plain", 10_000, [[(0, 4), (20, 24)]])
    (cut,) = tokenise([rendered], bpe, "plain", whole.marked[-1], [[(0, 4), (20, 24)]])
    assert cut.marked == whole.marked[:-1]
