"""Opens a file of text whatever it is packed in and however its text is encoded: what comes out is UTF-8, unpacked.

The first bytes decide, not the suffix: files are renamed, and browsers unpack what they save under the old name.
"""

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, cast

from qtuning.errors import UserError

PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
PARQUET = b"PAR1"
BYTE_ORDER_MARKS: dict[bytes, str] = {  # the longer ones first: UTF-32's begins like UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
ZIP = b"PK\x03\x04"
OF_TABLES = (b"[Content_Types].xml", b"_rels/", b"xl/", b"mimetypeapplication/vnd.oasis")
"""What ZIP archives of office programs begin with."""
NO_ROWS = {
    ZIP: "a ZIP archive; unpack it",
    b"\xd0\xcf\x11\xe0": "a table of old Excel; save it as CSV or Parquet",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"ARROW1": "an Arrow file; save it as Parquet (`to_parquet`)",
    b"\xff\xff\xff\xff": "an Arrow file; save it as Parquet (`to_parquet`)",
    b"\x04\x22\x4d\x18": "packed by LZ4; unpack it, or pack it with gzip, bzip2, xz or zstd",
    b"\x5d\x00\x00": "packed by an old LZMA; unpack it, or pack it with gzip, bzip2, xz or zstd",
    b"\xff\x06\x00\x00sNaPpY": "packed by Snappy; unpack it, or pack it with gzip, bzip2, xz or zstd",
    b"\x1f\x9d": "packed by compress; unpack it, or pack it with gzip, bzip2, xz or zstd",
    b"\x93NUMPY": "an array of NumPy; save it as Parquet or JSONL",
    b"\x89HDF": "an HDF5 file; save it as Parquet or JSONL",
    b"SQLite format 3": "an SQLite database; save the table as Parquet or JSONL",
    b"\x80\x02": "a pickle, which is never read; save it as Parquet or JSONL",
    b"\x80\x03": "a pickle, which is never read; save it as Parquet or JSONL",
    b"\x80\x04": "a pickle, which is never read; save it as Parquet or JSONL",
    b"\x80\x05": "a pickle, which is never read; save it as Parquet or JSONL",
    b"%PDF": "a PDF",
    b"version https://git-lfs": "a pointer of Git LFS, not the file; fetch it with `git lfs pull`",
    b"<!doctype html": "a web page; most likely the page of the file was saved instead of the file",
    b"<html": "a web page; most likely the page of the file was saved instead of the file",
    b"404: not found": "a server's answer that there is no such file; look at the address, and fetch it again",
    b"entry not found": "a server's answer that there is no such file; look at the address, and fetch it again",
    b"repository not found": "a server's answer that there is no such file; look at the address, and fetch it again",
    b"invalid username or password": "a server's refusal; log in, and fetch the file again",
    b"access to dataset": "a server's refusal; log in, and fetch the file again",
}
FREE, RATIO = 2**28, 100
"""Unpacked bytes that any file may have, and above them how many times its own size. Texts shrink 3 to 20 times; files
that are made to fill memory or disk, 1,000 times."""
BUFFER = 2**16
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def open_text(path: Path) -> BinaryIO:
    """The bytes of a text file: unpacked, in UTF-8, without byte order mark. UserError if it is no text.

    Reading may raise OSError, EOFError and the errors of the packers where the file is damaged, and UserError where it
    unpacks to far more than text does, or is not in the encoding that it begins with.
    """
    raw = open_raw(path)
    stream: BinaryIO = raw
    if (packed := _begins(head := raw.peek(512), PACKED)) is not None:
        stream = io.BufferedReader(_Bounded(_unpacked(raw, path, packed), path), BUFFER)
        head = cast(io.BufferedReader, stream).peek(512)
        if _begins(head, PACKED) or head.startswith(PARQUET):
            raise UserError(f"{path}: holds another packed file; unpack it once")
    if head.startswith(ZIP) and any(head.startswith(name, 30) for name in OF_TABLES):
        raise UserError(f"{path}: is a table of Excel or LibreOffice; save it as CSV or Parquet")
    if (what := _begins(head.lstrip()[:64].lower(), NO_ROWS) or _begins(head, NO_ROWS)) is not None:
        raise UserError(f"{path}: is {what}")
    if head[257:262] == b"ustar":
        raise UserError(f"{path}: is a tar archive; unpack it")
    if (encoding := _encoding(head)) is not None:
        stream = io.BufferedReader(_Recoded(stream, path, encoding), BUFFER)
    elif head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    elif _is_binary(head):
        raise UserError(f"{path}: is no text, but binary data of an unknown kind; save it as JSONL or Parquet")
    return stream


def open_raw(path: Path) -> Any:
    """A buffered reader of the bytes as they are. UserError if there are none to read."""
    try:
        return open(path, "rb", buffering=BUFFER)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _begins(head: bytes, known: dict[bytes, str]) -> str | None:
    return next((name for magic, name in known.items() if head.startswith(magic)), None)


def _unpacked(raw: BinaryIO, path: Path, packed: str) -> Any:
    if packed == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if packed == "bzip2":
        return bz2.BZ2File(raw)
    if packed == "xz":
        return lzma.LZMAFile(raw)
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.OSFile(os.fspath(path)), "zstd")


def _encoding(head: bytes) -> str | None:
    """The encoding of a text that is not UTF-8, from its byte order mark or from where its zeros are."""
    if (found := _begins(head, BYTE_ORDER_MARKS)) is not None:
        return found
    zeros = "".join("0" if byte == 0 else "x" for byte in head[:4])
    return {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}.get(zeros)


def _is_binary(head: bytes) -> bool:
    """Whether bytes are no text in any encoding: they hold control characters, and are not in UTF-8."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return _CONTROLS.search(head) is not None
    return False


class _Bounded(io.RawIOBase):
    """An unpacked stream that refuses to go on where it becomes far larger than texts do."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path, self._read = stream, path, 0
        self._most = max(FREE, RATIO * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read1(len(buffer))  # `read` loses what it had where the file is cut short
        self._read += len(data)
        if self._read > self._most:
            raise UserError(
                f"{self._path}: unpacks to more than {RATIO} times its size, as no text does; if you trust it, unpack "
                "it yourself"
            )
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """A stream of text in another encoding, as UTF-8."""

    def __init__(self, stream: BinaryIO, path: Path, encoding: str) -> None:
        self._stream, self._path, self._encoding = stream, path, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._waiting = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting:
            data = self._stream.read(BUFFER)
            try:
                self._waiting = self._decoder.decode(data, final=not data).encode()
            except UnicodeError:
                name = self._encoding.upper()
                raise UserError(f"{self._path}: begins as {name}, but is not valid {name}; save it as UTF-8") from None
            if not data:
                break
        count = min(len(buffer), len(self._waiting))
        buffer[:count], self._waiting = self._waiting[:count], self._waiting[count:]
        return count
