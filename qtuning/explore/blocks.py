"""Data inside a page: compressed, and in base64, so that no text of a sample can be taken for HTML or a script."""

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNED = 8  # bytes; a typed array of JavaScript begins at a multiple of the size of its elements


def text_block(value: Any) -> str:
    """A JSON value. Half a surrogate pair stays what it is, as an escape."""
    return _packed(json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii"))


def array_block(arrays: Mapping[str, npt.NDArray[np.generic]]) -> str:
    """Arrays by name: the length of a JSON header (4 bytes), the header, padding, and the arrays end to end.

    The header lists [name, type, start, length], with starts from the end of the padding.
    """
    header, parts, start = [], [], 0
    for name, array in arrays.items():
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        header.append([name, array.dtype.name, start, len(array)])
        parts.append(raw + b"\0" * (-len(raw) % ALIGNED))
        start += len(parts[-1])
    described = json.dumps(header, separators=(",", ":")).encode()
    described += b" " * (-(4 + len(described)) % ALIGNED)
    return _packed(len(described).to_bytes(4, "little") + described + b"".join(parts))


def encoded(raw: bytes | None) -> str | None:
    """Bytes inside a JSON value."""
    return None if raw is None else base64.b64encode(raw).decode()


def _packed(raw: bytes) -> str:
    # no time stamp: the same data gives the same page
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode()
