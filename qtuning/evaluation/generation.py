"""Greedy generation of a batch: finished rows leave it, and keys and values are kept in buffers made once.

The texts are those of transformers' `generate`, up to the first stop text.
"""

from collections.abc import Sequence
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria
from transformers.cache_utils import DynamicLayer

from qtuning.model.transfer import to_host

LEAVE = 0.75
"""Finished rows leave once at most this share of the rows is unfinished: to leave means to copy what is cached."""
ATTENTION = {"full_attention", "sliding_attention"}
"""Kinds of layers whose cache is a list of keys and values."""


class StopTexts(StoppingCriteria):
    """Ends each row of a batch at the first stop text that it generates.

    lm-eval's own criteria end a batch only once all rows have hit the same stop text: if one row ends at a line break
    and another at EOS, both run to the length limit. Whatever follows a stop text is cut off afterwards in either case,
    so the answers are the same and take less time.
    """

    def __init__(self, texts: list[str], tokenizer: PreTrainedTokenizerBase, prompt_length: int) -> None:
        self.texts = texts
        self.tokenizer = tokenizer
        self.prompt_length = prompt_length
        # a text has no more tokens than bytes, however it is tokenised
        self.window = max(len(text.encode()) for text in texts)

    def __call__(self, input_ids: Tensor, scores: Tensor | None = None, **_: Any) -> Tensor:
        """input_ids (rows, prompt + generated) -> (rows,) bool: which rows are done."""
        start = max(self.prompt_length, input_ids.shape[1] - self.window)
        tails = self.tokenizer.batch_decode(input_ids[:, start:])
        done = [any(text in tail for text in self.texts) for tail in tails]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


class _Buffer(DynamicLayer):
    """Keys and values of a layer in buffers of `room` tokens; what is filled of them is a view and not a copy."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.filled = room, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.buffers = [
            states.new_empty((*states.shape[:2], self.room, states.shape[3])) for states in (key_states, value_states)
        ]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self.filled] = states
        self.keys, self.values = (buffer[:, :, : self.filled] for buffer in self.buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self.filled

    def select(self, rows: Tensor) -> None:
        """Keep these rows only."""
        kept = [states[rows] for states in (self.keys, self.values)]  # type: ignore[index]
        self.is_initialized, self.filled = False, 0
        self.update(*kept)


PENALTIES = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "num_beams": 1}
"""What a model's generation_config may ask of greedy decoding, and where it asks for nothing."""
FORCED = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_bos_token_id", "forced_eos_token_id")


def can_generate(model: PreTrainedModel) -> bool:
    """Whether `generate` may take the place of the model's own: every layer keeps keys and values of all tokens and
    nothing else, and the likeliest token is what greedy decoding takes."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    plain = kinds <= ATTENTION and "logits_to_keep" in signature(type(model).forward).parameters
    settings = model.generation_config
    asks = [name for name, nothing in PENALTIES.items() if getattr(settings, name, None) not in (None, nothing)]
    asks += [name for name in FORCED if getattr(settings, name, None)]
    return plain and not getattr(model, "_is_stateful", False) and not asks


@lru_cache(maxsize=8)
def _enders(tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...], size: int) -> Tensor | None:
    """[size] bool: the tokens that can complete one of these texts, those whose own text has its last character.

    None where any token can, because a last character is not ASCII and may be spread over several tokens.
    """
    last = {text[-1] for text in texts}
    if not all(character.isascii() for character in last):
        return None
    known = min(size, len(tokenizer))
    alone = tokenizer.batch_decode([[token] for token in range(known)])
    return torch.tensor([bool(last & set(text)) for text in alone] + [True] * (size - known))


@torch.inference_mode()
def generate(
    model: PreTrainedModel, context: Tensor, attention: Tensor, most: int, stops: StopTexts, ends: Sequence[int]
) -> Tensor:
    """context, attention (rows, prompt), left-padded -> (rows, prompt + at most `most`): the likeliest token each time.

    A row ends with one of the tokens `ends` or where `stops` says so; then it is padded.
    """
    rows, prompt = context.shape
    layers = [_Buffer(prompt + most) for _ in range(model.config.get_text_config().num_hidden_layers)]
    cache = DynamicCache()
    cache.layers = [*layers]
    found = torch.full((rows, prompt + most), stops.tokenizer.pad_token_id, dtype=context.dtype, device=context.device)
    found[:, :prompt] = context
    enders = _enders(stops.tokenizer, tuple(stops.texts), model.config.get_text_config().vocab_size)
    last = None if enders is None else enders.clone()
    if last is not None:
        last[list(ends)] = True
    (gaps,) = to_host([(attention == 0).any()])
    padded = bool(gaps)
    seen = torch.ones((rows, prompt + most), dtype=attention.dtype, device=context.device)
    seen[:, :prompt] = attention
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
    active = torch.arange(rows, device=context.device)  # rows of `found` that are in the batch
    running = torch.ones(rows, dtype=torch.bool)  # of these, on the CPU
    places = active  # of those that run, in the batch
    tokens, length = context, prompt
    while True:
        logits = model(
            input_ids=tokens,
            attention_mask=seen[:, :length] if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        new = logits.argmax(dim=-1)
        found[active[places], length] = new[places]
        length += 1
        (on_cpu,) = to_host([new])  # the one wait a token
        asked = (running if last is None else running & last[on_cpu]).nonzero().squeeze(1)
        if len(asked):
            (texts,) = to_host([found[active[asked.to(active.device)], :length]])
            done = stops(texts) | torch.tensor([int(token) in ends for token in on_cpu[asked]])
            running[asked[done]] = False
            places = running.nonzero().squeeze(1).to(active.device)
        if length == prompt + most or not running.any():
            return found[:, :length]
        tokens, positions = new[:, None], positions[:, -1:] + 1
        if running.sum() <= LEAVE * len(running):
            kept = places
            active, tokens, positions, seen = active[kept], tokens[kept], positions[kept], seen[kept]
            for layer in layers:
                layer.select(kept)
            running = torch.ones(len(kept), dtype=torch.bool)
            places = torch.arange(len(kept), device=active.device)
