"""Reads the rows of a file, whatever contains them: lines of JSON, a JSON list (also inside an object), CSV or Parquet.

Train sets, ratings and benchmarks are read here. What the file holds decides; the suffix tells only CSV. Rows that
cannot be decoded are yielded, too, with their place and the problem, so that a report can list them.
"""

import csv
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from qtuning.data.rows import Reason, Row, shown
from qtuning.data.unpack import PARQUET, open_raw, open_text
from qtuning.errors import UserError, one_line

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".jsonl.zst", ".json.zst", ".ndjson", ".ndjson.gz")
"""What files of rows are mostly called; in a folder, only these are looked at."""
CSV = {".csv": ",", ".tsv": "\t"}
_CSV_NAME = re.compile(r"(\.csv|\.tsv)(?:\.(?:gz|bz2|xz|zst))?$")
LISTS = ("data", "rows", "train", "examples", "instances", "samples", "records", "items", "dataset")
"""Keys under which an object holds the rows of a file."""
LONGEST_LINE, LONGEST_TEXT = 2**26, 2**31
"""Bytes of a line, and of a file that is read as a whole."""
_LIST_IN_OBJECT = re.compile(rf'"(?:{"|".join(LISTS)})"\s*:\s*\[\s*\{{'.encode())
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)
DUPLICATE, NOT_FINITE = "key written twice (the last counts)", "NaN or infinity"


def read_file(path: Path) -> Iterator[Row]:
    """Every row of a local file, in order. UserError if it cannot be read, or not to its end."""
    with open_raw(path) as raw:
        if raw.peek(4).startswith(PARQUET):
            yield from _parquet(path)
            return
    place = _Place()
    try:
        with open_text(path) as stream:
            table = _CSV_NAME.search(path.name.lower())
            yield from _text(path, stream, place) if table is None else _csv(path, stream, CSV[table[1]], place)
    except DAMAGED as error:
        reached = f"line {place.line}" if place.line else "no complete row"
        raise UserError(f"{path}: damaged or cut short, read up to {reached} ({error}); fetch the file again") from None


def is_csv(name: str) -> bool:
    """Whether the name of a file says that it is CSV."""
    return _CSV_NAME.search(name.lower()) is not None


class _Place:
    """The line that was read last."""

    line = 0


class _Json:
    """Decodes JSON, and notes what is odd about it."""

    def __init__(self) -> None:
        self.remarks: tuple[str, ...] = ()
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)

    def decode(self, text: str) -> Any:
        """The one value that a text holds. ValueError or RecursionError if that cannot be read."""
        self.remarks = ()
        return self._decoder.decode(text)

    def decode_at(self, text: str, position: int) -> tuple[Any, int]:
        """The value at a place of a text, and where it ends."""
        self.remarks = ()
        return self._decoder.raw_decode(text, position)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) and DUPLICATE not in self.remarks:
            self.remarks += (DUPLICATE,)
        return found

    def _constant(self, name: str) -> float:
        if NOT_FINITE not in self.remarks:
            self.remarks += (NOT_FINITE,)
        return float(name.replace("Infinity", "inf"))


def _text(path: Path, stream: BinaryIO, place: _Place) -> Iterator[Row]:
    """JSON: one value a line, unless the first lines show that it is one text."""
    lines = _lines(stream, place)
    first = next(lines, None)
    if first is None:
        return
    _check_is_json(path, first[1])
    opens = first[1].lstrip()[:1] == b"[" and _complete(first[1]) is None
    second = None if opens or len(first[1]) > LONGEST_LINE else next(lines, None)
    head = [line for line in (first, second) if line is not None]
    if _is_whole(first[1], second and second[1]):
        # blank lines before the first are line breaks of the text, so that rows know their lines
        start = b"\n" * (first[0] - 1) + first[1]
        start += b"" if second is None else b"\n" * (second[0] - first[0] - first[1].count(b"\n")) + second[1]
        data = start + stream.read(LONGEST_TEXT)
        if len(data) > LONGEST_TEXT:
            raise UserError(f"{path}: is one JSON text of more than 2 GiB; save it as JSONL, one object a line")
        yield from _whole(path, data.decode("utf-8", errors="surrogateescape"))
        return
    decoder = _Json()
    for number, raw in chain(head, lines):
        yield _decode(path, number, raw, decoder)


