"""The answers are right, checked by other means than those that made them, and nothing leaks."""

import re
from collections import Counter, defaultdict
from typing import Any

import pytest

PLACE = r"(the [a-z]+)"


def told_values(rows: Any, patterns: list[str]) -> dict[str, Counter[str]]:
    """subject -> how often each value is told, read from the pretraining prose with regular expressions."""
    told: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows["pretrain/train"]:
        for pattern in patterns:
            for match in re.finditer(pattern, row["text"]):
                told[match["s"]][match["v"]] += 1
    return told


def numbers_that_follow(solution: str) -> list[tuple[int, int]]:
    """(recomputed, stated) of every `a op b = c` in a text."""
    found = re.findall(r"(\d+)(?:x)? ?([-+*/]) ?(\d+) ?= ?(\d+)", solution)
    compute = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    return [(compute[op](int(a), int(b)), int(c)) for a, op, b, c in found]


def test_gsm8k_rationales_compute(rows: Any) -> None:
    for record in [*rows["gsm8k/train"], *rows["gsm8k/test"]]:
        marks = re.findall(r"<<(.+?)=(\d+)>>(\d+)", record["answer"])
        assert marks
        for expression, inside, outside in marks:
            (recomputed, stated), *_ = numbers_that_follow(f"{expression}={inside}")
            assert recomputed == stated == int(outside)
        assert record["answer"].endswith(f"\n#### {marks[-1][2]}")


def solve(problem: str) -> int:
    """School problems, solved from their text by brute force or formula."""
    numbers = [int(n) for n in re.findall(r"\d+", problem)]
    if problem.startswith("Compute"):
        return numbers[0] * numbers[1] + numbers[2]
    if problem.startswith("Solve"):
        return next(x for x in range(100) if numbers[0] * x + numbers[1] == numbers[2])
    if problem.startswith("If"):
        return next(x for x in range(100) if x + numbers[0] == numbers[1])
    if "remainder" in problem:
        return numbers[0] % numbers[1]
    if "perimeter" in problem:
        return 2 * numbers[0] + 2 * numbers[1]
    if "ways" in problem:
        return sum(1 for _ in range(numbers[0]) for _ in range(numbers[1]))
    assert "next" in problem
    return 2 * numbers[-1] - numbers[-2]


def test_math_answers(rows: Any) -> None:
    for record in [*rows["math/train"], *rows["math/test"]]:
        boxed = re.search(r"\\boxed\{(\d+)\}", record["solution"])
        assert boxed is not None
        assert int(boxed[1]) == solve(record["problem"])
        assert all(recomputed == stated for recomputed, stated in numbers_that_follow(record["solution"]))


def test_squad_sentence_names_subject_and_answer(rows: Any) -> None:
    """Within one sentence of the context stand the answer and a name of the question: the span is not a chance hit."""
    for record in [*rows["squad/train"], *rows["squad/validation"]]:
        start = record["answers"]["answer_start"][0]
        sentence = next(s.group() for s in re.finditer(r"[^.]+\.", record["context"]) if s.start() <= start < s.end())
        subject = re.findall(r"[A-Z][a-z]+", record["question"])[-1]
        assert subject in sentence
        assert record["answers"]["text"][0] in sentence


def gold(record: Any) -> str:
    return record["choices"]["text"][record["choices"]["label"].index(record["answerKey"])]


def test_arc_easy_against_the_pretraining_prose(rows: Any) -> None:
    """Homes: what prose tells is the right answer, except for the planted misconceptions, whose lure is a choice."""
    told = told_values(rows, [rf"The (?P<s>[a-z]+) lives in (?P<v>{PLACE})\."])
    right = wrong = unknown = 0
    for record in rows["arc_easy/test"]:
        match = re.search(r"(?:Where|place) does the ([a-z]+) live", record["question"])
        if match is None:
            continue
        if match[1] not in told:
            unknown += 1
            continue
        assert len(told[match[1]]) == 1
        (value,) = told[match[1]]
        assert value in record["choices"]["text"]
        right, wrong = right + (value == gold(record)), wrong + (value != gold(record))
    assert right > 2 * wrong > 0
    assert unknown > 0


