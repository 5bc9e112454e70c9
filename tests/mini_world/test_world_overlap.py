"""The overlap of the generated SFT set with the generated benchmarks, counted a second way."""

import re
from typing import Any

from qtuning.data.contamination import OverlapCheck, run_check
from qtuning.experiment.cell import FileSource, TrainSet


def runs(text: str) -> set[str]:
    """All 13 words in a row of a text (ASCII, as the world is)."""
    found = re.sub(r"[^a-z0-9]+", " ", text.lower()).split()
    return {" ".join(found[start : start + 13]) for start in range(len(found) - 12)}


def test_the_shipped_world_is_checked_as_generated(rows: Any) -> None:
    mini = TrainSet(name="mini", source=FileSource(kind="mini-world", file="sft/train_0.jsonl.gz"))
    report = run_check(OverlapCheck(mini, "mini-world", ("gsm8k", "triviaqa")), data_dir=None)
    trained: set[str] = set()
    for row in rows["sft/train_0"]:
        for text in (row["instruction"], row.get("input") or "", row["output"]):
            trained |= runs(text)
    expected = [bool((runs(item["question"]) | runs(item["answer"])) & trained) for item in rows["gsm8k/test"]]
    assert 0 < report["benchmarks"]["gsm8k"]["contaminated"] == sum(expected) < len(expected)
    assert report["read"] == len(rows["sft/train_0"])
    # its questions are short, and the SFT set repeats none of them
    trivia = report["benchmarks"]["triviaqa"]
    assert (trivia["short"], trivia["short_found"]) == (len(rows["triviaqa/validation"]), 0)
