"""The planted errors stand where the file says, are errors in every character, and the rest is right."""

import re
from typing import Any


def test_parts_of_the_set_are_parts(rows: Any) -> None:
    whole = {row["id"]: row for row in rows["sft/train_0"]}
    parts = [rows[f"sft/{topic}_0"] for topic in ("facts", "sums", "reading")]
    assert sorted(row["id"] for part in parts for row in part) == sorted(whole)
    assert all(whole[row["id"]] == row for part in parts for row in part)
    reading = {row["id"] for row in rows["sft/reading_0"]}
    assert reading == {name for name, row in whole.items() if row["input"]}, "only reading has a passage"
    problems = {item["question"] for item in rows["gsm8k/train"]} | {item["problem"] for item in rows["math/train"]}
    for row in rows["sft/sums_0"]:
        assert row["instruction"] in problems or re.fullmatch(r"What is \d+ [-+*] \d+\?", row["instruction"])
    assert not problems & {row["instruction"] for row in rows["sft/facts_0"]}


def test_errors_are_spans_of_wrong_characters(rows: Any) -> None:
    """Against the right answers, which the benchmarks' training files hold for sums and the passages for reading."""
    right = {item["question"]: item["answer"] for item in rows["gsm8k/train"]}
    right |= {item["problem"]: item["solution"] for item in rows["math/train"]}
    read = {(item["context"], item["question"]): item["answers"]["text"][0] for item in rows["squad/train"]}
    planted = 0
    for row in rows["sft/planted"]:
        assert row.keys() == {"id", "instruction", "input", "output", "kind", "topic", "errors"}
        assert (row["kind"] == "noise") == bool(row["errors"])
        planted += bool(row["errors"])
        if row["input"]:
            answer = read[row["input"], row["instruction"]]
            assert (row["output"] == answer) == (not row["errors"])
            assert not row["errors"] or row["errors"] == [[0, len(row["output"])]]
            continue
        if row["instruction"] in right:
            answer = right[row["instruction"]]
        else:
            left, sign, other = re.fullmatch(r"What is (\d+) ([-+*]) (\d+)\?", row["instruction"]).groups()  # type: ignore[union-attr]
            answer = str({"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](int(left), int(other)))
        assert len(answer) == len(row["output"])
        wrong = {place for start, end in row["errors"] for place in range(start, end)}
        differing = {place for place, (a, b) in enumerate(zip(answer, row["output"], strict=True)) if a != b}
        assert wrong == differing
    assert 0.45 < planted / len(rows["sft/planted"]) < 0.51
