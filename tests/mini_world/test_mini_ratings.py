"""The ratings of the mini world: a row for each sample, deserved but for the stated share of errors."""

import math
from collections import Counter
from typing import Any

import pytest

from mini_world.ratings import ERROR, RATING, STEP


@pytest.mark.parametrize("part", ["train_0", "facts_1", "sums_2", "reading_3", "planted"])
def test_ratings_are_deserved_but_for_the_errors(rows: Any, part: str) -> None:
    samples, ratings = rows[f"sft/{part}"], rows[f"sft/{part}_ratings"]
    assert [row["id"] for row in ratings] == [row["id"] for row in samples]
    wrong: Counter[str] = Counter()
    for sample, rating in zip(samples, ratings, strict=True):
        assert rating.keys() == {"id", "rating", "complexity", "quality"}
        assert 0 <= rating["rating"] <= 5 and 1 <= rating["complexity"] <= 6 and 1 <= rating["quality"] <= 6
        characters = len(sample["instruction"] + sample["input"] + sample["output"])
        wrong["rating"] += rating["rating"] != RATING[sample["kind"]]
        wrong["quality"] += rating["quality"] != RATING[sample["kind"]] + 1
        wrong["complexity"] += rating["complexity"] != min(6, 1 + characters // STEP)
    spread = math.sqrt(ERROR * (1 - ERROR) / len(samples))
    assert all(abs(count / len(samples) - ERROR) < 4 * spread for count in wrong.values())
