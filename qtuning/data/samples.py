"""A tokenised sample, and the stored train set: what `prepare` writes and everything else trains on and scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, overload

import numpy as np
import numpy.typing as npt

from qtuning.errors import UserError
from qtuning.experiment.cell import RatingColumn
from qtuning.experiment.truth import KINDS
from qtuning.files import atomic_path
from qtuning.manifest import FILES, check_files, read_sealed, reading, tell_unverified

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES, REPORT, TOKENS = "samples.parquet", "report.json", "tokens.int32"
TOKEN = np.dtype("<i4")
AGAIN = "prepare the train set again"


@dataclass(frozen=True)
class Sample:
    """One tokenised sample.

    number: its row in the source of the train set, from 0. tokens: [L] int64. prompt: how many of them are prompt
    (>= 1); the response is tokens[prompt:], and only it is scored and trained.
    """

    number: int
    tokens: "Tensor"
    prompt: int

    @cached_property
    def response_length(self) -> int:
        """|T_i|, the number of response positions."""
        return len(self.tokens) - self.prompt


@dataclass(frozen=True, eq=False)
class SampleList(Sequence[Sample]):
    """n samples whose tokens stay on the disk, mapped into memory: a sample is made when it is asked for.

    tokens: of all samples of the file, end to end. numbers, starts, lengths, prompts: int64 [n]; the number of each
    sample, where its tokens begin, how many there are, and how many of them are prompt.
    """

    tokens: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    prompts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: slice) -> "SampleList": ...

    def __getitem__(self, place: int | slice) -> "Sample | SampleList":
        if isinstance(place, slice):
            return self.at(np.arange(len(self))[place])
        import torch

        start = self.starts[place]
        # a copy, as int64: a sample is a few hundred tokens
        tokens = torch.from_numpy(self.tokens[start : start + self.lengths[place]].astype(np.int64))
        return Sample(int(self.numbers[place]), tokens, int(self.prompts[place]))

    def at(self, places: npt.NDArray[np.int64]) -> "SampleList":
        """The samples at these places, in this order."""
        columns = (column[places] for column in (self.numbers, self.starts, self.lengths, self.prompts))
        return SampleList(self.tokens, *columns)


@dataclass(frozen=True, eq=False)
class StoredSamples:
    """All n samples of a prepared train set, in the order of the source.

    instruction_characters: int64 [n], characters of each instruction. instruction_entropy: float64 [n], their Shannon
    entropy in nats (write_samples.py, `instruction`, `character_entropy`). errors: [n], places in each sample's tokens
    that are known to be wrong; None where the train set states none. kinds: int64 [n], places in truth.KINDS; None
    where the train set does not say it of every sample. ratings: float64 [n] by column (rating, complexity, quality),
    those that the train set gives.
    """

    samples: SampleList
    instruction_characters: npt.NDArray[np.int64]
    instruction_entropy: npt.NDArray[np.float64]
    errors: tuple[tuple[int, ...], ...] | None = None
    kinds: npt.NDArray[np.int64] | None = None
    ratings: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def read_report(folder: Path) -> dict[str, Any]:
    """The report of the train set prepared in `folder`; UserError if there is none, or if it is damaged."""
    try:
        return read_sealed(folder / REPORT, f"{AGAIN} (delete {folder})")
    except FileNotFoundError:
        raise UserError(f"{folder}: no finished train set ({REPORT} is missing); prepare it first") from None


def check_samples(folder: Path) -> dict[str, Any]:
    """The report of a train set, whose samples have the digest that it says; UserError if not."""
    report = read_report(folder)
    if (digests := report.get(FILES)) is None:
        tell_unverified(str(folder))
    else:
        check_files(folder, {SAMPLES: digests[SAMPLES]}, f"{AGAIN} (delete {folder})")
    return report


def load_samples(folder: Path) -> StoredSamples:
    """Read what `prepare` wrote to `folder`; UserError if that is missing, was not finished or is damaged."""
    import polars

    folder, again = Path(folder), f"{AGAIN} (delete {folder})"
    report = check_samples(folder)
    digests = report.get(FILES)
    with reading(folder / SAMPLES, again):
        stored = polars.scan_parquet(folder / SAMPLES)
        names = stored.collect_schema().names()
        table = stored.select(
            polars.col("input_ids").list.len().cast(polars.Int64).alias("length"),
            polars.exclude("input_ids", "id", "line"),
        ).collect(engine="streaming")
        if not (folder / TOKENS).exists():  # an older version prepared it
            write_tokens(folder)
    if digests is not None:
        check_files(folder, {TOKENS: digests[TOKENS]}, "delete it: it is made again of the samples")
    if not {"instruction_characters", "instruction_entropy"} <= set(names):
        raise UserError(f"{folder}: prepared by an older version, without statistics of the instructions; {again}")
    if table.height != (expected := report["used"]):
        raise UserError(f"{folder}: {SAMPLES} has {table.height} samples, but {REPORT} says {expected}; {again}")
    lengths = table["length"].to_numpy()
    tokens = np.memmap(folder / TOKENS, TOKEN, mode="r")
    if len(tokens) != lengths.sum():
        raise UserError(f"{folder}: {TOKENS} has {len(tokens)} tokens, but {SAMPLES} says {lengths.sum()}; {again}")
    named = table["kind"].unique().to_list()
    kinds = None
    if set(named) <= set(KINDS):
        kinds = table["kind"].replace_strict({kind: KINDS.index(kind) for kind in KINDS}, return_dtype=polars.Int64)
    return StoredSamples(
        SampleList(
            tokens,
            numbers=table["sample"].to_numpy(),
            starts=np.concatenate([[0], lengths[:-1].cumsum()]),
            lengths=lengths,
            prompts=table["prompt_length"].cast(polars.Int64).to_numpy(),
        ),
        instruction_characters=table["instruction_characters"].to_numpy(writable=True),
        instruction_entropy=table["instruction_entropy"].to_numpy(writable=True),
        errors=tuple(map(tuple, table["errors"].to_list())) if "errors" in table.columns else None,
        kinds=None if kinds is None else kinds.to_numpy(writable=True),
        ratings={name: table[name].to_numpy(writable=True) for name in get_args(RatingColumn) if name in table.columns},
    )


def write_tokens(folder: Path) -> None:
    """Write the tokens of all samples in `folder` end to end, as a file that can be mapped into memory."""
    import pyarrow.parquet

    samples = pyarrow.parquet.ParquetFile(folder / SAMPLES)
    with samples, atomic_path(folder / TOKENS) as temporary, temporary.open("wb") as handle:
        for batch in samples.iter_batches(batch_size=10_000, columns=["input_ids"]):
            batch.column(0).flatten().to_numpy().astype(TOKEN, copy=False).tofile(handle)
