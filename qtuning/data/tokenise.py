"""Loads a tokenizer, and turns texts into token ids: the one way in training, in scoring and in evaluation."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtuning.data.chat import TODAY, writes_date
from qtuning.data.rows import Reason, Refusal
from qtuning.data.templates import turn_of
from qtuning.errors import UserError, one_line
from qtuning.experiment.cell import Template
from qtuning.files import canonical_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in the folder `path`, padding on the right.

    UserError if it cannot map tokens to characters, or has no tokenizer.json.

    A tokenizer without a pad token pads with its unknown token, else with its end-of-sequence token: a new token would
    enlarge the vocabulary.
    """
    from transformers import AutoTokenizer

    # transformers 5.23 converts one, but merges pieces in the order of their ids and not of their scores: Mistral's
    # "Hello  world" becomes other tokens than those that the model was trained on
    if (path / "tokenizer.model").is_file() and not (path / "tokenizer.json").is_file():
        raise UserError(
            f"{path}: has tokenizer.model alone, and its conversion is not exact; add the tokenizer.json of the model, "
            "or of another with the same tokenizer"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no usable tokenizer: {one_line(error)}") from None
    if not tokenizer.is_fast:
        raise UserError(
            f"{path}: its tokenizer has no fast version (tokenizer.json), which is needed to find the response"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 over what decides how text becomes tokens: the tokenizer, its end token, its chat template, its date."""
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token, tokenizer.chat_template]
    if tokenizer.chat_template and writes_date(tokenizer):
        parts.append(TODAY.isoformat())
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Tokenised:
    """Token ids of a sample, cut at the cutoff.

    prompt: tokens[:prompt] are the prompt; the rest is the response, at least one token. truncated: the cutoff took a
    part of the response. marked: places in `tokens` that hold a character of a known error.
    """

    tokens: list[int]
    prompt: int
    truncated: bool
    marked: tuple[int, ...] = ()


@dataclass(frozen=True)
class Parts:
    """Token ids of a prompt and of what follows it.

    prompt: what the same prompt has alone, opening tokens (BOS) included. rest: of the text behind it. spans: the
    characters (start, stop) of that text that each of `rest` holds.
    """

    prompt: list[int]
    rest: list[int]
    spans: list[tuple[int, int]]


def encode_prompts(prompts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", chat: bool) -> list[list[int]]:
    """Token ids of prompts, as training and evaluation give them to the model.

    chat: a chat template wrote them, with all special tokens. Else a text is data: one that spells "</s>" does not
    become a special token, and the opening tokens are put before it. Nothing is put behind it, whatever the tokenizer
    does with a text of its own.
    """
    opening = [] if chat else opening_tokens(tokenizer)
    return [opening + tokens for tokens, _ in _encode(prompts, tokenizer, chat)]


def encode_pairs(pairs: Sequence[tuple[str, str]], tokenizer: "PreTrainedTokenizerBase", chat: bool) -> list[Parts]:
    """Token ids of (prompt, text behind it). chat: see `encode_prompts`, which gives the same ids of the prompts.

    Both are tokenised as one text: apart, a tokenizer could put a space between them. Where this gives the prompt other
    tokens than it has alone, as one token would span the border, the text behind it is tokenised apart: a model that
    generates sees the prompt alone.
    """
    distinct = list(dict.fromkeys(prompt for prompt, _ in pairs))
    alone = dict(zip(distinct, (tokens for tokens, _ in _encode(distinct, tokenizer, chat)), strict=True))
    whole = _encode([prompt + rest for prompt, rest in pairs], tokenizer, chat)
    opening = [] if chat else opening_tokens(tokenizer)
    found = []
    for (prompt, rest), encoded in zip(pairs, whole, strict=True):
        behind = _behind(prompt, alone[prompt], encoded) or _apart(rest, tokenizer, chat)
        found.append(Parts(opening + alone[prompt], *behind))
    return found


Encoded = tuple[list[int], list[tuple[int, int]]]
"""Token ids of a text, and the characters (start, stop) that each holds."""
ANCHORS = ("\n", "a", ".", " ")
"""Characters of which one shares no token with whatever follows it."""


def _behind(head: str, alone: Sequence[int], whole: Encoded) -> Encoded | None:
    """What follows a head in a whole text; None where the head has other tokens there than alone."""
    tokens, offsets = whole
    count = len(alone)
    if tokens[:count] != alone:
        return None
    return tokens[count:], [(max(0, start - len(head)), stop - len(head)) for start, stop in offsets[count:]]


def _apart(text: str, tokenizer: "PreTrainedTokenizerBase", chat: bool) -> Encoded:
    """A text that follows another one: behind an anchor, since tokenizers may put a space before what comes first."""
    for anchor in ANCHORS:
        (alone, _), whole = _encode([anchor, anchor + text], tokenizer, chat)
        if (found := _behind(anchor, alone, whole)) is not None:
            return found
    return _encode([text], tokenizer, chat)[0]


def _encode(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", chat: bool) -> list[Encoded]:
    """Each text without anything put before or behind it."""
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=not chat,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))


def tokenise(
    texts: Sequence[tuple[str, str]],
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    cutoff: int,
    marks: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> list[Tokenised | Refusal]:
    """Tokenise (prompt, response) texts as `templates.render` writes them.

    marks: for each pair, spans (start, end) in characters of the response; their tokens become `marked`. The token that
    ends the turn is added as an id, unless the chat template has written it.
    """
    if not texts:
        return []
    turn = turn_of(tokenizer, template)
    closing = [] if turn.written else [turn.id]
    results: list[Tokenised | Refusal] = []
    spans = marks or [()] * len(texts)
    for parts, marked in zip(_encode_samples(texts, tokenizer, template), spans, strict=True):
        inside = [
            len(parts.prompt) + index
            for index, (first, stop) in enumerate(parts.spans if marked else ())
            if any(first < end and stop > start for start, end in marked)
        ]
        results.append(_cut(parts.prompt + parts.rest + closing, len(parts.prompt), cutoff, inside))
    return results


def response_spans(
    texts: Sequence[tuple[str, str]], tokenizer: "PreTrainedTokenizerBase", template: Template
) -> list[list[tuple[int, int]]]:
    """For each (prompt, response), the characters of the response (start, stop) that each of its tokens holds.

    The tokens are those of `tokenise`, before the cutoff. A token that ends the turn and is added has no characters.
    """
    if not texts:
        return []
    written = turn_of(tokenizer, template).written
    return [
        parts.spans if written else [*parts.spans, (len(response), len(response))]
        for (_, response), parts in zip(texts, _encode_samples(texts, tokenizer, template), strict=True)
    ]


def _encode_samples(
    texts: Sequence[tuple[str, str]], tokenizer: "PreTrainedTokenizerBase", template: Template
) -> list[Parts]:
    """(prompt, response) without the token that ends the turn, if that is added as an id."""
    turn = turn_of(tokenizer, template)
    end = "" if turn.written else turn.token
    return encode_pairs(
        [(prompt, response.removesuffix(end)) for prompt, response in texts], tokenizer, template == "chat"
    )


def _cut(tokens: list[int], prompt: int, cutoff: int, marked: Sequence[int]) -> Tokenised | Refusal:
    if prompt >= min(len(tokens), cutoff):
        return Refusal(Reason.RESPONSE_CUT_AWAY, f"the prompt has {prompt} tokens, the cutoff is {cutoff}")
    return Tokenised(tokens[:cutoff], prompt, len(tokens) > cutoff, tuple(place for place in marked if place < cutoff))


def opening_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The special tokens that the tokenizer puts before a text; for most causal models [BOS] or nothing."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    starts = (start for start in range(len(full)) if full[start : start + len(bare)] == bare)
    return list(full[: next(starts, 0)])
