"""Writes the samples of a train set, batch by batch, and gathers what its report says of them.

A train set may be larger than memory: of a sample that is written, a few numbers are kept.
"""

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qtuning.data.rows import Example, Row
from qtuning.data.tokenise import Tokenised
from qtuning.experiment.cell import RatingColumn
from qtuning.files import atomic_path, canonical_json

if TYPE_CHECKING:
    import pyarrow.parquet

GROUP = 10_000  # samples of a row group, at least


@dataclass(frozen=True)
class Candidate:
    """A row that is an example. sample: its number in the source, from 0, bad rows counted."""

    sample: int
    row: Row
    example: Example


Usable = tuple[Candidate, Tokenised]
Ratings = Mapping[RatingColumn, Mapping[int, float]]
"""Column -> number of a sample -> its rating."""


class SampleWriter:
    """A `samples.parquet` that grows, one row a sample, and the statistics of what is in it. highest_id: of a token.

    instruction_characters, instruction_entropy: length and character entropy of its `instruction`. errors: only if the
    train set states errors, the places in input_ids of the tokens that are wrong. ratings: columns that it gives.
    """

    def __init__(self, path: Path, errors: bool) -> None:
        self._path, self._errors = path, errors
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._waiting: list[Usable] = []
        self._contents = hashlib.sha256()
        self._digests = bytearray()  # 16 bytes a sample
        self._prompts, self._responses = array("q"), array("q")
        self._truncated = 0
        self.highest_id = 0
        self._kinds: Counter[str] = Counter()
        self._slips = 0
        self._ratings: dict[RatingColumn, array[float]] = {}

    @classmethod
    @contextmanager
    def open(cls, path: Path, errors: bool) -> Iterator["SampleWriter"]:
        """The file is there, whole, when the block ends without an error. errors: the train set states errors."""
        with atomic_path(path) as temporary:
            writer = cls(temporary, errors)
            yield writer
            writer._close()

    def add(self, used: Sequence[Usable], ratings: Ratings) -> None:
        """Samples in the order of the source, and their ratings; the same columns every time."""
        for candidate, tokenised in used:
            content = _content(candidate.example).encode()
            self._contents.update(content + b"\n")
            self._digests += hashlib.blake2b(content, digest_size=16).digest()
            self._prompts.append(tokenised.prompt)
            self._responses.append(len(tokenised.tokens) - tokenised.prompt)
            self._truncated += tokenised.truncated
            self.highest_id = max(self.highest_id, *tokenised.tokens)
            kind = str(candidate.example.kind)
            self._kinds[kind] += 1
            self._slips += kind == "clean" and bool(candidate.example.errors)
        for name, values in ratings.items():
            self._ratings.setdefault(name, array("d")).extend(values[candidate.sample] for candidate, _ in used)
        self._waiting += used
        if len(self._waiting) >= GROUP:
            self._write()

    def planted(self) -> dict[str, int]:
        """How many samples there are of each kind, and how many of the clean ones have a slip."""
        return dict(self._kinds) | {"slips": self._slips}

    def statistics(self) -> dict[str, Any]:
        """Of all samples so far: what the report says of them."""
        digest = self._contents.copy()
        for name, values in self._ratings.items():
            digest.update(canonical_json([name, list(values)]).encode() + b"\n")
        distinct = np.unique(np.frombuffer(self._digests, dtype=np.uint64).reshape(-1, 2), axis=0)
        return {
            "used": len(self._prompts),
            "prompt_tokens": _distribution(self._prompts),
            "response_tokens": _distribution(self._responses),
            "truncated_responses": self._truncated,
            "exact_duplicates": len(self._prompts) - len(distinct),
            "data_fingerprint": digest.hexdigest(),
        }

    def _close(self) -> None:
        if self._waiting or self._writer is None:
            self._write()
        assert self._writer is not None
        self._writer.close()

    def _write(self) -> None:
        """One row group: the samples that wait."""
        import polars
        import pyarrow.parquet

        candidates, tokenised = zip(*self._waiting, strict=True) if self._waiting else ((), ())
        instructions = [instruction(candidate.example) for candidate in candidates]
        tokens_type = polars.List(polars.Int32)
        columns = [
            polars.Series("sample", [candidate.sample for candidate in candidates], polars.Int64),
            polars.Series("line", [candidate.row.line for candidate in candidates], polars.Int64),
            polars.Series("id", [candidate.example.id for candidate in candidates], polars.String),
            polars.Series("kind", [candidate.example.kind for candidate in candidates], polars.String),
            polars.Series("input_ids", [sample.tokens for sample in tokenised], tokens_type),
            polars.Series("prompt_length", [sample.prompt for sample in tokenised], polars.Int32),
            polars.Series("instruction_characters", [len(text) for text in instructions], polars.Int64),
            polars.Series("instruction_entropy", [character_entropy(text) for text in instructions], polars.Float64),
        ]
        if self._errors:
            columns.append(polars.Series("errors", [list(sample.marked) for sample in tokenised], tokens_type))
        for name, values in self._ratings.items():
            columns.append(polars.Series(name, values[len(values) - len(candidates) :], polars.Float64))
        table = polars.DataFrame(columns).to_arrow()
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)
        self._waiting = []


def instruction(example: Example) -> str:
    """The text that the `-history` baselines look at: the last user turn, as the row has it.

    For alpaca rows that is the instruction column alone, without `input`.
    """
    return example.prompt[-1].content


def character_entropy(text: str) -> float:
    """Shannon entropy of the characters (code points) in nats: -sum_c f_c log f_c, with frequencies f_c."""
    # fsum is exact, so the order of the characters does not matter, and equal frequencies have equal entropies
    shares = [count / len(text) for count in Counter(text).values()]
    return math.fsum(share * math.log(1 / share) for share in shares)


def _content(example: Example) -> str:
    """The texts of an example: not its id or kind, and not how the file spelled it."""
    turns = [[message.role, message.content] for message in example.prompt]
    return canonical_json({"prompt": turns, "input": example.input, "response": example.response})


def _distribution(values: Sequence[int]) -> dict[str, float]:
    """min, median and 95th percentile (both interpolated), max, total."""
    found = np.asarray(values, dtype=np.int64)
    return {
        "min": int(found.min()),
        "median": float(np.median(found)),
        "p95": float(np.percentile(found, 95)),
        "max": int(found.max()),
        "total": int(found.sum()),
    }
