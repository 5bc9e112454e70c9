"""What a tokenizer's chat template writes of a conversation: the prompt, where the response stands, what ends its turn.

The response is found by rendering the conversation with a sentinel in its place: what stands before it is the prompt,
whatever the response is. The common prefix of two renderings would not do: a response may begin like the prompt of a
generation, and templates differ in what they write before an answer that is given and before one that is asked for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING

from qtuning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Conversation = Sequence[Mapping[str, str]]
"""Messages with `role` and `content`."""

TODAY = date(2024, 7, 26)
"""The date for templates that write today's, so that samples are the same every day; Llama 3.1's own default."""
SENTINEL = "qzresponsezq"


class TemplateRefusal(Exception):
    """The chat template of a tokenizer refuses a conversation, or does not write all of it."""


@dataclass(frozen=True)
class Frame:
    """What a template writes around the response of a conversation.

    before, after: all of it. prompt: what training and evaluation give the model. lead: the spaces between prompt and
    response, which belong to the response, since tokenizers join a space to the word behind it.
    """

    before: str
    after: str
    prompt: str
    lead: str = ""


def chat_prompt(conversation: Conversation, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The text that a model continues with its answer; both training and evaluation read it.

    TemplateRefusal where the template refuses the conversation or leaves a message out.
    """
    return frame_of(conversation, tokenizer).prompt


def chat_texts(conversation: Conversation, response: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """(prompt, response with what ends its turn), as the template writes them.

    A template may take white space from the ends of the response. What it writes behind the turn's end is left out.
    TemplateRefusal where it refuses the conversation, leaves a message out, or changes the response.
    """
    frame = frame_of(conversation, tokenizer)
    whole, around = _apply([*conversation, _answer(response)], tokenizer), len(frame.before) + len(frame.after)
    written = whole[len(frame.before) : len(whole) - len(frame.after)]
    fits = whole.startswith(frame.before) and whole.endswith(frame.after) and around <= len(whole)
    if not fits or written.strip() != response.strip():
        raise TemplateRefusal("the chat template changes the response, or what stands around it")
    return frame.prompt, frame.lead + written + _ending(frame.after, tokenizer)


def frame_of(conversation: Conversation, tokenizer: "PreTrainedTokenizerBase") -> Frame:
    """What the template writes around a response to this conversation.

    The prompt is what stands before the response, without spaces at its end, unless the template's own prompt for a
    generation is the same to the last space. Where this lacks a message (some templates write the system message into
    the last turn, and only if that is the user's), it is the template's prompt for a generation, if that has all of
    them and ends in the same way. TemplateRefusal if neither has.
    """
    before, after = _split(conversation, tokenizer)
    asked = _apply(conversation, tokenizer, add_generation_prompt=True)
    kept = before.rstrip(" ")
    by_role, by_role_asked = _lacking_by_role(tuple(message["role"] for message in conversation), tokenizer)
    lacking = by_role | _lacking(conversation, before)
    if not lacking:
        return Frame(before, after, before) if before == asked else Frame(before, after, kept, before[len(kept) :])
    last = conversation[-1]["content"].strip()
    alike = asked.rstrip(" ").rpartition(last)[2] == kept.rpartition(last)[2]
    if alike and not by_role_asked | _lacking(conversation, asked):
        return Frame(before, after, asked, "" if asked.endswith(" ") else before[len(kept) :])
    place = min(lacking)
    raise TemplateRefusal(f"the chat template leaves out message {place + 1}, of the {conversation[place]['role']}")


@dataclass(frozen=True)
class Turn:
    """How the assistant's turn goes on behind the prompt, and what ends it.

    token, id: the token that ends it; training learns it, and generation stops there. written: whether the chat
    template writes it; else it is put behind the response. stops: texts at which a generation has ended. lead: spaces
    that the template writes before a response.
    """

    token: str
    id: int
    written: bool
    stops: tuple[str, ...]
    lead: str = ""


def plain_turn(tokenizer: "PreTrainedTokenizerBase") -> Turn:
    """Where no chat template says more: the end-of-sequence token ends it. UserError if the tokenizer has none."""
    token, number = tokenizer.eos_token, tokenizer.eos_token_id
    if not isinstance(token, str) or not isinstance(number, int):
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no end-of-sequence token, without which a model never "
            "learns to stop; set eos_token in its tokenizer_config.json"
        )
    return Turn(token, number, False, (token,))


def chat_turn(tokenizer: "PreTrainedTokenizerBase") -> Turn:
    """It ends with the first of the tokenizer's own tokens that the chat template writes behind a response.

    Where it writes none, with the end-of-sequence token; text that stands there instead is one of `stops`. UserError
    without a chat template, or if that refuses a question.
    """
    check_has_template(tokenizer)
    return _chat_turn(tokenizer, tokenizer.get_chat_template(), tokenizer.eos_token)


