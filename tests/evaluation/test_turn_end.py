"""Generation ends where training ended the turn, under both backends, and answers without an end are counted."""

import shutil
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
from benchmark_files import write_all
from lm_eval.api.instance import Instance

from qtuning.evaluation import run
from qtuning.evaluation.model import load_model
from qtuning.evaluation.replies import AskedModel
from qtuning.experiment.cell import Evaluation

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + '<|eot_id|>' }}"
    "{% else %}{{ 'Question: ' + m.content + '\nAnswer:' }}{% endif %}{% endfor %}"
)
PROMPTS = [f"Question: number {i}?\nAnswer:" for i in range(6)]
OPTIONS: dict[str, Any] = {"until": ["no such text"], "max_gen_toks": 24}
HF = Evaluation(benchmarks=("gsm8k",), batch_size=4, max_length=256)


def generated(model: Any, prompts: list[str] = PROMPTS) -> list[str]:
    requests = [
        Instance("generate_until", {}, (prompt, dict(OPTIONS)), 0, metadata=("gsm8k", place, 1))
        for place, prompt in enumerate(prompts)
    ]
    return list(model.generate_until(requests, disable_tqdm=True))


@pytest.fixture(scope="module")
def ending(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model that says <|eot_id|> wherever it would have said one token that it likes, and the text of that token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    free = generated(load_model(tiny_model, None, HF))
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    liked = max(set("".join(text[5:] for text in free)) & set("abcdefghijklmnopqrstuvwxyz0123456789.,;:"))
    (number,) = tokenizer(liked, add_special_tokens=False)["input_ids"]
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|eot_id|>"]})
    tokenizer.chat_template = TEMPLATE
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[len(tokenizer) - 1] = 1.01 * head[number]
    folder = tmp_path_factory.mktemp("ending")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, liked


def test_a_generation_ends_with_the_turn(ending: tuple[Path, str]) -> None:
    folder, _ = ending
    plain, chat = load_model(folder, None, HF), load_model(folder, None, HF, "chat")
    on, ended = generated(plain), generated(chat)
    assert any(len(short) < len(long) for short, long in zip(ended, on, strict=True))
    assert all(long.startswith(short) for short, long in zip(ended, on, strict=True))
    assert not any("eot_id" in text for text in ended)
    assert len(plain.unfinished) > len(chat.unfinished), "those that end are no longer cut"
    assert {name for name, _ in plain.unfinished} == {"gsm8k"}
    # oracle: the tokens that transformers generates, up to the first end
    tokens = chat.tokenizer(PROMPTS[0], return_tensors="pt", add_special_tokens=False)["input_ids"]
    made = plain.model.generate(tokens, max_new_tokens=24, do_sample=False, pad_token_id=0)[
        0, tokens.shape[1] :
    ].tolist()
    end = made.index(chat.turn.id) if chat.turn.id in made else len(made)
    assert ended[0] == chat.tokenizer.decode(made[:end], skip_special_tokens=True)
    assert ((("gsm8k", 0)) in chat.unfinished) == (end == len(made))


def test_vllm_is_told_the_same(ending: tuple[Path, str]) -> None:
    folder, _ = ending
    for template, more in (("plain", []), ("chat", ["<|eot_id|>"])):
        model = AskedModel(folder, HF, template)  # type: ignore[arg-type]
        generated(model)
        (kind,) = model.questions.kinds
        assert kind["stops"] == ["no such text", "</s>", *more]
        assert model.questions.ends == [2, *(model.tokenizer.convert_tokens_to_ids(token) for token in more)]
    # what vLLM returns, the token that ended it included, is cut there
    asked = AskedModel(folder, HF, "chat")
    asked.replies = {
        "generated": [asked.tokenizer(" Ann", add_special_tokens=False)["input_ids"] + [asked.turn.id]] * 6
    }
    asked.replies["generated"][5] = asked.tokenizer(" and so on" * 3, add_special_tokens=False)["input_ids"][:24]
    assert generated(asked) == [" Ann"] * 5 + [(" and so on" * 3)[:24]]
    assert asked.unfinished == {("gsm8k", 5)}


def test_the_whole_evaluation_says_what_was_cut(ending: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = ending
    data = write_all(tmp_path / "data")
    settings: dict[str, Any] = {"benchmarks": ("arc_easy", "gsm8k"), "source": "data-dir", "fewshot": 0}
    evaluation = Evaluation(**settings, max_new_tokens=12, batch_size=4)
    scores = run.evaluate_model(
        cell_id="x",
        base=folder,
        adapter=None,
        evaluation=evaluation,
        out=tmp_path / "out",
        data_dir=data,
        template="chat",
    )
    assert scores["rendering"] == {"turn_end": "<|eot_id|>", "date": None}
    assert scores["benchmarks"]["arc_easy"]["cut_answers"] is None
    items = polars.read_parquet(tmp_path / "out" / "items.parquet").filter(polars.col("benchmark") == "gsm8k")
    assert 0 <= scores["benchmarks"]["gsm8k"]["cut_answers"] <= items["item"].n_unique()


def test_a_tokenizer_that_appends_eos_changes_no_answer(tiny_model: Path, tmp_path: Path) -> None:
    """The usual advice for models that never stop; lm-eval's own tokens would end every prompt."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    for name, single in (("plain", "<s> $A"), ("appends", "<s> $A </s>")):
        shutil.copytree(tiny_model, tmp_path / name)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=single, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        tokenizer.save_pretrained(tmp_path / name)
    assert AutoTokenizer.from_pretrained(tmp_path / "appends")("a")["input_ids"][-1] == 2
    plain, appends = (load_model(tmp_path / name, None, HF) for name in ("plain", "appends"))
    assert generated(plain) == generated(appends)
    pairs = [(PROMPTS[0], " Ann"), (PROMPTS[1], " Bob")]
    assert plain.encode_pairs(pairs) == appends.encode_pairs(pairs)
    assert plain.tok_encode(PROMPTS[0])[0] == 1 and plain.tok_encode(PROMPTS[0]) == appends.tok_encode(PROMPTS[0])
