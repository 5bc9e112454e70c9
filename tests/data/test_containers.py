"""Files: what packs them, how they are encoded and what contains their rows is seen, whatever they are called."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.data import containers, unpack
from qtuning.data.containers import DUPLICATE, NOT_FINITE, read_file
from qtuning.data.rows import Reason
from qtuning.errors import UserError

ROWS = [{"instruction": f"Größe {n}?\u2028", "input": "", "output": f"🙂 {n}"} for n in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def values(path: Path) -> list[object]:
    return [row.value for row in read_file(path)]


def save(folder: Path, content: bytes | str, name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as error:
        list(read_file(path))
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".parquet", ".txt"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize(
    "contain",
    [
        lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
        lambda rows: "\n\n" + "\r\n\r\n".join(json.dumps(row) for row in rows),
        json.dumps,
        lambda rows: json.dumps(rows, indent=2),
        lambda rows: json.dumps({"version": "1", "data": rows, "n": 3}),
        lambda rows: json.dumps({"about": {"a": [1]}, "train": rows}, indent=1),
        lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows),
    ],
)
def test_the_name_decides_nothing(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes], contain: Callable[[Any], str]
) -> None:
    assert values(save(tmp_path, pack(contain(ROWS).encode()), f"a{suffix}")) == ROWS


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("utf-8-sig", b""), ("utf-16", b""), ("utf-32", b""), ("utf-16-le", b""), ("utf-16-be", b""), ("utf-32-le", b""),
     ("utf-16-be", codecs.BOM_UTF16_BE), ("utf-32-be", codecs.BOM_UTF32_BE)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_encodings_are_seen(tmp_path: Path, encoding: str, mark: bytes, name: str) -> None:
    if name == "a.csv":
        table = io.StringIO()
        writer = csv.DictWriter(table, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
        text = table.getvalue()
    else:
        text = LINES if name == "a.jsonl" else json.dumps(ROWS, ensure_ascii=False, indent=1)
    for packed in (bytes, gzip.compress):
        assert values(save(tmp_path, packed(mark + text.encode(encoding)), name)) == ROWS


def test_zstandard_is_unpacked(tmp_path: Path) -> None:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(LINES.encode())
    assert values(save(tmp_path, sink.getvalue().to_pybytes(), "a.jsonl.zst")) == ROWS


def test_byte_order_marks_inside_and_blank_lines(tmp_path: Path) -> None:
    """As `cat` of files makes them."""
    path = save(tmp_path, codecs.BOM_UTF8 + b'\n{"a": 1}\n' + codecs.BOM_UTF8 + b'{"a": 2}\n')
    assert [(row.line, row.value) for row in read_file(path)] == [(2, {"a": 1}), (3, {"a": 2})]


def test_rows_of_a_list_know_their_lines(tmp_path: Path) -> None:
    path = save(tmp_path, '\n\n{"version": 1,\n "data": [\n  {"a": 1},\n\n  {"a": 2}\n]}')
    assert [(row.line, row.value) for row in read_file(path)] == [(5, {"a": 1}), (7, {"a": 2})]
    path = save(tmp_path, '{\n"a": 1\n}\n\n{\n"a": 2\n}')
    assert [(row.line, row.value) for row in read_file(path)] == [(1, {"a": 1}), (5, {"a": 2})]


def test_a_broken_first_row_is_a_row(tmp_path: Path) -> None:
    for first in ('{"a": ', '{"a": 1,}', "{'a': 1}", "nonsense"):
        rows = list(read_file(save(tmp_path, f'{first}\n{{"a": 2}}\n{{"a": 3}}\n')))
        assert [row.problem for row in rows] == [Reason.INVALID_JSON, None, None]
    commas = list(read_file(save(tmp_path, '{"a": 1},\n{"a": 2},\n{"a": 3}\n')))
    assert [row.detail for row in commas] == ["a comma behind the object"] * 2 + [""]
    assert "Python's str()" in next(read_file(save(tmp_path, "{'a': 1}\n{'a': 2}\n"))).detail


def test_one_row_alone_is_a_row(tmp_path: Path) -> None:
    for row in ({"messages": [{"role": "user", "content": "a"}]}, {"a": 1}, {"data": "text", "b": 2}):
        assert values(save(tmp_path, json.dumps(row))) == [row]
    assert values(save(tmp_path, '{"question": "\xff"}'.encode("latin-1"))) == [None]
    assert values(save(tmp_path, "")) == values(save(tmp_path, "\n \n")) == []


def test_oddities_of_a_row_are_remarks(tmp_path: Path) -> None:
    text = '{"a": 1, "a": 2}\n{"a": {"b": 1, "b": 1}, "c": NaN}\n{"a": -Infinity}\n{"a": 1}\n'
    lines = [row.remarks for row in read_file(save(tmp_path, text))]
    assert lines == [(DUPLICATE,), (DUPLICATE, NOT_FINITE), (NOT_FINITE,), ()]
    listed = save(tmp_path, "[" + ",\n".join(text.splitlines()) + "]")
    assert [row.remarks for row in read_file(listed)] == lines
    assert next(read_file(listed)).value == {"a": 2}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({"a": ["x", "y"], "b": ["z", "w"]}), "is JSON by columns or by index (a, b); save it by rows"),
        (json.dumps({"a": {"0": "x"}, "b": {"0": "y"}}, indent=1), "is JSON by columns"),
        (json.dumps({"columns": ["a"], "index": [0], "data": [["x"]]}), "is JSON by columns"),
        (json.dumps({"train": [{"a": 1}], "rows": [{"a": 1}]}), "holds several lists of rows, train and rows"),
        (b"PK\x03\x04rest", "is a ZIP archive; unpack it"),
        (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "is a table of Excel or LibreOffice; save it as CSV or"),
        (b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/vnd.oasis.x", "is a table of Excel or Libre"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a table of old Excel"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "fetch it with `git lfs pull`"),
        (b"ARROW1\0\0", "is an Arrow file; save it as Parquet"),
        (b"\x80\x04\x95", "is a pickle, which is never read"),
        (lzma.compress(b"{}", format=lzma.FORMAT_ALONE), "is packed by an old LZMA; unpack it, or pack it with gzip"),
        (b"\x04\x22\x4d\x18\x64\x40\xa7", "is packed by LZ4; unpack it, or pack it with gzip"),
        (b"\xed\xab\xee\xdb\x03\x00\x00\x00", "is no text, but binary data of an unknown kind"),
        ("Entry not found", "is a server's answer that there is no such file"),
        ('[{"a": 1},\n{"a": 2}', ":2: ends within the list: cut short, or without its ']'"),
        (gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "holds another packed file; unpack it once"),
        (codecs.BOM_UTF16_LE + b"{\0\n", "begins as UTF-16, but is not valid UTF-16; save it as UTF-8"),
    ],
)  # fmt: skip
def test_the_trait_of_a_file_is_one_line(tmp_path: Path, content: bytes | str, said: str) -> None:
    assert said in complaint(save(tmp_path, content))


def test_what_is_no_file_of_rows(tmp_path: Path) -> None:
    assert "unknown file format; known: .jsonl" in complaint(save(tmp_path, "Once upon a time", "a.txt"))
    assert "not a readable Parquet file" in complaint(save(tmp_path, "Once upon a time", "a.parquet"))
    assert "not a readable Parquet file" in complaint(save(tmp_path, b"PAR1" + bytes(40), "a.parquet"))
    archive = io.BytesIO()
    import tarfile

    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jsonl"))
    assert "is a tar archive; unpack it" in complaint(save(tmp_path, archive.getvalue(), "a.jsonl.gz"))


def test_a_list_without_rows_has_none(tmp_path: Path) -> None:
    assert values(save(tmp_path, '{"data": []}')) == []
    assert values(save(tmp_path, '{"data": [], "n": 0}')) == [{"data": [], "n": 0}]


def test_nul_bytes_are_named(tmp_path: Path) -> None:
    *rows, last = read_file(save(tmp_path, LINES.encode() + bytes(64)))
    assert [row.value for row in rows] == ROWS
    assert last.problem is Reason.INVALID_JSON and last.detail.startswith("NUL bytes, as a crash leaves them")


def test_parquet_that_has_no_rows_for_python(tmp_path: Path) -> None:
    import pyarrow.parquet

    path, text = tmp_path / "a.parquet", pyarrow.array(["a"])
    pyarrow.parquet.write_table(pyarrow.table([text, text], ["output", "output"]), path)
    assert complaint(path) == ": two columns have one name (output, output)"
    far = pyarrow.array([9 * 10**18], pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"output": text, "when": far}), path)
    assert complaint(path).startswith(": row 1 or one of the next 1,000 holds a value that cannot be read")


def test_files_that_unpack_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "FREE", 2**20)
    line = json.dumps({"instruction": "a" * 1000, "output": "b"}).encode() + b"\n"
    few, many = gzip.compress(line * 1000), gzip.compress(line * 3000)
    assert len(values(save(tmp_path, few, "few.jsonl.gz"))) == 1000
    assert "unpacks to more than 100 times its size" in complaint(save(tmp_path, many, "a.jsonl.gz"))


def test_a_line_beyond_all_bounds_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "LONGEST_LINE", 100)
    text = '{"a": 1}\n{"a": "' + "x" * 1000 + '"}\n{"a": 2}\n'
    rows = list(read_file(save(tmp_path, text)))
    assert [(row.line, row.problem) for row in rows] == [(1, None), (2, Reason.TOO_LARGE), (3, None)]
    first_is_long = "".join(text.splitlines(keepends=True)[1:])
    assert [row.problem for row in read_file(save(tmp_path, first_is_long))] == [Reason.TOO_LARGE, None]
    for whole in (json.dumps(ROWS * 5), json.dumps({"data": ROWS * 5})):
        assert values(save(tmp_path, whole)) == ROWS * 5, "one text, however long its only line"


def test_tables_of_text(tmp_path: Path) -> None:
    text = 'instruction,output\n"a, ""b""\nc",007\n\nlong,1,2\nd,\n'
    rows = list(read_file(save(tmp_path, text, "a.csv")))
    assert [(row.line, row.value, row.problem) for row in rows] == [
        (2, {"instruction": 'a, "b"\nc', "output": "007"}, None),
        (5, None, Reason.INVALID_CSV),
        (6, {"instruction": "d", "output": ""}, None),
    ]
    assert rows[1].detail == "3 cells, but the first line names 2 columns"
    assert values(save(tmp_path, "a;b\n1,5;2\n", "a.csv")) == [{"a": "1,5", "b": "2"}]
    assert values(save(tmp_path, "a\tb\n1,5\t2\n", "a.tsv.gz")) == [{"a": "1,5", "b": "2"}]
    assert "two columns have one name (a, a)" in complaint(save(tmp_path, "a,a\n1,2\n", "a.csv"))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.dictionaries(texts, texts | st.integers() | st.lists(texts), min_size=1), min_size=2, max_size=5),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-32"]),
    ascii_only=st.booleans(),
    listed=st.booleans(),
    indent=st.none() | st.integers(0, 2),
)
def test_any_rows_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, encoding: str, ascii_only: bool, listed: bool, indent: Any
) -> None:
    text = (
        json.dumps(rows, ensure_ascii=ascii_only, indent=indent)
        if listed
        else "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    )
    assert values(save(tmp_path_factory.mktemp("rows"), text.encode(encoding))) == rows
