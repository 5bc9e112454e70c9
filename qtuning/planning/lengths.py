"""How long the samples of a train set are: counted where it has been prepared, else assumed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtuning.config import Cell
from qtuning.planning.assumptions import Assumptions

POINTS = 512  # lengths that stand for those of an assumed train set
PROMPT_SPREAD = (
    0.6  # of prompts, where only the spread of responses is assumed: between the 0.4 and 1.2 of five public sets
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lengths:
    """prompts, responses: [n], tokens; each entry stands for `weight` samples. counted: of a prepared train set."""

    prompts: Array
    responses: Array
    weight: float
    counted: bool

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return round(len(self.prompts) * self.weight)

    @property
    def tokens(self) -> Array:
        """[n]: prompt and response."""
        return self.prompts + self.responses


def lengths_of(cell: Cell, samples: Path, assumptions: Assumptions) -> Lengths:
    """Lengths of a cell's train set. samples: the folder where it is, or would be, prepared (`Layout.samples`)."""
    assert cell.train_set is not None and cell.training is not None
    if (samples / "report.json").is_file() and (samples / "samples.parquet").is_file():
        return _counted(samples / "samples.parquet")
    guess, _ = assumptions.train_set(cell.train_set.name)
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
    return Lengths(prompts, np.minimum(responses, cutoff - prompts), rows / points, counted=False)


def _log_normal(mean: float, spread: float, points: int) -> Array:
    """[points]: quantiles of the log-normal distribution, scaled to the mean."""
    from statistics import NormalDist

    middles = (np.arange(points) + 0.5) / points
    normal = np.array([NormalDist().inv_cdf(share) for share in middles])
    values = np.exp(normal * np.sqrt(np.log1p(spread**2)))
    scaled: Array = values * (mean / values.mean())
    return scaled


def _counted(path: Path) -> Lengths:
    import polars as pl

    columns = (pl.col("prompt_length"), pl.col("input_ids").list.len().alias("length"))
    table: Any = pl.scan_parquet(path).select(*columns).collect()
    prompts = table["prompt_length"].to_numpy().astype(np.float64)
    return Lengths(prompts, table["length"].to_numpy().astype(np.float64) - prompts, 1.0, counted=True)
