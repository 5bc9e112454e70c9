"""Target examples of LESS: a few items of the benchmarks' train splits, written as training samples are."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtuning.data.chat import TemplateRefusal
from qtuning.data.items import hub_items, items_file, read_items
from qtuning.data.rows import Example, Message
from qtuning.data.templates import render
from qtuning.data.tokenise import Tokenised, tokenise
from qtuning.errors import UserError
from qtuning.experiment.benchmarks import BENCHMARKS, Split
from qtuning.experiment.cell import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLIT: Split = "train"  # no benchmark asks it, under either protocol

Texts = tuple[str, str, str]  # question, context, answer
_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], Texts]] = {
    "arc_easy": lambda item: (item["question"], "", _choice(item)),
    "arc_challenge": lambda item: (item["question"], "", _choice(item)),
    "gsm8k": lambda item: (item["question"], "", item["answer"]),
    "squad": lambda item: (item["question"], item["context"], item["answers"]["text"][0]),
    "triviaqa": lambda item: (item["question"], "", item["answer"]["value"]),
    "math": lambda item: (item["problem"], "", item["solution"]),
    "retention": lambda item: (item["question"], "", _choice(item)),
}


def target_example(benchmark: str, item: Mapping[str, Any]) -> Example:
    """An item with its right answer: question (and context) are the prompt, the answer is the response."""
    question, context, answer = _TEXTS[benchmark](item)
    return Example((Message("user", question),), answer, context)


def target_examples(
    benchmark: str,
    folder: Path | None,
    count: int,
    seed: int,
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    cutoff: int,
    hub: Path | None = None,
) -> dict[int, Tokenised]:
    """`count` examples of a benchmark's train split by their place in it, in a random order that `seed` fixes.

    folder: of local benchmarks; None: the hub's, hub: where it says what was fetched (ResultPaths.hub). Items whose
    response the cutoff takes away, or that the chat template refuses, are passed over. UserError if there is no such
    split, or too few items.
    """
    items = _train_items(benchmark, folder, hub)
    order = list(range(len(items)))
    random.Random(f"{benchmark}:{seed}").shuffle(order)
    samples: dict[int, Tokenised] = {}
    for start in range(0, len(order), count):
        texts = {}
        for index in order[start : start + count]:
            with suppress(TemplateRefusal):
                texts[index] = render(target_example(benchmark, items[index]), template, tokenizer)
        for index, result in zip(texts, tokenise([*texts.values()], tokenizer, template, cutoff), strict=True):
            if isinstance(result, Tokenised) and len(samples) < count:
                samples[index] = result
        if len(samples) == count:
            return samples
    raise UserError(
        f"options.influence.examples = {count}: the {SPLIT} split of {benchmark} has {len(samples)} items that fit the "
        f"cutoff of {cutoff} tokens; ask for fewer"
    )


def train_file(folder: Path, benchmark: str) -> Path:
    """The file of a benchmark's train split below a folder of local benchmarks; UserError if there is none."""
    path = items_file(folder, benchmark, SPLIT)
    if not path.is_file():
        raise UserError(
            f"options.influence.targets: {benchmark}: its {SPLIT} split is needed for target examples (never the split "
            f"that is asked), and there is no file {path}; add it, or leave this benchmark out"
        )
    return path


def _train_items(benchmark: str, folder: Path | None, hub: Path | None) -> Sequence[Mapping[str, Any]]:
    if folder is not None:
        train_file(folder, benchmark)
        return read_items(folder, benchmark, SPLIT)
    return list(hub_items(BENCHMARKS[benchmark], hub)[SPLIT])


def _choice(item: Mapping[str, Any]) -> str:
    choices = item["choices"]
    return str(choices["text"][choices["label"].index(item["answerKey"])])
