"""A tokenised sample, and the stored train set: what `prepare` writes and everything else trains on and scores."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import numpy.typing as npt

from qtuning.errors import UserError
from qtuning.experiment.cell import RatingColumn
from qtuning.experiment.truth import KINDS
from qtuning.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES, REPORT = "samples.parquet", "report.json"


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
class StoredSamples:
    """All n samples of a prepared train set, in the order of the source.

    instruction_characters: int64 [n], characters of each instruction. instruction_entropy: float64 [n], their Shannon
    entropy in nats (prepare.py, `instruction` and `character_entropy`). errors: [n], places in each sample's tokens
    that are known to be wrong; None where the train set states none. kinds: int64 [n], places in truth.KINDS; None
    where the train set does not say it of every sample. ratings: float64 [n] by column (rating, complexity, quality),
    those that the train set gives.
    """

    samples: list[Sample]
    instruction_characters: npt.NDArray[np.int64]
    instruction_entropy: npt.NDArray[np.float64]
    errors: tuple[tuple[int, ...], ...] | None = None
    kinds: npt.NDArray[np.int64] | None = None
    ratings: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def load_samples(folder: Path) -> StoredSamples:
    """Read what `prepare` wrote to `folder`; UserError if that is missing or was not finished."""
    import polars
    import torch

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
    named = table["kind"].to_list()
    codes = [KINDS.index(kind) for kind in named] if set(named) <= set(KINDS) else None
    # one conversion for all samples; each one's tokens are a view of it
    tokens = torch.from_numpy(table["input_ids"].explode().to_numpy().astype(np.int64))
    parts = tokens.split(table["input_ids"].list.len().to_list())
    rows = zip(table["sample"], parts, table["prompt_length"], strict=True)
    return StoredSamples(
        [Sample(number, part, prompt) for number, part, prompt in rows],
        instruction_characters=table["instruction_characters"].to_numpy(writable=True),
        instruction_entropy=table["instruction_entropy"].to_numpy(writable=True),
        errors=tuple(map(tuple, table["errors"].to_list())) if "errors" in table.columns else None,
        kinds=None if codes is None else np.array(codes, dtype=np.int64),
        ratings={name: table[name].to_numpy(writable=True) for name in get_args(RatingColumn) if name in table.columns},
    )
