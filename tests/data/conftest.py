"""Small real tokenizers, trained here, in both styles that causal models use; and folders that hold them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

Save = Callable[[Path, list[Any]], None]

TEXTS = [
    "Question: What is the capital of France?\nAnswer: Paris is the capital of France.",
    "Background: The river Loire flows through Nantes.\nQuestion: Where does the Loire flow?\nAnswer: Through Nantes.",
    "Below is an instruction that describes a task.\n\n### Instruction:\nCount.\n\n### Response: one, two, three",
    "Write a response that appropriately completes the request. a :: b :: c ::: Question:: Answer::",
    "<|user|>\nHow many eggs are left?\n<|assistant|>\nThere are 12 - 5 = 7 eggs left.\n#### 7",
] * 4

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and message['content'] == 'refuse me' %}"
    "{{ raise_exception('no such system message') }}{% endif %}"
    "<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def _save(backend: Any, folder: Path, chat_template: str | None) -> Path:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", backend.token_to_id("<bos>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", chat_template=chat_template
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2 style: byte-level BPE, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return _save(backend, tmp_path_factory.mktemp("bpe"), CHAT_TEMPLATE)


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaMA style: spaces become a letter, tokens may span words, unknown letters fall back to bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<bos>", "<eos>"], show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    model = json.loads(backend.to_str())["model"]
    vocabulary = model["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in model["merges"]]
    backend.model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _save(backend, tmp_path_factory.mktemp("sentencepiece"), None)


@pytest.fixture(scope="session")
def bpe(bpe_folder: Path) -> Any:
    from qtuning.data.tokenise import load_tokenizer

    return load_tokenizer(bpe_folder)


@pytest.fixture(scope="session")
def sentencepiece(sentencepiece_folder: Path) -> Any:
    from qtuning.data.tokenise import load_tokenizer

    return load_tokenizer(sentencepiece_folder)


@pytest.fixture
def write(tmp_path: Path, save: Save) -> Callable[[str, list[Any]], Path]:
    """write(NAME, rows): a file below tmp_path in the format of its name."""

    def write_file(name: str, rows: list[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, rows)
        return path

    return write_file


@pytest.fixture(scope="session")
def save() -> Save:
    """save(path, rows): a file in the format that its suffix tells."""
    import gzip

    import polars

    def save_file(path: Path, rows: list[Any]) -> None:
        if path.suffix == ".parquet":
            polars.DataFrame(rows).write_parquet(path)
            return
        text = "\n".join(map(json.dumps, rows)) + "\n" if ".jsonl" in path.name else json.dumps(rows, indent=1)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())

    return save_file
