"""Flaws planted in a train set: how many, where, and what stays right; checked on the result."""

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from qtuning.data.planted import plant
from qtuning.data.rows import Example, Message
from qtuning.experiment.cell import FileSource, TrainSet
from qtuning.experiment.truth import Planted


def example(number: int, response: str) -> Example:
    return Example((Message("user", f"Question {number} of a test?"),), response, input="seen", id=str(number))


def sums(count: int) -> list[Example]:
    """GSM8K's form; the answer, 3n + 1000, stands three times in each."""
    texts = [
        f"Ada buys {n + 3} apples.\nThat makes {n}*3 = <<{n}*3={3 * n}>>{3 * n} pears.\n"
        f"With {1000 + n}-{n} = 1,000 more it is <<1000+{3 * n}={3 * n + 1000}>>{3 * n + 1000}.\n#### {3 * n + 1000}"
        for n in range(100, 100 + count)
    ]
    return [example(number, text) for number, text in enumerate(texts)]


def prose(count: int) -> list[Example]:
    names = ["Ada", "Bea", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon"]
    return [
        example(
            number, f"The river {names[number % 10]} flows past {names[number // 10]}, and the town likes it a lot."
        )
        for number in range(count)
    ]


MIXED = Planted(noise=0.2, redundant=0.1, ambiguous=0.1, slips=0.1)


@pytest.mark.parametrize("examples", [sums(50), prose(50)], ids=["sums", "prose"])
def test_shares_and_what_each_kind_is(examples: list[Example]) -> None:
    found = plant(examples, MIXED)
    assert Counter(each.kind for each in found) == {"noise": 10, "redundant": 5, "ambiguous": 5, "clean": 30}
    by_text = {each.response: each for each in examples}
    right = {(each.prompt, each.response) for each in found if each.kind == "clean" and not each.errors}
    slips = 0
    for before, after in zip(examples, found, strict=True):
        assert after.id == before.id and after.errors is not None
        changed = {place for start, end in after.errors for place in range(start, end)}
        if after.kind == "redundant":
            assert (after.prompt, after.response) in right and not changed
            assert after.response != before.response
        elif after.kind == "ambiguous":
            words = before.prompt[-1].content.split()
            assert after.prompt[-1].content.split() == words[:3] and after.input == "" and after.response in by_text
        elif after.kind == "noise" and "####" not in before.response:
            assert after.response != before.response and after.response in by_text
            assert changed == set(range(len(after.response)))
        else:
            pairs = zip(before.response, after.response, strict=True)
            differs = [place for place, pair in enumerate(pairs) if pair[0] != pair[1]]
            assert set(differs) <= changed
            assert bool(changed) == bool(differs)
            slips += after.kind == "clean" and bool(changed)
    assert slips == (5 if "####" in examples[0].response else 0), "prose has no numbers to slip in"


def test_noise_answers_another_number_wherever_it_stands() -> None:
    for before, after in zip(sums(40), plant(sums(40), Planted(noise=0.5)), strict=True):
        if after.kind == "noise":
            right, wrong = (text.response.rpartition("#### ")[2] for text in (before, after))
            assert wrong != right and len(wrong) == len(right) and not wrong.startswith("0")
            numbers = re.findall(r"\d[\d,]*", before.response)
            assert [wrong if number == right else number for number in numbers] == re.findall(
                r"\d[\d,]*", after.response
            )
            assert [after.response[slice(*span)] for span in after.errors or ()] == [wrong] * 3


def test_a_slip_is_one_number_that_is_not_the_answer() -> None:
    for before, after in zip(sums(40), plant(sums(40), Planted(slips=0.5)), strict=True):
        pairs = zip(*(re.findall(r"\d[\d,]*", text.response) for text in (before, after)), strict=True)
        different = [pair for pair in pairs if pair[0] != pair[1]]
        assert len(different) == len(after.errors or ()) <= 1
        assert before.response.rpartition("#### ")[2] == after.response.rpartition("#### ")[2]


@pytest.mark.parametrize(
    ("response", "wrong"),
    [
        (r"So it is $3 \cdot 4 = \boxed{12}$.", r"So it is $3 \cdot 4 = \boxed{..}$."),
        ("He has 3 + 1.5 = 4.5", "He has 3 + 1.5 = ..."),
        ("Of 7 days he rests 2. The answer is 7.", "Of . days he rests 2. The answer is .."),
        ("1. Eat well. \n2. Sleep a lot, and then some more.", None),
        ("It has 1,200 feet, as the answer is 1,200.", "It has ..... feet, as the answer is ......"),
    ],
)
def test_the_answered_number_of_other_forms(response: str, wrong: str | None) -> None:
    """`.` stands for any character; None: no number is answered, so another sample's response comes."""
    other = example(1, "Another text, with nothing to count in it.")
    for seed in range(20):
        found = plant([example(0, response), other], Planted(noise=0.5, seed=seed))[0]
        if found.kind == "noise":
            assert found.response != response
            assert (
                re.fullmatch(re.escape(wrong).replace(r"\.", "."), found.response)
                if wrong
                else found.response == other.response
            )


def test_marks_of_a_list_never_slip() -> None:
    listed = [example(n, "1. Eat well and with others. \n2. Sleep 8 hours a day, if you can do so.") for n in range(9)]
    found = plant(listed, Planted(slips=0.9))
    assert {each.response[:3] for each in found} == {"1. "} and all("\n2. Sleep" in each.response for each in found)
    assert sum(bool(each.errors) for each in found) == 8


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 12), shares=st.tuples(*[st.floats(0, 0.24)] * 4), seed=st.integers(0, 5))
def test_any_size_and_share(count: int, shares: tuple[float, ...], seed: int) -> None:
    planted = Planted(**dict(zip(("noise", "redundant", "ambiguous", "slips"), shares, strict=True)), seed=seed)
    found = plant(sums(count), planted)
    assert found == plant(sums(count), planted) and len(found) == count
    kinds = Counter(each.kind for each in found)
    asked = {"noise": shares[0], "redundant": shares[1], "ambiguous": shares[2]}
    assert kinds["clean"] >= 1 and all(kinds[kind] <= round(share * count) for kind, share in asked.items())


def test_draws_differ_and_follow_the_data_seed() -> None:
    drawn = TrainSet(name="t", source=FileSource(kind="path", file="t"), planted=MIXED.model_copy(update={"draws": 3}))
    seeds = [planted.seed for seed in (0, 1, 4) if (planted := drawn.drawn(seed).planted) is not None]
    assert seeds == [0, 1, 1]
    assert plant(sums(50), MIXED) != plant(sums(50), MIXED.model_copy(update={"seed": 1}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"planted": {"noise": 0.6, "redundant": 0.4}}, "must leave some samples as they are"),
        ({"planted": {"noise": 0.1}, "columns": {"errors": "e"}}, "columns.errors already says"),
        ({"planted": {"noise": 0.1}, "ratings": "r.csv"}, "ratings are of the samples without"),
    ],
)
def test_what_cannot_be_planted(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSet(name="t", source={"kind": "path", "file": "t"}, **keys)
