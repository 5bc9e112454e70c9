"""Ratings: joined by row whatever is dropped, from every kind of file; and what is told where they do not fit."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest

from qtuning.data.prepare import prepare
from qtuning.data.samples import load_samples
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, FileSource, HubSource, Model, Pruning, Seeds, Training, TrainSet
from qtuning.files import read_json

ROWS: list[dict[str, Any]] = [{"instruction": f"What is {n}?", "output": f"It is {n}.", "id": n} for n in range(20)]
ROWS[3] = {"instruction": "no output", "id": 3}
RATINGS = [{"id": n, "rating": n / 2, "complexity": n + 1, "quality": 7} for n in range(20)]
RATINGS[3] = {"id": 3, "rating": None, "complexity": 1, "quality": 7}  # of a row that cannot be used


@pytest.fixture
def prepared(bpe_folder: Path, write: Any, tmp_path: Path) -> Callable[..., Any]:
    """prepared(ratings, rows, limit=..., **keys of the train set): the folder of the prepared train set."""

    def go(ratings: Path | None, rows: list[Any] = ROWS, limit: int | None = None, **keys: Any) -> Path:
        data = write("data.jsonl", rows)
        source = FileSource(kind="path", file=str(data))
        train_set = TrainSet(name="set", source=source, bad_rows=0.1, ratings=ratings and str(ratings), **keys)
        cell = Cell(
            model=Model(name="m", source=HubSource(id="x"), template="plain"),
            train_set=train_set,
            limit_train=limit,
            pruning=Pruning(sample_pruner="alpagasus", token_pruner="none", sample_ratio=0.5, token_ratio=1),
            training=Training(),
            seeds=Seeds(data=0, pruner=0, init=0),
        )
        prepare(cell, bpe_folder, tmp_path / "out")
        return tmp_path / "out"

    return go


def expect_refusal(prepared: Callable[..., Any], *arguments: Any, match: str, **keys: Any) -> None:
    with pytest.raises(UserError) as refusal:
        prepared(*arguments, **keys)
    assert "\n" not in str(refusal.value) and str(refusal.value).startswith("train set set: ratings: ")
    assert re.search(match, str(refusal.value)), refusal.value


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.parquet", "r.jsonl.gz", "r.csv"])
@pytest.mark.parametrize("limit", [None, 7])
def test_ratings_are_joined_by_row(
    prepared: Callable[..., Any], write: Any, tmp_path: Path, name: str, limit: int | None
) -> None:
    path = tmp_path / name
    if name.endswith("csv"):
        polars.DataFrame(RATINGS).write_csv(path)
    else:
        path = write(name, RATINGS)
    out = prepared(path, limit=limit)
    stored = load_samples(out)
    assert len(stored) == (limit or 19) and set(stored.ratings) == {"rating", "complexity", "quality"}
    for place, sample in enumerate(stored):
        assert stored.ratings["rating"][place] == sample.number / 2
        assert stored.ratings["complexity"][place] == sample.number + 1
    assert read_json(out / "report.json")["ratings"]["path"] == str(path)


def test_columns_of_the_data_and_columns_of_other_names(prepared: Callable[..., Any], write: Any) -> None:
    scored = [row | {"score": 2 * n} for n, row in enumerate(ROWS)]
    stored = load_samples(prepared(None, scored, columns={"rating": "score"}))
    assert set(stored.ratings) == {"rating"}
    assert stored.ratings["rating"].tolist() == [2.0 * sample.number for sample in stored]
    renamed = write("r.jsonl", [{"score": row["rating"]} for row in RATINGS])
    stored = load_samples(prepared(renamed, columns={"rating": "score"}))
    assert stored.ratings["rating"].tolist() == [sample.number / 2 for sample in stored]
    assert load_samples(prepared(None)).ratings == {}


def test_other_ratings_are_other_data(prepared: Callable[..., Any], write: Any) -> None:
    prints = []
    for scale in (1, 2):
        changed = [row | {"rating": scale * (row["rating"] or 0)} for row in RATINGS]
        out = prepared(write("r.jsonl", changed))
        prints.append(read_json(out / "report.json")["data_fingerprint"])
    plain = read_json(prepared(None) / "report.json")["data_fingerprint"]
    assert len({*prints, plain}) == 3


def test_what_does_not_fit_is_told_in_one_line(prepared: Callable[..., Any], write: Any, tmp_path: Path) -> None:
    expect_refusal(prepared, tmp_path / "nowhere.jsonl", match="no such file.*a row for each row of the data")
    expect_refusal(
        prepared, write("a.jsonl", RATINGS[:-1]), match="has 19 rows, the data has 20; expected a row for each"
    )
    swapped = [RATINGS[1], RATINGS[0], *RATINGS[2:]]
    expect_refusal(
        prepared,
        write("b.jsonl", swapped),
        match=r"b\.jsonl:1 rates id '1', but \S+:1 has id '0'; expected a row for each row of the data, in order",
    )
    words = [{"id": n, "stars": 3} for n in range(20)]
    expect_refusal(
        prepared, write("c.jsonl", words), match="has the columns id, stars; expected rating, complexity, quality"
    )
    missing = [*RATINGS[:5], {"id": 5, "complexity": 1, "quality": 1}, *RATINGS[6:]]
    expect_refusal(
        prepared, write("d.jsonl", missing), match=r"d.jsonl:6: column 'rating' \(row 6 .* nothing; expected a number"
    )
    for wrong in ("4", True, [1]):
        bad = [*RATINGS[:8], RATINGS[8] | {"quality": wrong}, *RATINGS[9:]]
        expect_refusal(
            prepared, write("e.jsonl", bad), match=r"e.jsonl:9: column 'quality' \(row 9 .*; expected a number"
        )
    expect_refusal(prepared, write("f.jsonl", words), match="column 'score'", columns={"rating": "score"})
    expect_refusal(prepared, None, match="column 'score'.*nothing", columns={"rating": "score"})
