"""Real tokenizers through our templates: opening and end tokens, padding, special tokens as data, chats."""

from dataclasses import replace
from pathlib import Path

import pytest
from real_tokenizers import MAKERS, Real

from qtuning.data.chat import chat_prompt
from qtuning.data.rows import Example, Message
from qtuning.data.templates import render, turn_of
from qtuning.data.tokenise import (
    Tokenised,
    encode_prompts,
    load_tokenizer,
    opening_tokens,
    response_spans,
    tokenise,
)

pytestmark = pytest.mark.slow  # to make a folder of each takes seconds

TEXTS = (
    "Paris.",
    "Hello  world,   three    spaces",
    "  indented\n\ttab\n\n\nblank lines \n",
    "12345 + 67890 = 80235; 3.14159, 1,000,000",
    "naïve Größe — “quotes” … Ångström",
    "東京は日本の首都です。 한국어 العربية עברית",
    "🙂👩‍👩‍👧 \U0001f1eb\U0001f1f7 ﷽",
    "def f(x):\n    return {'a': [x ** 2 for x in range(10)]}\r\n",
    "she's they'll WE'RE",
)
CONVERSATION = (Message("user", "Name a river."), Message("assistant", "The Loire."), Message("user", "And another?"))
ANSWER = "The Rhône, 812 km."


@pytest.fixture(scope="module", params=MAKERS)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Real:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


def example(question: str, answer: str, input: str = "") -> Example:
    return Example((Message("user", question),), answer, input)


@pytest.mark.parametrize("template", ["plain", "alpaca"])
def test_a_sample_is_what_the_reference_makes_of_its_text(real: Real, template: str) -> None:
    """Prompt and response as one text, between the opening tokens and the end token.

    Apart, where one token would span their border: of `:def`, behind `### Response:`.
    """
    tokenizer = load_tokenizer(real.folder)
    pairs = [render(example(f"What? {text}", text), template, tokenizer) for text in TEXTS]  # type: ignore[arg-type]
    end = tokenizer.convert_tokens_to_ids(real.end)
    for (prompt, response), made in zip(pairs, tokenise(pairs, tokenizer, template, 4096), strict=True):  # type: ignore[arg-type]
        assert response.endswith(real.end)
        assert isinstance(made, Tokenised)
        body = response.removesuffix(real.end)
        alone, whole = real.encode(prompt), real.encode(prompt + body)
        expected = whole if whole[: len(alone)] == alone else alone + real.encode(body)
        assert made.tokens == [*real.opening, *expected, end], prompt + body
        assert made.tokens[: made.prompt] == [*real.opening, *alone]


@pytest.mark.parametrize("template", ["plain", "alpaca"])
def test_the_whole_response_and_none_of_the_prompt_before_it_is_learned(real: Real, template: str) -> None:
    tokenizer = load_tokenizer(real.folder)
    assert opening_tokens(tokenizer) == real.opening
    pairs = [render(example("What?", text, text), template, tokenizer) for text in TEXTS]  # type: ignore[arg-type]
    spans = response_spans(pairs, tokenizer, template)  # type: ignore[arg-type]
    made_all = tokenise(pairs, tokenizer, template, 4096)  # type: ignore[arg-type]
    for (prompt, response), made, places in zip(pairs, made_all, spans, strict=True):
        assert isinstance(made, Tokenised)
        body = response.removesuffix(real.end)
        assert made.tokens[: len(real.opening)] == real.opening
        assert len(places) == len(made.tokens) - made.prompt
        covered = {place for start, stop in places for place in range(start, stop)}
        assert covered == set(range(len(body))), "every character of the response belongs to a token that is learned"
        assert tokenizer.decode(made.tokens[made.prompt : -1]).strip().endswith(body.strip())
        assert not tokenizer.decode(made.tokens[len(real.opening) : made.prompt]).endswith(response)
        assert len(prompt) > 0


@pytest.mark.parametrize("template", ["plain", "alpaca"])
def test_a_row_that_spells_a_special_token_gets_none(real: Real, template: str) -> None:
    tokenizer = load_tokenizer(real.folder)
    spelt = " and ".join(real.specials)
    pair = render(example(f"What is {spelt}?", f"It is {spelt}."), template, tokenizer)  # type: ignore[arg-type]
    (made,) = tokenise([pair], tokenizer, template, 4096)  # type: ignore[arg-type]
    assert isinstance(made, Tokenised)
    special = {tokenizer.convert_tokens_to_ids(token) for token in real.specials}
    assert len(special) == len(real.specials)
    assert special.isdisjoint(made.tokens[len(real.opening) : -1])
    assert made.tokens[-1] == tokenizer.convert_tokens_to_ids(real.end)
    assert made.tokens[len(real.opening) : -1] == real.encode(pair[0] + pair[1].removesuffix(real.end))


