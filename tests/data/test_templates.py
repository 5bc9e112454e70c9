"""Templates: the exact wording, and where the response begins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qtuning.data.chat import TemplateRefusal
from qtuning.data.rows import Example, Message
from qtuning.data.templates import render
from qtuning.errors import UserError

SINGLE = Example((Message("user", "Add {input} to 2."),), "{output} 4", input="2 {x}")
BARE = Example((Message("user", "Say hi."),), "hi\n")
MULTI = Example(
    (Message("system", "Be brief."), Message("user", "Hi."), Message("assistant", "Hello."), Message("user", "Bye.")),
    "Goodbye.",
)


def test_plain(bpe: Any) -> None:
    assert render(BARE, "plain", bpe) == ("Question: Say hi.\nAnswer:", " hi\n<eos>")
    prompt = "Background: 2 {x}\nQuestion: Add {input} to 2.\nAnswer:"
    assert render(SINGLE, "plain", bpe) == (prompt, " {output} 4<eos>")


def test_alpaca_is_the_stanford_wording(bpe: Any) -> None:
    assert render(BARE, "alpaca", bpe) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nSay hi.\n\n### Response:",
        "hi\n<eos>",
    )
    assert render(SINGLE, "alpaca", bpe) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd {input} to 2.\n\n### Input:\n2 {x}\n\n### Response:",
        "{output} 4<eos>",
    )


def test_several_turns_are_flattened_into_the_instruction(bpe: Any) -> None:
    flat = "Be brief.\n\nUser: Hi.\n\nAssistant: Hello.\n\nUser: Bye."
    assert render(MULTI, "plain", bpe) == (f"Question: {flat}\nAnswer:", " Goodbye.<eos>")
    one_turn = Example((Message("system", "Be brief."), Message("user", "Hi.")), "Hello.")
    assert render(one_turn, "plain", bpe)[0] == "Question: Be brief.\n\nHi.\nAnswer:"


def test_chat_is_written_by_the_chat_template(bpe: Any) -> None:
    prompt, response = render(MULTI, "chat", bpe)
    assert prompt == (
        "<|system|>\nBe brief.<eos>\n<|user|>\nHi.<eos>\n<|assistant|>\nHello.<eos>\n"
        "<|user|>\nBye.<eos>\n<|assistant|>\n"
    )
    assert response == "Goodbye.<eos>", "what the template writes behind the end of the turn is left out"
    assert render(SINGLE, "chat", bpe)[0] == "<|user|>\nAdd {input} to 2.\n\n2 {x}<eos>\n<|assistant|>\n"


def test_a_refusal_of_the_chat_template_is_told(bpe: Any) -> None:
    refused = Example((Message("system", "refuse me"), Message("user", "a")), "b")
    with pytest.raises(TemplateRefusal, match="no such system message"):
        render(refused, "chat", bpe)


@pytest.fixture
def with_template(bpe_folder: Path) -> Callable[[str | None], Any]:
    from qtuning.data.tokenise import load_tokenizer

    def load(template: str | None) -> Any:
        tokenizer = load_tokenizer(bpe_folder)
        tokenizer.chat_template = template
        return tokenizer

    return load


def test_what_the_tokenizer_lacks_is_said(with_template: Any) -> None:
    tokenizer = with_template(None)
    with pytest.raises(UserError, match="no chat template; set template: alpaca or plain"):
        render(BARE, "chat", tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        render(BARE, "plain", tokenizer)
