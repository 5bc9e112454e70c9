"""Writes an example as two texts: the prompt, which the model reads, and the response, which it learns to write."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtuning.data.chat import Turn, chat_texts, chat_turn, check_has_template, plain_turn
from qtuning.data.rows import Example, Message
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


def render(example: Example, template: Template, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """(prompt, response), to be tokenised as one text.

    The response ends with what ends a turn (`turn_of`). UserError if the tokenizer lacks what the template needs,
    TemplateRefusal if its chat template refuses the example or does not write all of it.
    """
    if template == "chat":
        return _chat(example, tokenizer)
    instruction, end = flatten(example.prompt), plain_turn(tokenizer).token
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


def turn_of(tokenizer: "PreTrainedTokenizerBase", template: Template) -> Turn:
    """What ends a response under this template: training learns it, evaluation stops there. UserError as `render`."""
    return chat_turn(tokenizer) if template == "chat" else plain_turn(tokenizer)


def _chat(example: Example, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    check_has_template(tokenizer)
    conversation = [{"role": message.role, "content": message.content} for message in example.prompt]
    if example.input:
        conversation[-1]["content"] += f"\n\n{example.input}"
    return chat_texts(conversation, example.response, tokenizer)
