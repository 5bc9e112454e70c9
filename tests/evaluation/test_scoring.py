"""Scorers against hand-worked values and independently written implementations."""

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.evaluation import scoring
from qtuning.experiment.benchmarks import boxed


def plain_words(text: str) -> list[str]:
    """SQuAD normalisation, written as a loop over words: valid for texts whose words are letters and digits."""
    words = []
    for word in text.lower().translate(str.maketrans("", "", string.punctuation)).split():
        if word not in ("a", "an", "the"):
            words.append(word)
    return words


def plain_f1(prediction: str, answer: str) -> float:
    predicted, rest = plain_words(prediction), plain_words(answer)
    wanted, hits = len(rest), 0
    for word in predicted:
        if word in rest:
            rest.remove(word)
            hits += 1
    if hits == 0:
        return 0.0
    precision, recall = hits / len(predicted), hits / wanted
    return 2 * precision * recall / (precision + recall)


words = st.lists(
    st.sampled_from(["a", "The", "an", "cat", "cat,", "Cat", "sat.", "'on'", "mat", "élan", "北京", "-", "7", "a.m."]),
    max_size=8,
).map(" ".join)


@given(words, st.lists(words, min_size=1, max_size=3))
def test_squad_agrees_with_a_plain_implementation(prediction: str, answers: list[str]) -> None:
    scores = scoring.squad_results({"answers": {"text": answers}}, [prediction])
    assert scores["f1"] == pytest.approx(max(plain_f1(prediction, answer) for answer in answers))
    exact = any(plain_words(prediction) == plain_words(answer) for answer in answers)
    assert scores["exact_match"] == float(exact)


@pytest.mark.parametrize(
    ("prediction", "answers", "f1", "exact"),
    [
        (" The  Cam Newton.", ["Cam Newton"], 1.0, 1.0),
        ("Newton", ["Cam Newton"], 2 / 3, 0.0),
        ("cat cat cat", ["cat cat"], 0.8, 0.0),  # repeated words count as often as both have them
        ("8", ["eight", "8"], 1.0, 1.0),  # best over the answers
        ("", ["x"], 0.0, 0.0),
        ("the", ["a"], 0.0, 1.0),  # both empty: the official script gives F1 0 and EM 1
        ("l’été", ["l'été"], 0.0, 0.0),  # typographic marks are no ASCII punctuation and stay
        ("1,000", ["1000"], 1.0, 1.0),
    ],
)
def test_squad_by_hand(prediction: str, answers: list[str], f1: float, exact: float) -> None:
    scores = scoring.squad_results({"answers": {"text": answers}}, [prediction])
    assert scores == {"f1": pytest.approx(f1), "exact_match": exact}


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        (" David Seville", True),
        ("david seville.", True),
        ("The David_Seville", True),
        ("“D. Seville”", False),
        ("Ross Bagdasarian Sr", True),
        ("Seville", False),
        ("David Seville and Alvin", False),
        ("", False),
    ],
)
def test_trivia_takes_any_alias(prediction: str, right: bool) -> None:
    doc = {"answer": {"value": "David Seville", "aliases": ["David Seville", "Ross Bagdasarian, Sr."]}}
    assert scoring.trivia_results(doc, [prediction]) == {"exact_match": float(right)}


@pytest.mark.parametrize("answer", ["A", "%", "The"])
def test_trivia_answer_of_articles_or_punctuation_is_not_matched_by_nothing(answer: str) -> None:
    doc = {"answer": {"value": answer, "aliases": []}}
    assert scoring.trivia_results(doc, [""]) == {"exact_match": 0.0}
    assert scoring.trivia_results(doc, [f" {answer.lower()}"]) == {"exact_match": 1.0}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{1} or $2$, no: $\boxed{\frac{3}{4}}$.", (r"\frac{3}{4}", True)),
        (r"it is \fbox{7}", ("7", True)),
        (r"first $x=1$, then $y = \sqrt{2}$ dollars", (r"y = \sqrt{2}", True)),
        ("so $$x+1$$", ("x+1", True)),
        (r"he pays \$5 for $3$ plums", ("3", True)),
        (r"unclosed \boxed{12 and no more", (r"unclosed \boxed{12 and no more", False)),
        ("  42 \n", ("42", False)),
        ("", ("", False)),
    ],
)
def test_math_answer(text: str, answer: tuple[str, bool]) -> None:
    assert scoring.math_answer(text) == answer


@settings(deadline=None)  # the first example waits for the import
@given(st.lists(st.sampled_from(["\\boxed", "\\fbox", "{", "}", " ", "$", "5", "\\frac"]), max_size=14).map("".join))
def test_boxed_reads_what_lm_eval_reads(text: str) -> None:
    from lm_eval.tasks.hendrycks_math.utils import last_boxed_only_string, remove_boxed

    last = last_boxed_only_string(text)
    if last is None:
        assert boxed(text) is None
    elif last.startswith(("\\boxed ", "\\boxed{")):
        assert boxed(text) == remove_boxed(last).strip()
    else:  # lm-eval finds these, but cannot take the box off
        assert boxed(text) == last[last.index("{") + 1 : -1].strip()


@pytest.mark.parametrize(
    ("gold", "output", "exact", "verified"),
    [
        (r"\frac{1}{2}", r"thus \boxed{\frac12}", 1.0, 1.0),
        (r"\frac{1}{4}", r"thus \boxed{0.25}", 0.0, 1.0),
        ("10", "The answer is $10.0$", 0.0, 1.0),
        ("x+1", r"\boxed{1+x}", 0.0, 1.0),
        ("5", "The answer is 5.", 0.0, 1.0),
        ("5", "5", 1.0, 1.0),
        ("5", r"\boxed{6}", 0.0, 0.0),
        ("5", r"$5$ but in fact \boxed{6}", 0.0, 0.0),
        ("5", "", 0.0, 0.0),
        ("5", r"\boxed{", 0.0, 0.0),
        (r"\text{yes}", r"\boxed{\text{yes}}", 1.0, 1.0),
    ],
)
def test_math_metrics(gold: str, output: str, exact: float, verified: float) -> None:
    doc: dict[str, Any] = {"solution": f"Then $\\boxed{{{gold}}}$."}
    assert scoring.math_results(doc, [output]) == {"exact_match": exact, "math_verify": verified}
