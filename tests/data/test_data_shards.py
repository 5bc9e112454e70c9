"""Several files that are one set: found by pattern or folder, in their order, whole, and never with another set."""

import json
from pathlib import Path
from typing import Any

import polars
import pytest

from qtuning.data.shards import find_files
from qtuning.data.sources import describe_source, read_rows
from qtuning.errors import UserError
from qtuning.experiment.cell import FileSource, TrainSet
from qtuning.files import file_digest


def shards(folder: Path, count: int = 3, stem: str = "train") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}-{n:05}-of-{count:05}.parquet" for n in range(count)]
    for number, path in enumerate(paths):
        rows = [{"instruction": f"q{number}-{n}", "output": "a"} for n in range(2)]
        polars.DataFrame(rows).write_parquet(path)
    return paths


def train_set(file: Path, **keys: Any) -> TrainSet:
    return TrainSet(name="s", source=FileSource(kind="path", file=str(file), **keys))


@pytest.mark.parametrize("name", ["data", "data/*.parquet", "data/train-*", "**/*.parquet"])
def test_all_shards_in_order(tmp_path: Path, name: str) -> None:
    paths = shards(tmp_path / "data")
    for about in ("README.md", "dataset_info.json", ".hidden.jsonl"):
        (tmp_path / "data" / about).write_text("{}")
    asked = train_set(tmp_path / name)
    rows = list(read_rows(asked, data_dir=None))
    assert [row.value["instruction"] for row in rows] == [f"q{s}-{n}" for s in range(3) for n in range(2)]  # type: ignore[index]
    assert [(row.file, row.line) for row in rows] == [(str(path), line) for path in paths for line in (1, 2)]
    told = describe_source(asked, None)
    assert told["path"] == str(tmp_path / "data") and list(told["files"].values()) == list(map(file_digest, paths))
    before = told["sha256"]
    paths[1].write_bytes(paths[2].read_bytes())
    assert describe_source(asked, None)["sha256"] != before


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 2, 1):
        (tmp_path / f"part{number}.jsonl").write_text(json.dumps({"n": number}))
    assert [path.stem for path in find_files(tmp_path)] == ["part1", "part2", "part9", "part10"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_text("{}")
    (tmp_path / "a1.jsonl").write_text("{}")
    assert find_files(tmp_path / "a[1].jsonl") == [tmp_path / "a[1].jsonl"]


@pytest.mark.parametrize(
    ("more", "asked", "said"),
    [
        (["test-00000-of-00001.parquet"], "", "holds more than one set (test-00000-of-00001.parquet, train-"),
        (["validation-00000-of-00001.parquet"], "*.parquet", "are different splits, and the pattern takes both"),
        (["notes.jsonl"], "", "holds more than one set"),
    ],
)
def test_other_sets_are_not_mixed_in(tmp_path: Path, more: list[str], asked: str, said: str) -> None:
    shards(tmp_path)
    for name in more:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError) as error:
        find_files(tmp_path / asked)
    assert said in str(error.value)
    assert len(find_files(tmp_path / "train-*.parquet")) == 3


def test_missing_shards_and_empty_folders_are_told(tmp_path: Path) -> None:
    shards(tmp_path)[1].unlink()
    for asked in (tmp_path, tmp_path / "*.parquet"):
        with pytest.raises(UserError, match=r"train\*\.parquet: 1 of 3 shards are missing"):
            find_files(asked)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is a folder without files of rows"):
        find_files(tmp_path / "empty")
    (tmp_path / "empty" / "data-00000-of-00001.arrow").write_text("")
    with pytest.raises(UserError, match="holds Arrow files; save the set with `to_parquet`"):
        find_files(tmp_path / "empty")
    with pytest.raises(UserError, match=r"no such file \(train set source: kind path"):
        list(read_rows(train_set(tmp_path / "nothing-*.jsonl"), data_dir=None))


@pytest.mark.parametrize(
    ("names", "asked", "said"),
    [
        (["t_0001_of_0003.jsonl", "t_0002_of_0003.jsonl"], "", r"/t\*\.jsonl: 1 of 3 shards are missing"),
        (
            ["t-00000-of-00001.jsonl", "t-00000-of-00002.jsonl", "t-00001-of-00002.jsonl"],
            "t-*",
            r"/t\*\.jsonl: shards of two sets, of 1 and of 2; keep those of one$",
        ),
        (
            ["t-0.jsonl", "t-1.jsonl", "t-1.parquet"],
            "t-*",
            r"t-1\.jsonl and t-1\.parquet: the pattern takes both; write",
        ),
        (
            ["README.md", "data/train.jsonl"],
            "",
            r"is a folder without files of rows; name .* has them, e\.g\. /.*/data$",
        ),
        (["a.jsonl", "README.md"], "*", r"/\*: takes README\.md, too, .* write the suffix, e\.g\. \*\.jsonl$"),
        (["a.jsonl", "a.jsonl.tmp"], "a*", r"takes a\.jsonl\.tmp, too"),
        (["a.parquet", "dataset_info.json"], "*", r"takes dataset_info\.json, too, .* e\.g\. \*\.parquet$"),
        (["train/data-00000-of-00001.arrow"], "", r"holds Arrow files; save the set with `to_parquet`$"),
        (["test.jsonl", "train.jsonl"], "", r"holds more than one set \(test.*\(/.*/train\.jsonl\)$"),
    ],
)
def test_what_would_be_read_twice_or_in_part(tmp_path: Path, names: list[str], asked: str, said: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=said):
        find_files(tmp_path / asked)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("tatsu-lab/alpaca", r"named by source: \{kind: hub, id: tatsu-lab/alpaca\}$"),
        ("https://example.org/a.jsonl", "addresses are not fetched: download it"),
        ("data/{a,b}.jsonl", r"patterns have \* \? and \[\.\.\.\], but no \{a,b\}$"),
        ("data/a.jsonl", r"file data/a\.jsonl\)$"),
    ],
)
def test_what_may_have_been_meant_by_a_missing_file(file: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        list(read_rows(TrainSet(name="s", source=FileSource(kind="path", file=file)), data_dir=None))


def test_draws_may_have_shards(tmp_path: Path) -> None:
    shards(tmp_path / "draw1", 2)
    asked = train_set(tmp_path / "draw{draw}/*.parquet", draws=2)
    assert len(list(read_rows(asked.drawn(3), data_dir=None))) == 4


def test_one_shard_alone_is_remarked(tmp_path: Path) -> None:
    """It may be on purpose; whoever copied one name of a download reads that there are more."""
    first, *_ = shards(tmp_path)
    rows = list(read_rows(train_set(first), data_dir=None))
    assert {row.remarks for row in rows} == {("of one shard alone (source.file = train-*-of-00003.parquet names all)",)}
    assert not any(row.remarks for row in read_rows(train_set(tmp_path), data_dir=None))
