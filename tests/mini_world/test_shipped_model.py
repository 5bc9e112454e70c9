"""The base model in the package belongs to the world that the generator writes, and loads with transformers."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

MINI = Path(str(resources.files("qtuning"))) / "assets" / "mini"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MINI)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MINI)


def test_size(model: Any) -> None:
    assert type(model).__name__ == "LlamaForCausalLM"
    assert 1e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 3e6
    assert (MINI / "model.safetensors").stat().st_size <= 12e6


def test_card_and_generator_agree(world_dir: Path) -> None:
    """The card names the digest of the corpus behind the weights and of the world behind its scores: today's, both."""
    manifest = json.loads((world_dir / "manifest.json").read_text())
    recipe = json.loads((MINI / "recipe.json").read_text())
    card = (MINI / "README.md").read_text(encoding="utf-8")
    corpus = manifest["files"]["pretrain/train.jsonl.gz"]["sha256"]
    assert recipe["pretrain_sha256"] == corpus
    assert re.findall(r"\b[0-9a-f]{64}\b", card) == [corpus, manifest["sha256"]]


def test_tokenizer_gives_every_text_back(tokenizer: Any, rows: Any) -> None:
    texts = {
        text for records in rows.values() for record in records for text in record.values() if isinstance(text, str)
    }
    letters = sorted({letter for text in texts for letter in text})
    some = ["".join(letters), *(f"a{letter}b {letter}" for letter in letters), *sorted(texts)[::20]]
    for text, ids in zip(some, tokenizer(some)["input_ids"], strict=True):
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_digits_stay_single(tokenizer: Any) -> None:
    pieces = [tokenizer.decode([i]) for i in tokenizer("1024 + 77=<<5>>", add_special_tokens=False)["input_ids"]]
    assert all(sum(letter.isdigit() for letter in piece) <= 1 for piece in pieces)


def test_prompt_and_answer_split_at_the_colon(tokenizer: Any) -> None:
    """Tokens of prompt + answer begin with the tokens of the prompt, so scoring may cut there."""
    prompt = "Question: Where does the velk live?\nAnswer:"
    whole = tokenizer(prompt + " the desert")["input_ids"]
    assert whole[: len(tokenizer(prompt)["input_ids"])] == tokenizer(prompt)["input_ids"]


def test_model_knows_its_world(model: Any, tokenizer: Any, rows: Any) -> None:
    """Far from the 7.3 nats of a uniform guess over the vocabulary, and no weight is broken."""
    import torch

    texts = [row["text"] for row in rows["pretrain/train"][:64]]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = model(**batch, labels=labels).loss.item()
    assert loss < 1.6
