"""Scorers of SQuAD, TriviaQA and MATH, for which lm-eval has none that fits. Pure functions of texts.

The YAML files in `tasks/` name the functions `*_results` and `*_target`. lm-eval calls them with an item (`doc`) and,
for results, a list that holds the generated text.
"""

import re
import string
from collections import Counter
from typing import Any

from qtuning.experiment.benchmarks import boxed

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)
_QUOTES = "‘’´`"
# $...$ or $$...$$; a dollar sign after a backslash is an amount of money
_FORMULA = re.compile(r"(?<!\\)\$\$?((?:[^$\\]|\\.)+)\$", re.DOTALL)


def squad_normal(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces (normalize_answer of the SQuAD v1.1 script)."""
    kept = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def squad_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over normalised words, repetitions counted (Rajpurkar et al. 2016)."""
    predicted, wanted = squad_normal(prediction).split(), squad_normal(answer).split()
    same = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * same / (len(predicted) + len(wanted)) if same else 0.0


def squad_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """F1 and exact match, each with the gold answer that fits best."""
    answers = doc["answers"]["text"]
    return {
        "f1": max(squad_f1(results[0], answer) for answer in answers),
        "exact_match": float(any(squad_normal(results[0]) == squad_normal(answer) for answer in answers)),
    }


def squad_target(doc: dict[str, Any]) -> str:
    """The answer that a few-shot example shows."""
    return str(doc["answers"]["text"][0])


def trivia_normal(text: str) -> str:
    """Normalisation of the TriviaQA script: lower case; punctuation and underscores become spaces; no articles.

    Unlike the script, a text that this would leave empty (an answer "A" or "%") is only lower-cased and stripped: else
    an empty generation would count as a right answer.
    """
    lowered = text.lower().replace("_", " ")
    spaced = "".join(" " if character in _PUNCTUATION or character in _QUOTES else character for character in lowered)
    return " ".join(_ARTICLES.sub(" ", spaced).split()) or " ".join(text.lower().split())


def trivia_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Exact match with the answer or one of its aliases."""
    answers = {trivia_normal(answer) for answer in (doc["answer"]["value"], *doc["answer"]["aliases"])}
    return {"exact_match": float(trivia_normal(results[0]) in answers)}


def trivia_target(doc: dict[str, Any]) -> str:
    """The answer that a few-shot example shows."""
    return str(doc["answer"]["value"])


def math_answer(text: str) -> tuple[str, bool]:
    r"""(answer, is it LaTeX): the last \boxed{}, else the last $...$, else the whole text."""
    answer = boxed(text)
    if answer is None:
        formulas = _FORMULA.findall(text)
        answer = formulas[-1].strip() if formulas else None
    return (text.strip(), False) if answer is None else (answer, True)


def math_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """exact_match: equal strings after lm-eval's normalisation; math_verify: equal as mathematics (sympy)."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv
    from math_verify import parse, verify

    def parsed(answer: str, latex: bool) -> Any:
        return parse(f"$\\boxed{{{answer}}}$" if latex else answer)

    gold = boxed(doc["solution"])
    assert gold is not None, "MathItem lets no solution without an answer through"
    answer, latex = math_answer(results[0])
    return {
        "exact_match": float(is_equiv(answer, gold)),
        "math_verify": float(bool(answer) and verify(parsed(gold, True), parsed(answer, latex))),
    }
