"""Writes an example as two texts: the prompt, which the model reads, and the response, which it learns to write."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtuning.data.rows import Example, Message
from qtuning.errors import UserError
from qtuning.experiment.cell import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# The two prompts of Stanford Alpaca (Taori et al., 2023)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


class TemplateRefusal(Exception):
    """The chat template of a tokenizer refuses a conversation, for instance one with a system message."""


def render(example: Example, template: Template, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """(prompt, response), to be tokenised as one text.

    The response ends with the tokenizer's end-of-sequence token (plain, alpaca) or as the chat template says (chat).
    UserError if the tokenizer lacks what the template needs, TemplateRefusal if its chat template refuses the example.
    """
    if template == "chat":
        return _chat(example, tokenizer)
    instruction, end = flatten(example.prompt), end_of_sequence(tokenizer)
    if template == "plain":
        background = f"Background: {example.input}\n" if example.input else ""
        return f"{background}Question: {instruction}\nAnswer:", f" {example.response}{end}"
    prompt = ALPACA_WITH_INPUT if example.input else ALPACA_WITHOUT_INPUT
    # not str.format: the texts may hold braces themselves
    before, after = prompt.split("{instruction}")
    return before + instruction + after.replace("{input}", example.input), example.response + end


def flatten(prompt: Sequence[Message]) -> str:
    """A prompt of several turns as one instruction, for templates that have room for only one.

    The system message comes first. A single user turn stands as it is; several turns are written `User: ...` and
    `Assistant: ...`. Blank lines separate them.
    """
    system = [message.content for message in prompt if message.role == "system" and message.content.strip()]
    turns = [message for message in prompt if message.role != "system"]
    if len(turns) == 1:
        return "\n\n".join([*system, turns[0].content])
    return "\n\n".join([*system, *(f"{turn.role.capitalize()}: {turn.content}" for turn in turns)])


def end_of_sequence(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The end-of-sequence token as text. UserError if the tokenizer has none."""
    if not isinstance(tokenizer.eos_token, str):
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no end-of-sequence token, without which a model never "
            "learns to stop; set eos_token in its tokenizer_config.json"
        )
    return tokenizer.eos_token


def _chat(example: Example, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    import jinja2

    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; set template: alpaca or plain in the "
            "model's YAML"
        )
    conversation = [{"role": message.role, "content": message.content} for message in example.prompt]
    if example.input:
        conversation[-1]["content"] += f"\n\n{example.input}"
    answer = {"role": "assistant", "content": example.response}
    try:
        prompt = chat_prompt(conversation, tokenizer)
        whole = tokenizer.apply_chat_template([*conversation, answer], tokenize=False)
    except jinja2.TemplateError as error:
        raise TemplateRefusal(str(error)) from None
    assert isinstance(whole, str)
    if not whole.startswith(prompt):
        # some templates open an answer in another way if it is to be generated: the response begins where they differ
        prompt = os.path.commonprefix([prompt, whole])  # noqa: RUF071 (texts, not paths)
    if example.response.strip() not in whole[len(prompt) :]:
        raise TemplateRefusal("prompt and response cannot be told apart in what the chat template writes")
    return prompt, whole[len(prompt) :]


def chat_prompt(conversation: Sequence[dict[str, str]], tokenizer: "PreTrainedTokenizerBase") -> str:
    """The text that a model continues with its answer; both training and evaluation read it.

    conversation: messages with `role` and `content`. Raises jinja2.TemplateError where the template refuses them.
    """
    text = tokenizer.apply_chat_template(list(conversation), tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text
