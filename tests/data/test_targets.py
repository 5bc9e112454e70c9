"""Target examples of LESS: question and right answer of every benchmark's train split, rendered as training samples."""

from pathlib import Path
from typing import Any

import pytest
from benchmark_files import write_all

from qtuning.data.items import read_items
from qtuning.data.targets import target_example, target_examples
from qtuning.experiment.benchmarks import BENCHMARKS

ANSWERS: dict[str, Any] = {
    "gsm8k": lambda item: item["answer"],
    "squad": lambda item: item["answers"]["text"][0],
    "triviaqa": lambda item: item["answer"]["value"],
    "math": lambda item: item["solution"],
}


def choice(item: dict[str, Any]) -> str:
    pairs = zip(item["choices"]["label"], item["choices"]["text"], strict=True)
    return str(dict(pairs)[item["answerKey"]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("benchmarks"))


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_right_answer_is_the_response(folder: Path, benchmark: str) -> None:
    for item in read_items(folder, benchmark, "train"):
        example = target_example(benchmark, item)
        assert example.response == ANSWERS.get(benchmark, choice)(item)
        assert [turn.content for turn in example.prompt] == [item.get("problem") or item["question"]]
        assert example.input == item.get("context", "")


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_examples_are_drawn_from_the_train_split_and_read_like_samples(folder: Path, benchmark: str, bpe: Any) -> None:
    items = read_items(folder, benchmark, "train")
    drawn = [target_examples(benchmark, folder, 3, seed, bpe, "plain", 512) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and all(len(examples) == 3 for examples in drawn)
    for place, example in drawn[0].items():
        text = bpe.decode(example.tokens[: example.prompt])
        assert items[place].get("problem", items[place].get("question")).strip() in text and text.endswith("Answer:")
        assert example.tokens[-1] == bpe.eos_token_id


def test_an_item_that_the_chat_template_refuses_is_passed_over(folder: Path, bpe_folder: Path) -> None:
    from qtuning.data.tokenise import load_tokenizer

    tokenizer = load_tokenizer(bpe_folder)
    allowed = tokenizer.chat_template
    items = read_items(folder, "gsm8k", "train")
    first, second = list(target_examples("gsm8k", folder, 2, 0, tokenizer, "chat", 512))
    refused = items[first]["question"].replace("'", "\\'")
    tokenizer.chat_template = (
        f"{{% if messages[0].content == '{refused}' %}}{{{{ raise_exception('no') }}}}{{% endif %}}{allowed}"
    )
    assert list(target_examples("gsm8k", folder, 1, 0, tokenizer, "chat", 512)) == [second]