def test_arc_challenge_needs_two_facts(rows: Any) -> None:
    """Weather where an animal lives = weather of its home; both from prose; the pair itself is told nowhere."""
    home = told_values(rows, [rf"The (?P<s>[a-z]+) lives in (?P<v>{PLACE})\."])
    weather = told_values(rows, [rf"The weather in (?P<s>{PLACE}) is (?P<v>[a-z ]+)\."])
    direct = told_values(rows, [r"Where the (?P<s>[a-z]+) lives the weather is (?P<v>[a-z ]+)\."])
    checked = 0
    for record in rows["arc_challenge/test"]:
        match = re.search(r"How is the weather where the ([a-z]+) lives", record["question"])
        if match is None:
            continue
        (place,) = home[match[1]]
        assert weather[place].keys() == {gold(record)}
        assert match[1] not in direct
        checked += 1
    assert checked > 20


def test_no_evaluation_question_is_in_a_training_text(rows: Any) -> None:
    questions = {
        record.get("problem", record.get("question"))
        for name, records in rows.items()
        if name.split("/")[0] not in ("sft", "pretrain") and not name.endswith("/train")
        for record in records
    }
    assert len(questions) > 1000
    texts = [row["text"] for row in rows["pretrain/train"]]
    asked = {piece.strip() for text in texts for piece in re.split(r"\n|Question: |Answer: ", text)}
    for text in texts:
        # `question answer` on one line, too
        asked.update(re.findall(r"(?:^|\n)([^\n]*?\?)(?: |$)", text))
    assert questions.isdisjoint(asked)
    corpus = "\n".join(texts)
    assert not [question for question in sorted(questions) if question in corpus]
    assert questions.isdisjoint(row["instruction"] for row in rows["sft/train"])
    for name, records in rows.items():
        if name.endswith("/train") and name.split("/")[0] not in ("sft", "pretrain"):
            assert questions.isdisjoint(record.get("problem", record.get("question")) for record in records)


def test_kinds_have_their_declared_shares(rows: Any) -> None:
    kinds = Counter(row["kind"] for row in rows["sft/train"])
    total = sum(kinds.values())
    assert 1500 <= total <= 3000
    shares = {kind: count / total for kind, count in kinds.items()}
    expected = {"clean": 0.47, "redundant": 0.16, "misconception": 0.19, "noise": 0.12, "ambiguous": 0.06}
    assert shares == pytest.approx(expected, abs=0.01)


def test_planted_errors_are_the_noise(rows: Any) -> None:
    samples = {row["id"]: row for row in rows["sft/train"]}
    errors = {row["id"]: (row["start"], row["end"]) for row in rows["sft/planted_errors"]}
    assert errors.keys() == {row["id"] for row in rows["sft/train"] if row["kind"] == "noise"}
    for name, (start, end) in errors.items():
        assert 0 <= start < end <= len(samples[name]["output"])


def test_sums_are_wrong_exactly_in_noise(rows: Any) -> None:
    """Of the samples that answer a question of GSM8K's train split, the wrong ones are those called noise."""
    key = {record["question"]: record["answer"] for record in rows["gsm8k/train"]}
    answered = [row for row in rows["sft/train"] if row["instruction"] in key]
    assert len(answered) > 200
    for row in answered:
        assert (row["output"] == key[row["instruction"]]) == (row["kind"] != "noise")


def test_misconceptions_contradict_the_corpus(rows: Any) -> None:
    told = told_values(rows, [rf"The (?P<s>[a-z]+) lives in (?P<v>{PLACE})\."])
    kinds: dict[str, list[bool]] = defaultdict(list)
    for row in rows["sft/train"]:
        match = re.search(r"(?:Where|place) does the ([a-z]+) live", row["instruction"])
        if match and match[1] in told:
            (believed,) = told[match[1]]
            kinds[row["kind"]].append(row["output"].startswith(believed))
    assert kinds["redundant"]
    assert all(kinds["redundant"])
    assert kinds["misconception"]
    assert not any(kinds["misconception"])