def test_padding_and_cutting(real: Real) -> None:
    tokenizer = load_tokenizer(real.folder)
    size = len(tokenizer)
    assert (tokenizer.pad_token, tokenizer.eos_token) == (real.pad, real.end)
    assert max(tokenizer.get_vocab().values()) < size, "no token was added to pad with"
    batch = tokenizer(["a", "a longer text"], padding=True)
    lengths = [sum(mask) for mask in batch["attention_mask"]]
    assert lengths[0] < lengths[1]
    assert batch["input_ids"][0][lengths[0] :] == [tokenizer.pad_token_id] * (lengths[1] - lengths[0])
    pair = render(example("Count.", "one two three four five six"), "alpaca", tokenizer)
    (whole,) = tokenise([pair], tokenizer, "alpaca", 4096)
    assert isinstance(whole, Tokenised)
    (cut,) = tokenise([pair], tokenizer, "alpaca", len(whole.tokens) - 1)
    assert isinstance(cut, Tokenised)
    assert (cut.tokens, cut.truncated) == (whole.tokens[:-1], True)
    assert tokenizer.eos_token_id not in cut.tokens


def test_a_chat_is_what_the_maker_of_the_model_writes(real: Real) -> None:
    """Three turns and the answer, by the code that Mistral and Meta publish."""
    tokenizer = load_tokenizer(real.folder)
    asked = Example(CONVERSATION, ANSWER, "")
    (made,) = tokenise([render(asked, "chat", tokenizer)], tokenizer, "chat", 4096)
    assert isinstance(made, Tokenised)
    learned = tokenizer.decode(made.tokens[made.prompt :])
    assert learned.strip().startswith(ANSWER), "no part of the prompt is learned"
    assert learned.removesuffix("\n").endswith(("</s>", "<|eot_id|>", "<|im_end|>")), "a model that never stops"
    if real.chat is not None:
        whole = [*CONVERSATION, Message("assistant", ANSWER)]
        assert made.tokens == real.chat([(message.role, message.content) for message in whole])


@pytest.mark.parametrize("template", ["plain", "alpaca", "chat"])
def test_a_prompt_has_the_ids_that_it_has_alone(real: Real, template: str, tmp_path: Path) -> None:
    """As evaluation gives it to the model, also with the tokenizer that is saved beside trained weights."""
    tokenizer = load_tokenizer(real.folder)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((real.folder / "config.json").read_bytes())
    saved, chat = load_tokenizer(tmp_path), template == "chat"
    # answers that a tokenizer would join to the end of the prompt
    answers = (*TEXTS, "**Paris**", "\n\nParis", ": Paris", "```python\n```", "'s")
    asked = [example(f"What? {text}", text, text) for text in answers]
    pairs = [render(each, template, tokenizer) for each in asked]  # type: ignore[arg-type]
    prompts = encode_prompts([prompt for prompt, _ in pairs], saved, chat)
    turn = turn_of(tokenizer, template)  # type: ignore[arg-type]
    made_all = tokenise(pairs, tokenizer, template, 4096)  # type: ignore[arg-type]
    for (_, response), made, prompt in zip(pairs, made_all, prompts, strict=True):
        assert isinstance(made, Tokenised)
        assert made.tokens[: made.prompt] == prompt
        assert made.tokens[-1] == turn.id and turn.token in ("</s>", "<|eot_id|>", "<|im_end|>", real.end)
        learned = str(tokenizer.decode(made.tokens)).removeprefix(str(tokenizer.decode(prompt)))
        assert learned.strip() == response.strip()
    if chat and not turn.lead:  # as transformers itself asks
        conversation = [{"role": "user", "content": "What?"}]
        theirs = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        assert encode_prompts([chat_prompt(conversation, tokenizer)], saved, chat) == [theirs]


def test_a_system_message_stands_in_the_prompt(real: Real) -> None:
    tokenizer = load_tokenizer(real.folder)
    asked = replace(Example(CONVERSATION, ANSWER, ""), prompt=(Message("system", "Be brief."), *CONVERSATION))
    prompt, response = render(asked, "chat", tokenizer)
    assert "Be brief." in prompt
    assert "Be brief." not in response
