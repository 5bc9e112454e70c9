"""Loads a tokenizer, and turns texts into token ids that know where the response begins."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtuning.data.rows import Reason, Refusal
from qtuning.data.templates import end_of_sequence
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
    """SHA-256 over what decides how text becomes tokens: the tokenizer itself, its end token, its chat template."""
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token, tokenizer.chat_template]
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


def tokenise(
    texts: Sequence[tuple[str, str]],
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    cutoff: int,
    marks: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> list[Tokenised | Refusal]:
    """Tokenise (prompt, response) texts as `templates.render` writes them, each pair as one text.

    marks: for each pair, spans (start, end) in characters of the response; their tokens become `marked`.

    If prompt and response were tokenised apart, the tokens at their border would differ from those that the model meets
    in use. A token belongs to the response if it ends after the last character of the prompt, so the model learns one
    that spans the border.

    plain, alpaca: the texts are data, so a row that spells "</s>" does not become a special token; opening tokens (BOS)
    and the end-of-sequence token are added as ids. chat: the template has written all special tokens.
    """
    if not texts:
        return []
    opening, closing = ([], []) if template == "chat" else (opening_tokens(tokenizer), [tokenizer.eos_token_id])
    results: list[Tokenised | Refusal] = []
    spans = marks or [()] * len(texts)
    for (prompt, _), (body, offsets), marked in zip(texts, _encode(texts, tokenizer, template), spans, strict=True):
        border = _border(offsets, prompt)
        inside = [
            len(opening) + index
            for index, (first, stop) in enumerate(offsets)
            if any(first < len(prompt) + end and stop > len(prompt) + start for start, end in marked)
        ]
        results.append(_cut(opening + body + closing, len(opening) + border, cutoff, inside))
    return results


def response_spans(
    texts: Sequence[tuple[str, str]], tokenizer: "PreTrainedTokenizerBase", template: Template
) -> list[list[tuple[int, int]]]:
    """For each (prompt, response), the characters of the response (start, stop) that each of its tokens holds.

    The tokens are those of `tokenise`, before the cutoff. The end-of-sequence token that it adds has no characters.
    """
    if not texts:
        return []
    found = []
    for (prompt, response), (_, offsets) in zip(texts, _encode(texts, tokenizer, template), strict=True):
        inside = offsets[_border(offsets, prompt) :]
        spans = [(max(0, start - len(prompt)), stop - len(prompt)) for start, stop in inside]
        found.append(spans if template == "chat" else [*spans, (len(response), len(response))])
    return found


def _encode(
    texts: Sequence[tuple[str, str]], tokenizer: "PreTrainedTokenizerBase", template: Template
) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """(token ids, their characters in the whole text) of each pair, without opening and closing tokens."""
    chat = template == "chat"
    end = "" if chat else end_of_sequence(tokenizer)
    encoded = tokenizer(
        [prompt + response.removesuffix(end) for prompt, response in texts],
        add_special_tokens=False,
        split_special_tokens=not chat,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)


def _border(offsets: Sequence[tuple[int, int]], prompt: str) -> int:
    """The first token that ends after the last character of the prompt."""
    return next((index for index, (_, stop) in enumerate(offsets) if stop > len(prompt)), len(offsets))


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
