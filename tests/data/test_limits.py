"""What a model cannot take is one line, before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_templates import chat_template, save_tokenizer

from qtuning.data.limits import Wanted, check_ids, check_limits
from qtuning.errors import UserError
from qtuning.files import read_json, write_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tokenizer(tmp_path / "model", "bytes", "<s>", template=chat_template("llama3"))


def change(folder: Path, name: str, **keys: Any) -> None:
    write_json(folder / name, read_json(folder / name) | keys)


def refused(folder: Path, wanted: Wanted) -> str:
    with pytest.raises(UserError) as error:
        check_limits(folder, wanted)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_fits_is_not_refused(folder: Path) -> None:
    check_limits(folder, Wanted())
    check_limits(folder, Wanted(4096, 4096, ["plain", "alpaca", "chat"], chat=True))
    (folder / "config.json").unlink()
    check_limits(folder, Wanted(10**6, 10**6, ["chat"]))


def test_positions(folder: Path) -> None:
    assert "training.cutoff = 4097: the model in" in refused(folder, Wanted(cutoff=4097))
    assert "has 4096 positions; lower it" in refused(folder, Wanted(cutoff=8192))
    assert refused(folder, Wanted(max_length=5000)).startswith("evaluation.max_length = 5000: the model in")
    gpt2 = {"model_type": "gpt2", "n_positions": 64, "vocab_size": 10_000}
    (folder / "config.json").write_text(json.dumps(gpt2))
    assert "has 64 positions" in refused(folder, Wanted(max_length=65))


def test_tokens_beyond_the_embeddings(folder: Path) -> None:
    """Tokens were added to the tokenizer, and the model was not resized."""
    size = read_json(folder / "config.json")["vocab_size"]
    check_ids(folder, [size - 1])
    with pytest.raises(UserError, match=f"gives token ids up to {size}, but the model has {size} embeddings"):
        check_ids(folder, [1, size, 2])
    change(folder, "config.json", vocab_size=5)
    check_limits(folder, Wanted(templates=[]))
    assert "but the model has 5 embeddings; load the model, call resize" in refused(folder, Wanted(templates=["chat"]))
    assert "but the model has 5 embeddings" in refused(folder, Wanted(chat=True))


def test_a_template_that_refuses_an_answer(folder: Path) -> None:
    picky = "{% for m in messages %}{{ m.content if m.content != 'b' else raise_exception('no b') }}|{% endfor %}"
    (folder / "chat_template.jinja").write_text(picky)
    assert "refuses an answer: no b; mend the template" in refused(folder, Wanted(templates=["chat"]))


def test_end_pad_and_chat_template(tmp_path: Path) -> None:
    bare = save_tokenizer(tmp_path / "bare", "bytes")
    assert "has no chat template; set it to false" in refused(bare, Wanted(chat=True))
    assert "has no chat template; set template: alpaca or plain" in refused(bare, Wanted(templates=["chat"]))
    no_end = save_tokenizer(tmp_path / "no-end", "bytes", template=chat_template("llama3"), end=None)
    assert "no end-of-sequence token" in refused(no_end, Wanted(templates=["plain"]))
    check_limits(no_end, Wanted(templates=["chat"]))
    change(no_end, "tokenizer_config.json", unk_token=None)
    assert "no token to pad with" in refused(no_end, Wanted(templates=["chat"]))


def test_special_tokens_that_the_model_names_itself(folder: Path) -> None:
    """`generate` looks them up in the scores of the vocabulary: an IndexError, or an assertion of the GPU."""
    size = read_json(folder / "config.json")["vocab_size"]
    write_json(folder / "generation_config.json", {"eos_token_id": [1, size - 1], "pad_token_id": -1})
    check_limits(folder, Wanted())
    change(folder, "generation_config.json", eos_token_id=[1, size])
    assert refused(folder, Wanted()).endswith(
        f"generation_config.json: eos_token_id = {size}: the model has {size} embeddings; name the tokenizer's"
    )
    (folder / "generation_config.json").unlink()
    change(folder, "config.json", pad_token_id=size)
    assert f"config.json: pad_token_id = {size}: " in refused(folder, Wanted())