def _ending(after: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """What a response ends with, of all that the template writes behind it."""
    if (found := _own_tokens(tokenizer, len(tokenizer)).search(after)) is not None:
        return after[: found.end()]
    return after.rstrip() + plain_turn(tokenizer).token


def writes_date(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether what the chat template writes depends on the day; it then gets TODAY.

    Some templates write a date only beside a system message, others only without.
    """
    question = {"role": "user", "content": "a"}
    days = (TODAY, date(TODAY.year + 1, 2, 1))
    for conversation in ([question], [{"role": "system", "content": "b"}, question]):
        try:
            if len({_apply(conversation, tokenizer, add_generation_prompt=True, day=day) for day in days}) > 1:
                return True
        except TemplateRefusal:
            continue
    return False


def check_has_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """UserError if the tokenizer has no chat template, or several and none that is called `default`."""
    templates = tokenizer.chat_template
    if not templates or (isinstance(templates, dict) and "default" not in templates):
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; set template: alpaca or plain in the "
            "model's YAML"
        )


@lru_cache(maxsize=8)
def _chat_turn(tokenizer: "PreTrainedTokenizerBase", template: str, end: str | None) -> Turn:
    """template, end: of the tokenizer, which may be changed."""
    try:
        frame = frame_of([{"role": "user", "content": "a"}], tokenizer)
    except TemplateRefusal as refusal:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} refuses a question: {refusal}; mend the template, or set "
            "template: alpaca or plain in the model's YAML"
        ) from None
    if (found := _own_tokens(tokenizer, len(tokenizer)).search(frame.after)) is not None:
        token = found.group()
        number = tokenizer.convert_tokens_to_ids(token)
        assert isinstance(number, int)
        return Turn(token, number, True, (token,), frame.lead)
    default, text = plain_turn(tokenizer), frame.after.strip()
    return Turn(default.token, default.id, False, (default.token, *([text] if text else [])), frame.lead)


@lru_cache(maxsize=8)
def _own_tokens(tokenizer: "PreTrainedTokenizerBase", size: int) -> re.Pattern[str]:
    """Finds the tokens that are no pieces of text: those that were added to the vocabulary. size: of the tokenizer."""
    contents = {added.content for added in tokenizer.added_tokens_decoder.values()}
    # some tokenizers have runs of white space among them
    marks = sorted((content for content in contents if content.strip(" \t\r\n▁")), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, marks)) or "(?!)")


def _split(conversation: Conversation, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """What the template writes before and behind the response."""
    sentinel = SENTINEL
    while any(sentinel in message["content"] for message in conversation):
        sentinel += "x"
    before, found, after = _apply([*conversation, _answer(sentinel)], tokenizer).partition(sentinel)
    if not found:
        raise TemplateRefusal("the chat template leaves the response out")
    if sentinel in after:
        raise TemplateRefusal("the chat template writes the response more than once")
    return before, after


def _lacking(conversation: Conversation, text: str) -> set[int]:
    """The messages that do not stand in a text. Templates may take white space from their ends."""
    return {place for place, message in enumerate(conversation) if message["content"].strip() not in text}


def _lacking_by_role(roles: tuple[str, ...], tokenizer: "PreTrainedTokenizerBase") -> tuple[set[int], set[int]]:
    """The messages that a conversation of these roles lacks: before a response, and in the prompt for a generation.

    Of placeholders, which stand nowhere by chance: a short message may, as a part of another one.
    """
    return _lacking_placeholders(roles, tokenizer, tokenizer.get_chat_template())


@lru_cache(maxsize=1024)
def _lacking_placeholders(
    roles: tuple[str, ...], tokenizer: "PreTrainedTokenizerBase", template: str
) -> tuple[set[int], set[int]]:
    made = [{"role": role, "content": f"qzmessage{place}zq"} for place, role in enumerate(roles)]
    before = _split(made, tokenizer)[0]
    return _lacking(made, before), _lacking(made, _apply(made, tokenizer, add_generation_prompt=True))


def _answer(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def _apply(
    conversation: Conversation,
    tokenizer: "PreTrainedTokenizerBase",
    add_generation_prompt: bool = False,
    day: date = TODAY,
) -> str:
    """What the template writes on that day. TemplateRefusal where it refuses the conversation."""
    import jinja2
    from transformers.utils import chat_template_utils

    try:
        # apply_chat_template takes no functions; it renders this object, which is compiled once
        compiled = chat_template_utils._compile_jinja_template(tokenizer.get_chat_template())
        compiled.globals["strftime_now"] = day.strftime
        text = tokenizer.apply_chat_template(
            [dict(message) for message in conversation],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            date_string=f"{day:%d %b %Y}",
        )
    except jinja2.TemplateError as error:
        raise TemplateRefusal(str(error)) from None
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        # a template is a program, which may be wrong: `bos_token + 1`
        raise TemplateRefusal(f"{type(error).__name__}: {error}") from None
    assert isinstance(text, str)
    return text
