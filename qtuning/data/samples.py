"""The tokenised train set as the trainer reads it: a few flat arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qtuning.errors import UserError
from qtuning.files import read_json

SAMPLES, REPORT = "samples.parquet", "report.json"


@dataclass(frozen=True)
class Sample:
    """One training sample. input_ids: int32 [length]; the first `prompt_length` of them are the prompt."""

    sample: int
    input_ids: npt.NDArray[np.int32]
    prompt_length: int
    kind: str | None


@dataclass(frozen=True, eq=False)
class Samples:
    """All samples of a tokenised train set, in the order of the source.

    ids: int64 [n], 0-based row number in the source. tokens: int32 [total], all token ids one after the other; sample i
    is tokens[offsets[i] : offsets[i + 1]]. offsets: int64 [n + 1]. prompt_lengths: int32 [n]. kinds: [n], the kind of
    each sample where the train set states one. instruction_characters: int64 [n], characters of each instruction.
    instruction_entropy: float64 [n], their Shannon entropy in nats (prepare.py, `instruction`, `character_entropy`).
    errors: [n], places in each sample's input_ids of tokens known to be wrong; None where the train set states none.
    """

    ids: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    prompt_lengths: npt.NDArray[np.int32]
    kinds: tuple[str | None, ...]
    instruction_characters: npt.NDArray[np.int64]
    instruction_entropy: npt.NDArray[np.float64]
    errors: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Sample at a position (not: of an id); its input_ids are a view."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        start, stop = self.offsets[index], self.offsets[index + 1]
        return Sample(int(self.ids[index]), self.tokens[start:stop], int(self.prompt_lengths[index]), self.kinds[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 [n]: tokens of each sample."""
        return np.diff(self.offsets)

    @property
    def response_lengths(self) -> npt.NDArray[np.int64]:
        """int64 [n]: response tokens of each sample, at least 1."""
        return self.lengths - self.prompt_lengths


def load(folder: Path) -> Samples:
    """Read what `prepare` wrote to `folder`; UserError if that is missing or was not finished."""
    import polars

    folder = Path(folder)
    if not (folder / REPORT).exists():
        raise UserError(f"{folder}: no finished train set ({REPORT} is missing); prepare it first")
    try:
        table = polars.read_parquet(folder / SAMPLES)
    except (polars.exceptions.PolarsError, OSError) as error:
        raise UserError(
            f"{folder / SAMPLES}: cannot be read ({error}); delete the folder and prepare it again"
        ) from None
    if not {"instruction_characters", "instruction_entropy"} <= set(table.columns):
        raise UserError(
            f"{folder}: prepared by an older version, without statistics of the instructions; delete the folder and "
            "prepare it again"
        )
    expected = read_json(folder / REPORT)["used"]
    if table.height != expected:
        raise UserError(
            f"{folder}: {SAMPLES} has {table.height} samples, but {REPORT} says {expected}; delete the folder and "
            "prepare it again"
        )
    offsets = np.zeros(table.height + 1, dtype=np.int64)
    np.cumsum(table["input_ids"].list.len().to_numpy(), out=offsets[1:])
    return Samples(
        ids=table["sample"].to_numpy(writable=True),
        tokens=table["input_ids"].explode().to_numpy(writable=True),
        offsets=offsets,
        prompt_lengths=table["prompt_length"].to_numpy(writable=True),
        kinds=tuple(table["kind"].to_list()),
        instruction_characters=table["instruction_characters"].to_numpy(writable=True),
        instruction_entropy=table["instruction_entropy"].to_numpy(writable=True),
        errors=tuple(map(tuple, table["errors"].to_list())) if "errors" in table.columns else None,
    )
