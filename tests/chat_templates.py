"""Chat templates of real models, as TRL carries them, and others with single traits; and tokenizers for them."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from hypothesis import strategies as st

MARKS = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>"),
    *("<end_of_turn>", "<|user|>", "<|assistant|>", "<|end|>", "<|return|>", "<|END_OF_TURN_TOKEN|>"),
    *("<|END_RESPONSE|>", "<turn|>", "<|eot|>", "<｜end▁of▁sentence｜>"),
)
"""The tokens that the templates below write."""

OF_IMAGES = ("idefics3", "llava_next", "smolvlm")
"""Templates of TRL for content in parts, which refuse text, or leave it out."""
REAL = tuple(
    sorted(
        name
        for file in (files("trl") / "chat_templates").iterdir()
        if (name := file.name.removesuffix(".jinja")) != file.name and name.removesuffix("_training") not in OF_IMAGES
    )
)
NO_SYSTEM = ("gemma", "gemma_training")
"""Those that refuse a system message."""

_USER_THEN_ANSWER = (
    "{% for m in messages %}{% if m.role == 'assistant' %}ANSWER{% else %}"
    "{{ '[' + m.role + ']' + m.content }}{% endif %}{% endfor %}"
)
OWN = {
    # no prompt for a generation; the answer begins behind a space, and does not end with EOS
    "question-answer": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + '<|eot_id|>' }}"
        "{% else %}{{ 'Question: ' + m.content + '\nAnswer:' }}{% endif %}{% endfor %}"
    ),
    # Llama 2 and Mistral 7B v0.1: white space is taken, the system message stands in the first turn of the user
    "llama2": (
        "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content | trim + '\n<</SYS>>"
        "\n\n' %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for m in messages %}"
        "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content | trim + "
        "' [/INST]' }}{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    # Mistral 7B v0.3: the system message stands in the last turn, if that is the user's
    "system-in-last-turn": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for m in messages %}"
        "{% if m.role == 'user' %}{{ '[INST] ' + (system if loop.last else '') + m.content + '[/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "no-end": _USER_THEN_ANSWER.replace("ANSWER", "{{ '[assistant]' + m.content }}"),
    "end-as-text": _USER_THEN_ANSWER.replace("ANSWER", "{{ '[assistant]' + m.content + '[/assistant]\n' }}"),
    # a prompt for a generation with more text than stands before an answer that is given
    "opens-thought": _USER_THEN_ANSWER.replace("ANSWER", "{{ '[assistant]' + m.content + '<|im_end|>' }}")
    + "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}",
    "default-system": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "date": (
        "{{ 'Today is ' + strftime_now('%d %B %Y %H:%M') + '\n' }}{% for m in messages %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
STRIPS = re.compile(
    r"(cohere|(diffusion_)?gemma\d?(_v\d)?|glm4moe|llama2|llama3(_\d)?|nemotron_3_\w+|qwen3(_5_(no)?think|_6|_8)?)"
    "(_training)?"
)
"""Those that take white space from the ends of a message."""


def chat_template(name: str) -> str:
    """A template by its name in OWN or REAL."""
    return OWN[name] if name in OWN else (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def save_tokenizer(
    folder: Path,
    kind: Literal["bytes", "sentencepiece"],
    before: str = "",
    behind: str = "",
    template: str | None = None,
    end: str | None = "</s>",
) -> Path:
    """A tokenizer whose post-processor puts `before` before a text and `behind` behind it; with a small configuration.

    bytes: byte-level BPE, whose tokens join a space to the word behind it, and line breaks to each other.
    sentencepiece: as LLaMA's, which puts a space before every text.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>", *MARKS]
    texts = ["[user] Name a river.\n\n[assistant]\n The Loire:: 12 + 34 = 46\n\n\nAnswer: yes  no   ::: [/INST] a"] * 9
    backend = Tokenizer(models.BPE())
    if kind == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=440, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    if kind == "sentencepiece":
        import json

        model = json.loads(backend.to_str())["model"]
        vocabulary = model["vocab"]
        vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
        merges = [tuple(merge) for merge in model["merges"]]
        backend.model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    if before or behind:
        backend.post_processor = TemplateProcessing(
            single=f"{before} $A {behind}".strip(),
            special_tokens=[(token, backend.token_to_id(token)) for token in (before, behind) if token],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=end, unk_token="<unk>", chat_template=template,
        extra_special_tokens=list(MARKS),
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096).save_pretrained(folder)
    return folder


def _texts() -> st.SearchStrategy[str]:
    free = st.text(st.characters(exclude_categories=["Cs", "Co", "Cn"], exclude_characters="▁\x00"), max_size=20)
    words = st.lists(st.sampled_from(["a", "Name", " ", "\n", "::", ": ", "12", "é", "🙂", "[assistant]", "."]))
    return (free | words.map("".join)).filter(lambda text: bool(text.strip()))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[dict[str, str]], str]:
    """(messages before the response, the response); the messages end with the user's."""
    texts = _texts()
    made = [{"role": "system", "content": draw(texts)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        made += [{"role": "user", "content": draw(texts)}, {"role": "assistant", "content": draw(texts)}]
    return [*made, {"role": "user", "content": draw(texts)}], draw(texts)


def example_of(conversation: list[dict[str, str]], response: str) -> Any:
    """The same as a row of a train set, as it is read."""
    from qtuning.data.parse import parse_row
    from qtuning.data.rows import Row
    from qtuning.experiment.cell import TrainSet

    train_set = TrainSet.model_validate({"name": "rows", "label": "Rows", "source": "rows.jsonl", "format": "chat"})
    row = {"messages": [*conversation, {"role": "assistant", "content": response}]}
    return parse_row(Row("rows.jsonl", 1, row), train_set)