def _check_is_json(path: Path, first: bytes) -> None:
    """UserError if neither the first line nor the name says that a file is JSON."""
    name = path.name.lower()
    if first.lstrip()[:1] in (b"{", b"[") or _complete(first) is not None or ".json" in name or ".ndjson" in name:
        return
    if name.endswith(".parquet"):
        raise UserError(f"{path}: not a readable Parquet file: it does not begin as one")
    raise UserError(f"{path}: unknown file format; known: {', '.join(SUFFIXES)}, {', '.join(CSV)}")


def _lines(stream: BinaryIO, place: _Place) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers. Only line feeds end a line: JSON texts may hold other breaks.

    Of a line beyond LONGEST_LINE comes only its beginning, longer than that; the rest stays in the stream for whoever
    stops here, and is passed over by who goes on.
    """
    while raw := stream.readline(LONGEST_LINE + 1):
        place.line += 1
        number, long = place.line, len(raw) > LONGEST_LINE
        if raw.strip():
            yield number, raw.removeprefix(b"\xef\xbb\xbf")
        while long and not raw.endswith(b"\n") and raw:
            raw = stream.readline(LONGEST_LINE)


def _complete(raw: bytes) -> Any:
    """The value that a line holds; None if it holds none."""
    try:
        return json.loads(raw.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None


def _is_whole(first: bytes, second: bytes | None) -> bool:
    """Whether a file that begins with these lines is one JSON text, and not one value a line."""
    start, value = first.strip(), _complete(first)
    if value is not None:
        return second is None and isinstance(value, list | dict)
    if start[:1] == b"[":
        return True
    if start[:1] != b"{":
        return False
    if second is None:
        return len(first) > LONGEST_LINE and _LIST_IN_OBJECT.search(first[:1000]) is not None
    # a broken first row is followed by a row, or has but a comma too much; the first line of an indented text neither
    broken_row = _complete(second) is not None or _complete(start.rstrip(b",")) is not None
    return not broken_row and start[-1:] in (b"{", b"[", b",")


def _decode(path: Path, line: int, raw: bytes, decoder: _Json) -> Row:
    if len(raw) > LONGEST_LINE:
        return Row(str(path), line, None, Reason.TOO_LARGE, f"a line of more than {LONGEST_LINE:,} bytes")
    try:
        value = decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return Row(str(path), line, None, Reason.INVALID_UTF8)
    except json.JSONDecodeError as error:
        python = error.msg.startswith("Expecting property name") and b"{'" in raw
        why = "written by Python's str(), not as JSON" if python else f"{error.msg} at column {error.colno}"
        if raw.rstrip()[-2:] == b"},":
            why = "a comma behind the object"
        if b"\0" in raw:
            why = "NUL bytes, as a crash leaves them; fetch or write the file again"
        return Row(str(path), line, None, Reason.INVALID_JSON, why)
    except (ValueError, RecursionError):
        return Row(str(path), line, None, Reason.INVALID_JSON, "numbers or nesting beyond what can be read")
    return Row(str(path), line, value, remarks=decoder.remarks)


def _whole(path: Path, text: str) -> Iterator[Row]:
    """The rows of one JSON text: a list, an object that holds the list, or objects one after another."""
    reader = _Whole(path, text)
    reader.skip_space()
    if reader.next() == "[":
        yield from reader.rows()
    else:
        yield from reader.objects()
    reader.skip_space()
    if reader.next():
        raise UserError(f"{path}:{reader.line()}: text after the end of the JSON list")


class _Whole:
    """A place in a JSON text, and what stands there."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text, self._decoder = path, text, _Json()
        self._position, self._line, self._counted = 0, 1, 0

    def next(self) -> str:
        """The character at this place; "" at the end."""
        return self._text[self._position : self._position + 1]

    def skip_space(self) -> None:
        while self.next() in (" ", "\t", "\n", "\r"):
            self._position += 1

    def line(self) -> int:
        """The line of this place, from 1."""
        self._line += self._text.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._line

    def value(self) -> Any:
        """The value at this place, behind which the place then is."""
        try:
            value, self._position = self._decoder.decode_at(self._text, self._position)
        except json.JSONDecodeError as error:
            raise UserError(f"{self._path}:{error.lineno}: not valid JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self._path}:{self.line()}: JSON that cannot be read: {error}") from None
        return value

    def rows(self) -> Iterator[Row]:
        """The rows of the list at this place."""
        for line in self._entries("]"):
            start = self._position
            yield self._row(line, self.value(), start, self._decoder.remarks)

    def _row(self, line: int, value: Any, start: int, remarks: tuple[str, ...] = ()) -> Row:
        """A row that ends at this place. Bytes that are no UTF-8 were decoded as halves of surrogate pairs."""
        if re.compile("[\udc80-\udcff]").search(self._text, start, self._position) is not None:
            return Row(str(self._path), line, None, Reason.INVALID_UTF8)
        return Row(str(self._path), line, value, remarks=remarks)

    def objects(self) -> Iterator[Row]:
        """The rows of the object at this place, and of those that follow it without a comma."""
        while self.next() == "{":
            line, start, found, single = self.line(), self._position, dict[str, Any](), True
            lists: list[str] = []
            for _ in self._entries("}"):
                key = self.value()
                self.skip_space()
                if not isinstance(key, str) or self.next() != ":":
                    raise UserError(f"{self._path}:{self.line()}: not valid JSON: expected a key and a colon")
                self._position += 1
                self.skip_space()
                if key in LISTS and self._list_of_objects():
                    lists.append(key)
                    if len(lists) > 1:
                        both = " and ".join(lists)
                        raise UserError(
                            f"{self._path}: holds several lists of rows, {both}; save one in a file of its own"
                        )
                    single = False
                    yield from self.rows()
                else:
                    found[key] = self.value()
            if single and not any(found == {name: []} for name in LISTS):
                _check_by_rows(self._path, found)
                yield self._row(line, found, start)
            self.skip_space()

    def _list_of_objects(self) -> bool:
        return re.compile(r"\[\s*\{").match(self._text, self._position) is not None

    def _entries(self, end: str) -> Iterator[int]:
        """Stops at each entry of the list or object at this place, with its line, and at last behind its end."""
        self._position += 1
        self.skip_space()
        while self.next() != end:
            yield self.line()
            self.skip_space()
            kind = "list" if end == "]" else "object"
            if not self.next():
                raise UserError(
                    f"{self._path}:{self.line()}: ends within the {kind}: cut short, or without its {end!r}; fetch or "
                    "write the file again"
                )
            if self.next() not in (end, ","):
                raise UserError(
                    f"{self._path}:{self.line()}: not valid JSON: expected a comma or the end of the {kind}"
                )
            if self.next() == ",":
                self._position += 1
                self.skip_space()
        self._position += 1


