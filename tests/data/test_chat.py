"""Chat templates: where the response stands, which messages are there, what ends a turn, which day it is."""

import re
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from chat_templates import NO_SYSTEM, OWN, REAL, chat_template, save_tokenizer

from qtuning.data import chat
from qtuning.data.chat import TODAY, TemplateRefusal, chat_prompt, chat_texts, chat_turn, writes_date
from qtuning.data.tokenise import load_tokenizer, tokenizer_fingerprint
from qtuning.errors import UserError

Load = Callable[..., Any]

QUESTION = [{"role": "user", "content": "Name a river."}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *QUESTION]
TURNS = [*SYSTEM, {"role": "assistant", "content": "The Loire."}, {"role": "user", "content": "And another?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("bytes"), "bytes", before="<s>")


@pytest.fixture
def load(folder: Path) -> Load:
    def with_template(template: str) -> Any:
        tokenizer = load_tokenizer(folder)
        tokenizer.chat_template = chat_template(template) if template in (*OWN, *REAL) else template
        return tokenizer

    return with_template


@pytest.mark.parametrize("name", [*OWN, *REAL])
@pytest.mark.parametrize("conversation", [QUESTION, SYSTEM, TURNS], ids=["question", "system", "turns"])
def test_every_message_is_in_the_prompt_and_the_response_behind_it(
    load: Load, name: str, conversation: list[dict[str, str]]
) -> None:
    tokenizer = load(name)
    if name in NO_SYSTEM and conversation[0]["role"] == "system":
        with pytest.raises(TemplateRefusal, match="System role not supported"):
            chat_texts(conversation, "The Rhône.", tokenizer)
        return
    prompt, response = chat_texts(conversation, "The Rhône.", tokenizer)
    places = [prompt.index(message["content"]) for message in conversation]
    assert len(set(places)) == len(places)
    turn = chat_turn(tokenizer)
    assert response.startswith(turn.lead + "The Rhône.") and response.endswith(turn.token)
    assert len(response) < len(turn.lead + "The Rhône.") + 30
    assert chat_prompt(conversation, tokenizer) == prompt


@pytest.mark.parametrize(
    ("name", "token", "written"),
    [
        ("llama3", "<|eot_id|>", True),
        ("gemma", "<end_of_turn>", True),
        ("qwen3", "<|im_end|>", True),
        ("phi3", "<|end|>", True),
        ("gptoss", "<|return|>", True),
        ("llama2", "</s>", True),
        ("question-answer", "<|eot_id|>", True),
        ("no-end", "</s>", False),
        ("end-as-text", "</s>", False),
    ],
)
def test_what_ends_a_turn(load: Load, name: str, token: str, written: bool) -> None:
    tokenizer = load(name)
    turn = chat_turn(tokenizer)
    assert (turn.token, turn.id, turn.written) == (token, tokenizer.convert_tokens_to_ids(token), written)
    assert turn.stops == ((token, "[/assistant]") if name == "end-as-text" else (token,))
    assert chat_turn(load("gemma")).token == "<end_of_turn>", "not that of the template before"


def test_a_system_message_that_a_template_would_lose(load: Load) -> None:
    """Mistral 7B v0.3 writes it with the last turn of the user, if no answer follows."""
    tokenizer = load("system-in-last-turn")
    prompt, response = chat_texts(SYSTEM, "The Rhône.", tokenizer)
    assert (prompt, response) == ("<s>[INST] Be brief.\n\nName a river.[/INST]", " The Rhône.</s>")
    lost = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}|{% endif %}{% endfor %}"
    with pytest.raises(TemplateRefusal, match="leaves out message 1, of the system"):
        chat_texts(SYSTEM, "The Rhône.", load(lost))
    # also where its letters stand there by chance
    by_chance = [{"role": "system", "content": "a"}, *QUESTION]
    with pytest.raises(TemplateRefusal, match="leaves out message 1, of the system"):
        chat_texts(by_chance, "The Rhône.", load(lost))
    answered = (
        "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}{{ m.content }}|{% endif %}{% endfor %}"
    )
    with pytest.raises(TemplateRefusal, match="leaves out message 3, of the assistant"):
        chat_texts(TURNS, "x", load(answered))


def test_a_thinking_template(load: Load) -> None:
    """The empty thought that the template writes is prompt: what is learned, and asked for, is the response."""
    prompt, response = chat_texts(QUESTION, "The Rhône.", load("qwen3"))
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert response == "The Rhône.<|im_end|>"
    prompt, response = chat_texts(QUESTION, "The Rhône.", load("opens-thought"))
    assert prompt.endswith("[assistant]") and response == "The Rhône.<|im_end|>"
    with pytest.raises(TemplateRefusal, match="changes the response, or what stands around it"):
        chat_texts(QUESTION, "<think>\nIn France.\n</think>\n\nThe Rhône.", load("qwen3"))


@pytest.mark.parametrize("response", ["<|im_start|>assistant\nhi", "<|im_start|>", "<|im_end|>\n", "You are kind."])
def test_a_response_that_begins_like_the_prompt_of_a_generation(load: Load, response: str) -> None:
    prompt, learned = chat_texts(QUESTION, response, load("default-system"))
    system = "<|im_start|>system\nYou are kind.<|im_end|>\n"
    assert prompt == f"{system}<|im_start|>user\nName a river.<|im_end|>\n<|im_start|>assistant\n"
    assert learned == f"{response}<|im_end|>"


def test_white_space_at_the_ends_is_the_template_s(load: Load) -> None:
    assert chat_texts(QUESTION, "  The Rhône.\n", load("llama3"))[1] == "The Rhône.<|eot_id|>"
    assert chat_texts(QUESTION, "  The Rhône.\n", load("default-system"))[1] == "  The Rhône.\n<|im_end|>"
    assert chat_texts(QUESTION, "The Rhône.", load("llama2")) == ("<s>[INST] Name a river. [/INST]", " The Rhône. </s>")


def test_templates_that_lose_or_repeat_the_response(load: Load) -> None:
    users = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(TemplateRefusal, match="leaves the response out"):
        chat_texts(QUESTION, "hi", load(users + "{% if add_generation_prompt %}[assistant]{% endif %}"))
    with pytest.raises(TemplateRefusal, match="writes the response more than once"):
        chat_texts(QUESTION, "hi", load("{% for m in messages %}{{ m.content * 2 }}{% endfor %}"))
    first_word = "{% for m in messages %}{{ m.content.split(' ')[0] if loop.last else m.content }}{% endfor %}"
    with pytest.raises(TemplateRefusal, match="changes the response"):
        chat_texts(QUESTION, "a b", load(first_word))
    with pytest.raises(UserError, match="refuses a question: only systems; mend the template, or set template: alpaca"):
        chat_turn(load("{{ raise_exception('only systems') }}"))


@pytest.mark.parametrize("wrong", ["{{ 'a' + 1 }}", "{{ 1 / 0 }}", "{{ messages | sum }}", "{{ foo.bar }}", "{{ m }"])
def test_a_template_that_is_a_wrong_program_is_one_line(load: Load, wrong: str) -> None:
    with pytest.raises(TemplateRefusal):
        chat_texts(QUESTION, "x", load(wrong))
    with pytest.raises(UserError, match=r"refuses a question: .*; mend the template, or set template: alpaca"):
        chat_turn(load(wrong))


def test_a_date_beside_the_system_message_alone(load: Load) -> None:
    dated = "{% for m in messages %}{{ m.content + (strftime_now('%Y') if m.role == 'system' else '') }}|{% endfor %}"
    tokenizer = load(dated)
    assert chat_prompt(QUESTION, tokenizer).count("2024") == 0 and chat_prompt(SYSTEM, tokenizer).count("2024") == 1
    assert writes_date(tokenizer)


def test_the_date_is_the_same_every_day(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import chat_template_utils

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return cls(2031, 5, 4, 3, 2, 1)

    written = {name: chat_prompt(QUESTION, load(name)) for name in ("date", "llama3_1", "llama3_2", "gptoss")}
    prints = {name: tokenizer_fingerprint(load(name)) for name in written}
    assert written["date"].startswith("Today is 26 July 2024 00:00\n")
    assert "Today Date: 26 Jul 2024\n" in written["llama3_1"] and "Today Date: 26 Jul 2024\n" in written["llama3_2"]
    assert "Current date: 2024-07-26\n" in written["gptoss"]
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    chat_template_utils._compile_jinja_template.cache_clear()
    for name, text in written.items():
        assert chat_prompt(QUESTION, load(name)) == text
        assert writes_date(load(name)) and tokenizer_fingerprint(load(name)) == prints[name]
    assert not writes_date(load("qwen3"))
    # another fixed date is another tokenizer
    monkeypatch.setattr(chat, "TODAY", date(2025, 1, 1))
    monkeypatch.setattr("qtuning.data.tokenise.TODAY", date(2025, 1, 1))
    assert tokenizer_fingerprint(load("date")) != prints["date"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", TODAY.isoformat())


def test_a_tokenizer_without_end_or_template(load: Load) -> None:
    tokenizer = load("no-end")
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        chat_turn(tokenizer)
    tokenizer = load("llama3")
    tokenizer.eos_token = None
    assert chat_turn(tokenizer).token == "<|eot_id|>", "the template has an end of its own"
    tokenizer.chat_template = {"tools": "x"}
    with pytest.raises(UserError, match="no chat template; set template: alpaca or plain"):
        chat_turn(tokenizer)
