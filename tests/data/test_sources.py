"""Sources: all formats give the same rows; what is damaged is said with file and line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.data.containers import SUFFIXES, read_file
from qtuning.data.rows import Reason, Row
from qtuning.data.sources import MINI_WORLD, describe_source, locate, read_rows
from qtuning.errors import UserError
from qtuning.experiment.cell import FileSource, HubSource, TrainSet
from qtuning.experiment.ids import ResultPaths
from qtuning.hub.fetch import ensure
from qtuning.hub.repositories import repository_of_train_set

ROWS = [
    {"instruction": "Größe?", "input": "", "output": "2 m"},
    {"instruction": "line\nbreak\u2028and separator", "input": "x", "output": "🙂"},
    {"instruction": "third", "input": "", "output": "שלום"},
]


def values(path: Path) -> list[object]:
    return [row.value for row in read_file(path)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet"])
def test_all_formats_give_equal_rows(write: Any, name: str) -> None:
    path = write(name, ROWS)
    rows = list(read_file(path))
    assert [row.value for row in rows] == ROWS
    assert all(row.file == str(path) and row.problem is None for row in rows)
    if ".json" in name and ".jsonl" not in name:
        text = json.dumps(ROWS, indent=1).splitlines()
        assert [row.line for row in rows] == [number for number, line in enumerate(text, 1) if line == " {"]
    else:
        assert [row.line for row in rows] == [1, 2, 3]


def test_parquet_lists_of_messages(write: Any) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    assert values(write("chat.parquet", rows)) == rows


def test_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert [(row.line, row.value) for row in read_file(path)] == [(1, {"a": 1}), (4, {"a": 2})]
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf [{"a": 1},\r\n\r\n {"a": 2}] \n')
    assert [(row.line, row.value) for row in read_file(path)] == [(1, {"a": 1}), (3, {"a": 2})]


def test_undecodable_lines_are_row_problems(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    nested = b"[" * 100_000 + b"]" * 100_000
    path.write_bytes(b'{"a": "\xff"}\n{"a": \n{"a": 1}\n' + nested + b"\n" + b"9" * 10_000 + b"\n")
    assert [(row.line, row.problem) for row in read_file(path)] == [
        (1, Reason.INVALID_UTF8),
        (2, Reason.INVALID_JSON),
        (3, None),
        (4, Reason.INVALID_JSON),
        (5, Reason.INVALID_JSON),
    ]


def test_invalid_bytes_in_a_json_list_spoil_only_their_row(tmp_path: Path) -> None:
    from qtuning.data.parse import parse_row
    from qtuning.data.rows import Refusal

    path = tmp_path / "a.json"
    path.write_bytes(b'[{"instruction": "a\xff", "output": "b"},\n{"instruction": "a", "output": "b"}]')
    train_set = TrainSet(name="x", label="X", source=FileSource(kind="path", file=str(path)))
    first, second = (parse_row(row, train_set) for row in read_file(path))
    assert isinstance(first, Refusal)
    assert first.reason is Reason.INVALID_UTF8
    assert not isinstance(second, Refusal)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), name=st.sampled_from([*SUFFIXES, ".csv"]))
def test_any_bytes_are_rows_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, data: Any, name: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"a{name}"
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") and len(data) % 2 else data)
    check_rows_or_user_error(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from(SUFFIXES))
def test_damaged_files_are_rows_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, save: Any, data: Any, name: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"a{name}"
    save(path, ROWS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    check_rows_or_user_error(path)


def check_rows_or_user_error(path: Path) -> None:
    problem = ""
    try:
        for row in read_file(path):
            assert row.line >= 1
            assert row.problem in (None, Reason.INVALID_JSON, Reason.INVALID_UTF8, Reason.INVALID_CSV)
    except UserError as error:
        problem = str(error)
    assert not problem or problem.startswith(str(path))


def test_a_truncated_gzip_file_says_how_far_it_was_read(tmp_path: Path) -> None:
    import random

    lines = [json.dumps({"instruction": str(random.Random(i).random()), "output": "b"}) for i in range(5000)]
    data = gzip.compress("\n".join(lines).encode())
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data[: len(data) // 2])
    rows: list[Row] = []
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: damaged or cut short") as error:
        rows.extend(read_file(path))
    assert 0 < len(rows) < 5000
    assert f"read up to line {len(rows)} " in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}\n{"a": 2}]', "a.json:2: not valid JSON: expected a comma"),
        ('[{"a": 1},\n{"a": }]', "a.json:2: not valid JSON"),
        ('[{"a": 1}] x', "text after the end"),
        ('[{"a": 1}', "a.json:1: ends within the list: cut short"),
        ("[" * 100_000, "a.json:1: JSON that cannot be read"),
    ],
)
def test_a_broken_json_list_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        list(read_file(path))


def test_locate(tmp_path: Path, write: Any) -> None:
    path = write("data/alpaca/train.jsonl", ROWS)
    named = FileSource(kind="data-dir", file="alpaca/train.jsonl")
    assert locate(named, data_dir=tmp_path / "data") == [path]
    shipped = FileSource(kind="mini-world", file="sft/train_0.jsonl.gz")
    assert locate(shipped, data_dir=None) == locate(shipped, data_dir=tmp_path) == [MINI_WORLD / "sft/train_0.jsonl.gz"]
    assert locate(FileSource(kind="path", file=str(path)), data_dir=None) == [path]
    with pytest.raises(UserError, match="--config data_dir=DIR"):
        locate(named, data_dir=None)
    with pytest.raises(UserError, match="no such file"):
        locate(named, data_dir=tmp_path)
    with pytest.raises(UserError, match=r"is a folder without files of rows; known: \.jsonl"):
        locate(FileSource(kind="path", file=str(tmp_path)), data_dir=None)
    assert locate(FileSource(kind="path", file=str(path.parent)), data_dir=None) == [path]


def hub_set(id_: str, split: str = "train", local: str | None = None) -> TrainSet:
    return TrainSet(name="h", label="H", source=HubSource(id=id_, split=split), local=local)


def test_a_hub_set_that_was_not_fetched_names_what_could_replace_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        list(read_rows(hub_set("owner/set", local="h/train.jsonl.gz"), data_dir=None, hub=tmp_path))
    message = str(error.value)
    assert message.startswith("train set h: data set owner/set (revision main): was not fetched")
    assert message.endswith("or give a local copy with --config data_dir=DIR (h/train.jsonl.gz below DIR)")
    assert "\n" not in message


def test_a_fetched_hub_set_yields_rows(tmp_path: Path, local_hub: Hub) -> None:
    lines = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    commit = local_hub.add("dataset", "owner/set", {"train.jsonl": lines})
    asked, paths = hub_set("owner/set"), ResultPaths(tmp_path / "results")
    ensure([repository_of_train_set(asked)], paths)
    rows = list(read_rows(asked, data_dir=None, hub=paths.hub))
    assert [row.value for row in rows] == ROWS
    assert [row.line for row in rows] == [1, 2, 3]
    assert describe_source(asked, None, paths.hub) == {
        **{"kind": "hub", "id": "owner/set", "revision": "main", "subset": None, "split": "train"},
        "commit": commit,
    }
    with pytest.raises(UserError, match="data set owner/set: has no split nowhere, but train; or give a local copy"):
        list(read_rows(hub_set("owner/set", "nowhere"), data_dir=None, hub=paths.hub))
