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
        boxed = re.search(r"\\boxed\{ (\d+)\}", record["solution"])
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


def asked_home(question: str) -> str | None:
    """The animal whose home a benchmark or a sample asks for."""
    found = re.search(r"(?:Where|place) does the ([a-z]+) live|home of the ([a-z]+)\.|find the ([a-z]+)\?", question)
    found = found or re.search(r"where the ([a-z]+) is at home", question)
    return next(name for name in found.groups() if name) if found else None


def test_what_arc_asks_of_homes(rows: Any) -> None:
    """ARC-Easy: hardly told or told right; ARC-Challenge: told wrong, with the told lure a choice; retention: told."""
    told = told_values(rows, [rf"The (?P<s>[a-z]+) lives in (?P<v>{PLACE})\."])
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name in ("arc_easy", "arc_challenge", "retention"):
        for record in rows[f"{name}/test"]:
            animal = asked_home(record["question"])
            if animal is None:
                continue
            believed = told.get(animal, Counter())
            assert len(believed) <= 1
            state = "unknown" if sum(believed.values()) < 10 else "right" if gold(record) in believed else "wrong"
            assert state == "unknown" or next(iter(believed)) in record["choices"]["text"]
            counts[name][state] += 1
    assert counts["arc_challenge"].keys() == {"wrong"}
    assert counts["retention"].keys() == {"right"}
    assert counts["arc_easy"]["unknown"] > 2 * counts["arc_easy"]["right"] > 0 == counts["arc_easy"]["wrong"]


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
    for draw in range(5):
        assert questions.isdisjoint(row["instruction"] for row in rows[f"sft/train_{draw}"])
    for name, records in rows.items():
        if name.endswith("/train") and name.split("/")[0] not in ("sft", "pretrain"):
            assert questions.isdisjoint(record.get("problem", record.get("question")) for record in records)


def test_kinds_have_their_declared_shares(rows: Any) -> None:
    """docs/mini-world.md has the table."""
    kinds = Counter(row["kind"] for row in rows["sft/train_0"])
    total = sum(kinds.values())
    shares = {kind: count / total for kind, count in kinds.items()}
    expected = {"clean": 0.305, "redundant": 0.215, "misconception": 0.17, "noise": 0.28, "ambiguous": 0.03}
    assert shares == pytest.approx(expected, abs=0.015)


def test_noise_is_wrong_throughout_and_slips_are_few(rows: Any) -> None:
    rows_of = {kind: [row for row in rows["sft/train_0"] if row["kind"] == kind] for kind in ("noise", "clean")}
    assert all(row["errors"] for row in rows_of["noise"])
    long = [row for row in rows_of["clean"] if row["topic"] == "sums"]
    slips = [row for row in long if row["errors"]]
    assert 0.1 < len(slips) / len(long) < 0.3
    assert all(sum(end - start for start, end in row["errors"]) <= 2 for row in slips)


def test_sums_are_wrong_exactly_where_the_file_says(rows: Any) -> None:
    """Right but for the marked characters; in noise, right up to the first marked one."""
    key = {record["question"]: record["answer"] for record in rows["gsm8k/train"]}
    key |= {record["problem"]: record["solution"] for record in rows["math/train"]}
    answered = [row for row in rows["sft/train_0"] if row["instruction"] in key]
    assert len(answered) > 300
    for row in answered:
        right, wrong = key[row["instruction"]], row["output"]
        if row["kind"] == "noise":
            ((start, end),) = row["errors"]
            assert right[:start] == wrong[:start] and right != wrong and end == len(wrong)
            assert re.findall(r"\d+", right)[-1] != re.findall(r"\d+", wrong)[-1], "another answer"
        else:
            marked = {place for start, end in row["errors"] for place in range(start, end)}
            assert marked == {i for i, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b}


def test_wrong_sums_follow_from_their_mistake(rows: Any) -> None:
    """At most one step of a noisy solution does not compute; a wrong plan computes throughout."""
    for row in rows["sft/train_0"]:
        if row["kind"] == "noise" and row["topic"] == "sums":
            sums = numbers_that_follow(re.sub(r"<<.*?>>", "", row["output"]))
            assert sum(recomputed != stated for recomputed, stated in sums) <= 1


def test_misconceptions_contradict_the_corpus(rows: Any) -> None:
    told = told_values(rows, [rf"The (?P<s>[a-z]+) lives in (?P<v>{PLACE})\."])
    kinds: dict[str, list[bool]] = defaultdict(list)
    for row in rows["sft/train_0"]:
        animal = asked_home(row["instruction"])
        if animal in told and sum(told[animal].values()) > 10:
            (believed,) = told[animal]
            kinds[row["kind"]].append(row["output"] == believed)
    assert kinds["redundant"] and all(kinds["redundant"])
    assert kinds["misconception"] and not any(kinds["misconception"])


def test_redundant_samples_are_about_what_no_benchmark_asks(rows: Any) -> None:
    asked = {asked_home(record["question"]) for name in ("arc_easy", "arc_challenge", "retention")
             for record in rows[f"{name}/test"]} - {None}  # fmt: skip
    homes = [(row["kind"], asked_home(row["instruction"])) for row in rows["sft/train_0"]]
    assert not asked & {animal for kind, animal in homes if kind == "redundant"}
    assert {animal for kind, animal in homes if kind in ("clean", "misconception") and animal} <= asked | {
        asked_home(record["question"])
        for name in ("arc_easy", "arc_challenge")
        for record in rows[f"{name}/validation"]
    }
