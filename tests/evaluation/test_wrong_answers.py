"""Wrong answers by rule: plausible ones, the same for every model, on mini-world and on real records."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import benchmark_files as samples
import pytest

from qtuning.data.items import read_items
from qtuning.data.sources import local_folder
from qtuning.evaluation.scoring import squad_f1, trivia_normal
from qtuning.evaluation.wrong_answers import Item, answer_choices, sort_of, spans_of
from qtuning.evaluation.wrong_solutions import final_answer

GOLD = {
    "gsm8k": lambda item: item["answer"],
    "math": lambda item: item["solution"],
    "squad": lambda item: item["answers"]["text"][0],
    "triviaqa": lambda item: item["answer"]["value"],
}
PASSAGE = (
    "There are 49 sailors on the Trorei, built by Ada Dufes of Lokwick in 1853. There are 96 on the Wibraix. "
    "The Trorei carries red rope, and its sails are green. On 3 May 1900 it sank with 20 boxes of old silk."
)


def choices(benchmark: str, items: Sequence[Item]) -> list[list[str]]:
    return list(answer_choices(benchmark, items, range(len(items)), [GOLD[benchmark](item) for item in items]))


def check(benchmark: str, items: Sequence[Item]) -> Counter[int]:
    """Gold first, wrong ones wrong and distinct; returns how many items have how many answers."""
    found = choices(benchmark, items)
    for item, answers in zip(items, found, strict=True):
        assert answers[0] == GOLD[benchmark](item)
        assert len(set(answers)) == len(answers)
        if benchmark == "squad":
            assert all(squad_f1(wrong, gold) < 0.5 for wrong in answers[1:] for gold in item["answers"]["text"])
        elif benchmark == "triviaqa":
            known = {trivia_normal(text) for text in (item["answer"]["value"], *item["answer"]["aliases"])}
            assert not known & {trivia_normal(wrong) for wrong in answers[1:]}
        else:
            assert len({final_answer(answer) for answer in answers}) == len(answers)
    return Counter(map(len, found))


@pytest.mark.parametrize("benchmark", GOLD)
def test_every_item_of_the_mini_world_has_three_wrong_answers(benchmark: str) -> None:
    items = read_items(local_folder("mini-world", None), benchmark)  # type: ignore[arg-type]
    assert set(check(benchmark, items)) == {4}
    # the same for whoever asks fewer items
    assert choices(benchmark, items)[:5] == list(
        answer_choices(benchmark, items, range(5), [GOLD[benchmark](i) for i in items[:5]])
    )


@pytest.mark.slow
@pytest.mark.skipif("QTUNING_DATA_DIR" not in os.environ, reason="QTUNING_DATA_DIR: folder of the real benchmarks")
@pytest.mark.parametrize("benchmark", GOLD)
def test_real_items_have_three_wrong_answers(benchmark: str) -> None:
    counts = check(benchmark, read_items(Path(os.environ["QTUNING_DATA_DIR"]), benchmark))
    print(benchmark, dict(counts))
    assert counts[4] >= 0.99 * counts.total()


@pytest.mark.parametrize(
    ("answer", "sort"),
    [
        ("49", "number"),
        ("$24.3 million", "number"),
        ("1853", "year"),
        ("3 May 1900", "date"),
        ("Ada Dufes", "name"),
        ("the Amazon", "name"),
        ("red rope", "phrase"),
    ],
)
def test_sorts(answer: str, sort: str) -> None:
    assert sort_of(answer) == sort


def test_spans_of_a_passage() -> None:
    assert spans_of(PASSAGE, "number", 1)[:2] == ["49", "96"]
    assert spans_of(PASSAGE, "year", 1) == ["1853", "1900"]
    assert spans_of(PASSAGE, "date", 3) == ["3 May 1900"]
    assert spans_of(PASSAGE, "name", 2) == ["Trorei", "Ada Dufes of Lokwick", "Wibraix", "The Trorei", "May"]
    assert "red rope" in spans_of(PASSAGE, "phrase", 2) and "on the" not in spans_of(PASSAGE, "phrase", 2)


def test_wrong_spans_are_first_those_that_answer_another_question() -> None:
    asked = [("What does it carry?", "red rope"), ("What was in the boxes?", "old silk"), ("How many?", "49")]
    items = [{"context": PASSAGE, "question": q, "answers": {"text": [a]}} for q, a in asked]
    rope, _, number = choices("squad", items)
    assert "old silk" in rope
    assert {"96", "20"} <= set(number)


def test_wrong_answers_of_trivia_answer_the_same_question_word() -> None:
    asked = {
        "Which currency": ["wites", "brosas", "legeim", "bobrox"],
        "Who": ["Uma Zenak", "Udo Wotend", "Lena Dolouk"],
    }
    items: list[Item] = [
        {"question": f"{word} is number {i}?", "answer": {"value": value, "aliases": [value]}}
        for word, values in asked.items()
        for i, value in enumerate(values)
    ]
    for item, answers in zip(items, choices("triviaqa", items), strict=True):
        same = next(values for word, values in asked.items() if item["question"].startswith(word))
        assert len(answers) == 4 and set(same) <= set(answers)


def test_few_items_give_few_answers() -> None:
    assert [len(answers) for answers in choices("triviaqa", samples.triviaqa(1))] == [1]
