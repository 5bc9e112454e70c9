"""How long the samples of a train set are: counted where it has been prepared, by its characters where its file is
here, else assumed."""

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qtuning.data.parse import parse_row
from qtuning.data.rows import Example
from qtuning.data.sources import read_rows
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, FileSource, Template
from qtuning.manifest import reading
from qtuning.plan.assumptions import Assumptions

POINTS = 512  # lengths that stand for those of an assumed train set
# spread of prompts, where only that of responses is assumed: between the 0.4 and 1.2 of five public sets
PROMPT_SPREAD = 0.6
CHARACTERS = 4.2  # of a token, in English text
WRAPPING: dict[Template, int] = {"plain": 1, "alpaca": 40, "chat": 20}  # tokens that a template adds to a prompt

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lengths:
    """prompts, responses: [n], tokens; each entry stands for `weight` samples.

    basis: tokens of the prepared train set, characters of its file, or what planning.yaml says.
    """

    prompts: Array
    responses: Array
    weight: float
    basis: Literal["tokens", "characters", "assumed"]

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return round(len(self.prompts) * self.weight)

    @property
    def tokens(self) -> Array:
        """[n]: prompt and response."""
        return self.prompts + self.responses


def lengths_of(cell: Cell, samples: Path, assumptions: Assumptions, data_dir: Path | None = None) -> Lengths:
    """Lengths of a cell's train set. samples: the folder where it is, or would be, prepared (`ResultPaths.samples`).

    UserError if it is a local file that is not there.
    """
    assert cell.train_set is not None and cell.training is not None
    if (samples / "report.json").is_file() and (samples / "samples.parquet").is_file():
        return counted(samples / "samples.parquet")
    source = cell.train_set.source
    if isinstance(source, FileSource) and (source.kind == "path" or (source.kind == "data-dir" and data_dir)):
        return _by_characters(cell, data_dir)
    guess = assumptions.train_set(cell.train_set.name)
    rows = guess.rows if cell.limit_train is None else min(cell.limit_train, guess.rows)
    return assumed(rows, guess.prompt_tokens, guess.response_tokens, guess.spread, PROMPT_SPREAD, cell.training.cutoff)


def assumed(rows: int, prompt: float, response: float, spread: float, prompt_spread: float, cutoff: int) -> Lengths:
    """Log-normal lengths of these means and spreads, prompt and response independent, responses cut at `cutoff`.

    Deterministic: quantiles in the middle of equal shares, those of the prompts in a fixed shuffled order.
    """
    points = min(POINTS, rows)
    order = np.random.default_rng(0).permutation(points)
    responses = np.maximum(1.0, _log_normal(response, spread, points))
    prompts = np.clip(_log_normal(prompt, prompt_spread, points)[order], 1.0, cutoff - 1.0)
    return Lengths(prompts, np.minimum(responses, cutoff - prompts), rows / points, "assumed")


def _by_characters(cell: Cell, data_dir: Path | None) -> Lengths:
    """Those of all usable rows of a local train set, cut as preparation cuts them."""
    assert cell.train_set is not None and cell.training is not None
    examples = (parse_row(row, cell.train_set) for row in read_rows(cell.train_set, data_dir=data_dir))
    sizes = [
        (sum(len(turn.content) for turn in example.prompt) + len(example.input), len(example.response))
        for example in examples
        if isinstance(example, Example)
    ]
    if not sizes:
        source: Any = cell.train_set.source
        raise UserError(f"train set {cell.train_set.name}: {source.file}: no usable row")
    prompts, responses = np.ceil(np.array(sizes).T / CHARACTERS)
    rows = len(sizes) if cell.limit_train is None else min(cell.limit_train, len(sizes))
    prompts = np.clip(prompts + WRAPPING[cell.model.template], 1.0, cell.training.cutoff - 1.0)
    responses = np.minimum(responses + 1, cell.training.cutoff - prompts)  # one token more ends a response
    return Lengths(prompts, responses, rows / len(sizes), "characters")


def _log_normal(mean: float, spread: float, points: int) -> Array:
    """[points]: quantiles of the log-normal distribution, scaled to the mean."""
    normal = np.array([NormalDist().inv_cdf((point + 0.5) / points) for point in range(points)])
    values: Array = np.exp(normal * np.sqrt(np.log1p(spread**2)))
    return values * (mean / values.mean())


def counted(path: Path) -> Lengths:
    """Those of a prepared train set. path: its samples.parquet. UserError if it is damaged."""
    import polars as pl

    columns = [pl.col("prompt_length").cast(float), pl.col("input_ids").list.len().cast(float).alias("length")]
    with reading(path, f"delete {path.parent} and run again"):
        prompts, tokens = pl.scan_parquet(path).select(columns).collect(engine="streaming").to_numpy().T
    return Lengths(prompts, tokens - prompts, 1.0, "tokens")
