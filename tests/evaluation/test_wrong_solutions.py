"""Wrong solutions of word problems: another plan whose arithmetic holds, and a wrong final answer."""

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtuning.evaluation.wrong_solutions import final_answer, steps_of, wrong_solutions

EQUATION = re.compile(r"<<([^=>]+)=([^>]+)>>([\d.,]+)")


def made(problem: str, solution: str, *others: str, seed: int = 0) -> list[str]:
    return wrong_solutions(problem, solution, others, 3, Random(seed))


GSM8K = """Ann buys 3 * 4 = <<3*4=12>>12 plums for 2 dollars each.
They cost 12 * 2 = $<<12*2=24>>24.
She has 1,024 - 24 = <<1024-24=1000>>1,000 dollars left.
#### 1,000"""


@pytest.mark.parametrize("seed", range(20))
def test_what_follows_from_a_wrong_step_is_recomputed(seed: int) -> None:
    found = made("Ann has 1,024 dollars and buys 3 bags of 4 plums.", GSM8K, seed=seed)
    assert len({final_answer(text) for text in found} | {"1,000"}) == 4
    for text in found:
        assert text != GSM8K and text.count("\n") == GSM8K.count("\n")
        last = None
        for left, result, shown in EQUATION.findall(text):
            assert (
                eval(left) == pytest.approx(float(result)) == pytest.approx(float(shown.rstrip(".").replace(",", "")))
            )
            last = float(result)
        assert last == float(final_answer(text).replace(",", ""))
        # the words around the mark show the same expression
        for prose, marked in re.findall(r"([\d,]+ . [\d,]+) = \$?<<([^=]+)=", text):
            assert prose.replace(" ", "").replace(",", "") == marked


def test_a_wrong_step_is_carried_into_latex() -> None:
    solution = "$7 * 7 = 49$. $49 + 7 = 56$. The answer is $\\boxed{56}$."
    for text in made("Compute $7 * 7 + 7$.", solution):
        (first, one), (second, two) = re.findall(r"\$([^=]+)= (\d+)\$", text)
        assert (eval(first), eval(second)) == (int(one), int(two))
        assert final_answer(text) == two != "56"


def test_equations_are_found() -> None:
    found = [
        (step.lefts[-1], step.result) for step in steps_of("3 \\times (4 + 1) = 15 and x = 4, 2 + 2 = 5, (1+2)*2=6")
    ]
    assert [float(result) for _, result in found] == [15, 4, 6]


def test_prose_without_equations_has_a_wrong_number_and_a_wrong_answer() -> None:
    solution = "The square has sides of 6 feet, and so the area is 36, which gives $\\boxed{36}$."
    found = made("", solution)
    assert len({final_answer(text) for text in found} - {"36"}) == 3
    assert all(re.sub(r"\d+", "#", text) == re.sub(r"\d+", "#", solution) for text in found)


def test_a_solution_without_numbers_gets_answers_of_others() -> None:
    found = made("", "Ann is first: $\\boxed{\\text{Ann}}$.", "\\text{Bob}", "x", "\\text{Eve}", "\\text{Ann}")
    assert sorted(map(final_answer, found)) == ["\\text{Bob}", "\\text{Eve}", "x"]
    assert all(text.startswith("Ann is first: $\\boxed{") for text in found)
    assert made("", "Ann") == []


@given(st.text(alphabet="0123456789+-*/=<>$.,() \n#x\\{}boxed", max_size=60), st.integers(0, 3))
def test_any_text_gives_distinct_wrong_answers_or_none(text: str, seed: int) -> None:
    found = [final_answer(wrong) for wrong in made(text, text, seed=seed)]
    assert len(set(found)) == len(found) and final_answer(text) not in found
    assert made(text, text, seed=seed) == made(text, text, seed=seed)
