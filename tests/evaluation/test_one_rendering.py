"""Training and evaluation give a model the same token ids, whatever its tokenizer and its template are."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import (
    MARKS,
    NO_SYSTEM,
    OWN,
    REAL,
    STRIPS,
    chat_template,
    conversations,
    example_of,
    save_tokenizer,
)
from hypothesis import assume, given, note, settings
from lm_eval.api.instance import Instance
from real_tokenizers import MAKERS

from qtuning.data.chat import TemplateRefusal
from qtuning.data.samples import Sample
from qtuning.data.templates import render, turn_of
from qtuning.data.tokenise import Tokenised, load_tokenizer, tokenise
from qtuning.errors import UserError
from qtuning.evaluation.replies import AskedModel
from qtuning.experiment.cell import Evaluation
from qtuning.files import read_json, write_json
from qtuning.model.batch import pack

ENDS = {
    "no BOS": ("", ""),
    "BOS": ("<s>", ""),
    "EOS appended": ("<s>", "</s>"),
    "EOS alone": ("", "</s>"),
}
"""What the post-processor puts before and behind a text."""


class Pair:
    """A tokenizer as training and as both backends of the evaluation use it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(folder)
        self.spaced = "▁" in self.tokenizer.get_vocab()
        self.asked = {
            chat: AskedModel(folder, Evaluation(benchmarks=("squad",), chat_template=chat, max_length=4096))
            for chat in (False, True)
        }

    def use(self, template: str) -> None:
        for tokenizer in (self.tokenizer, *(model.tokenizer for model in self.asked.values())):
            tokenizer.chat_template = template

    def trained(self, conversation: Any, response: str, template: Any) -> tuple[str, Tokenised]:
        """(text of the prompt, sample)"""
        texts = render(example_of(conversation, response), template, self.tokenizer)
        (made,) = tokenise([texts], self.tokenizer, template, 10**6)
        assert isinstance(made, Tokenised)
        return texts[0], made

    def text(self, tokens: list[int]) -> str:
        """The text of a sequence, without the space that LLaMA's normalizer puts behind each special token.

        Its decoder makes spaces of all letters that stand for one, those of special tokens among them.
        """
        return self._without_spaces(str(self.tokenizer.decode(tokens)), "?")

    def knows(self, text: str) -> bool:
        """Whether the tokenizer has tokens for all of it; SmolLM2's leaves some control characters out."""
        decoded = self.tokenizer.decode(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return bool(decoded.strip(" ") == text.strip(" "))  # Python calls some control characters white space

    def same(self, tokens: list[int], text: str) -> bool:
        """Whether the tokens are of this text; a tokenizer with such a normalizer may join a space to it."""
        written = text.replace("▁", " " if self.spaced else "▁")
        return self._without_spaces(self.text(tokens), "*") == self._without_spaces(written, "*")

    def _without_spaces(self, text: str, how_many: str) -> str:
        marks = (re.escape(mark.replace("▁", " ")) for mark in ("<s>", "</s>", *MARKS))
        return re.sub(f"({'|'.join(marks)}) {how_many}", r"\1", text) if self.spaced else text

    def evaluated(self, prompt: Any, chat: bool) -> tuple[list[int], list[int]]:
        """Ids of a prompt (a text, or a conversation) where an answer is generated, and where one is scored."""
        model = self.asked[chat]
        text = model.apply_chat_template(prompt) if chat else prompt
        request = Instance("generate_until", {}, (text, {"until": ["\n"], "max_gen_toks": 8}), 0)
        model.generate_until([request], disable_tqdm=True)
        ((scored, _),) = model.encode_pairs([(text, " x")])
        return model.questions.generations[-1][1], scored

    def check(self, conversation: Any, response: str, template: str) -> None:
        """Equal ids of prompts; the response decodes to the row's text; it and its turn's end carry loss, no more."""
        chat = template not in ("plain", "alpaca")
        tokenizer, kind = self.tokenizer, "chat" if chat else template
        try:
            prompt, sample = self.trained(conversation, response, kind)
        except TemplateRefusal:
            assert template in NO_SYSTEM and conversation[0]["role"] == "system"
            return
        before = sample.tokens[: sample.prompt]
        assert self.evaluated(conversation if chat else prompt, chat) == (before, before)
        opening = "" if chat or tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id else tokenizer.bos_token
        assert self.same(before, str(opening) + prompt)
        turn = turn_of(tokenizer, kind)  # type: ignore[arg-type]
        packed = pack([Sample(0, torch.tensor(sample.tokens), sample.prompt)])
        assert packed is not None and not sample.truncated
        assert packed.source.tolist() == list(range(len(before) - 1, len(sample.tokens) - 1))
        assert packed.labels.tolist() == sample.tokens[len(before) :] and packed.labels[-1] == turn.id
        learned = self.text(sample.tokens).removeprefix(self.text(before))
        learned = learned.removesuffix(turn.token.replace("▁", " " if self.spaced else "▁"))
        learned = learned.removesuffix("[/assistant]") if template == "end-as-text" else learned
        assert learned.strip() == response.strip()
        assert STRIPS.fullmatch(template) or response in learned


@pytest.fixture(scope="module", params=[(kind, name) for kind in ("bytes", "sentencepiece") for name in ENDS], ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind, name = request.param
    return Pair(save_tokenizer(tmp_path_factory.mktemp("tokenizer"), kind, *ENDS[name], chat_template("llama3")))


@settings(max_examples=2, deadline=None)
@given(made=conversations())
def test_random_conversations_through_every_template(pair: Pair, made: tuple[list[dict[str, str]], str]) -> None:
    for template in ("plain", "alpaca", *OWN, *REAL):
        note(template)
        if template in (*OWN, *REAL):
            pair.use(chat_template(template))
        pair.check(*made, template)


@pytest.fixture(scope="module", params=MAKERS)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Pair]:
    folder = tmp_path_factory.mktemp(request.param)
    MAKERS[request.param](folder)
    return request.param, Pair(folder)


@pytest.mark.slow  # to make the folder of a real tokenizer takes seconds
@settings(max_examples=100, deadline=None)
@given(made=conversations())
def test_random_conversations_with_real_tokenizers(
    real: tuple[str, Pair], made: tuple[list[dict[str, str]], str]
) -> None:
    """With the chat template that each comes with."""
    name, pair = real
    assume(all(pair.knows(text) for text in (*(message["content"] for message in made[0]), made[1])))
    for template in ("plain", "alpaca", name):
        note(template)
        pair.check(*made, template)


def test_both_backends_and_a_prompt_of_an_instruction_model(tmp_path: Path) -> None:
    """Oracle: transformers' own prompt for a generation, where a template writes nothing else before an answer."""
    for name in ("llama3", "phi3", "qwen2_5", "gemma", "default-system"):
        pair = Pair(save_tokenizer(tmp_path / name, "bytes", "<s>", "</s>", chat_template(name)))
        conversation = [{"role": "user", "content": "Name a river."}]
        made: Any = pair.tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        assert pair.evaluated(conversation, chat=True)[0] == made
        assert pair.trained(conversation, "The Loire.", "chat")[1].prompt == len(made)


def test_a_benchmark_with_tokens_beyond_the_embeddings_is_one_line(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "model", "bytes", "<s>")
    asked = AskedModel(folder, Evaluation(benchmarks=("squad",), max_length=4096))
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"vocab_size": 5})
    with pytest.raises(UserError, match="but the model has 5 embeddings; load the model, call resize"):
        asked.encode_pairs([("Question: q", " a")])