def _check_by_rows(path: Path, found: dict[str, Any]) -> None:
    """UserError if a file holds its table by columns."""
    kinds = {type(value) for value in found.values()}
    by_list = kinds == {list} and all(not isinstance(value[0], dict) for value in found.values() if value)
    split = {"columns", "data"} <= found.keys()
    if (len(found) > 1 and (by_list or kinds == {dict})) or split:
        names = ", ".join(shown(name) for name in list(found)[:4])
        raise UserError(
            f"{path}: is JSON by columns or by index ({names}); save it by rows, with pandas `to_json(..., "
            "orient='records', lines=True)`"
        )


def _csv(path: Path, stream: BinaryIO, delimiter: str, place: _Place) -> Iterator[Row]:
    """The rows of a table whose first line names the columns. All values are texts."""
    csv.field_size_limit(LONGEST_LINE)
    text = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")
    header = text.readline(LONGEST_LINE)
    if delimiter not in header:  # spreadsheets write semicolons where the comma is in numbers; suffixes may be wrong
        delimiter = next((other for other in ";\t,|" if other in header), delimiter)
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        if len(set(names)) < len(names):
            raise UserError(f"{path}: two columns have one name ({', '.join(map(shown, names))})")
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        line = 2
        for cells in reader:
            place.line = reader.line_num + 1
            if len(cells) == len(names):
                yield Row(str(path), line, dict(zip(names, cells, strict=True)))
            elif cells:
                why = f"{len(cells)} cells, but the first line names {len(names)} columns"
                yield Row(str(path), line, None, Reason.INVALID_CSV, why)
            line = reader.line_num + 2
    except csv.Error as error:
        raise UserError(f"{path}: not a readable CSV file behind line {place.line}: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as table:
            if len(set(names := table.schema_arrow.names)) < len(names):
                raise UserError(f"{path}: two columns have one name ({', '.join(map(shown, names))})")
            for batch in table.iter_batches(batch_size=1000):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(str(path), number, value)
    except (OverflowError, LookupError) as error:  # times that Python has no words for
        raise UserError(
            f"{path}: row {number + 1} or one of the next 1,000 holds a value that cannot be read ({one_line(error)}); "
            "leave its column out, or save it as text"
        ) from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        behind = f" behind row {number}" if number else ""
        raise UserError(f"{path}: not a readable Parquet file{behind}: {one_line(error)}") from None
