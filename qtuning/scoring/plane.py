"""The Error-Uncertainty plane: from PPL and Ent to quadrants (method.md, Stage 1; Algorithm 1, lines 5 to 16).

Everything here works on one selection batch of B samples: [B] float64 tensors of PPL_i (eq. 4) and Ent_i (eq. 5).
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qtuning.experiment.quadrants import (
    BETWEEN,
    CALIBRATION,
    MISCONCEPTION,
    QUADRANTS,
    REDUNDANT,
    Naming,
)

MAX_LEVEL = 0.49  # quantile levels a and b are searched in [0, 0.49]
ITERATIONS = 10  # of the search; Algorithm 1 fixes a number ("typically < 10") that it does not name
TOLERANCE = 0.01  # on the kept fraction, where the search is said to have converged

Lines = Literal["two-tails", "midpoint", "lean"]  # reading A5
Quantile = Literal["linear", "lower-step"]  # reading A14
Search = Literal["fixed", "tolerance"]  # reading A17

KEPT = (MISCONCEPTION, CALIBRATION)
"""The quadrants whose samples stay (Algorithm 1, line 17)."""


@dataclass(frozen=True)
class Thresholds:
    """The lines on the plane, and what they keep.

    level: the common quantile level a = b. ppl_low, ppl_high: error is low at or below the first and high above the
    second; ent_low and ent_high divide uncertainty alike. kept: the share of the samples that the lines keep.
    converged: |kept - r_sample| <= 0.01.
    """

    level: float
    converged: bool
    ppl_low: float
    ppl_high: float
    ent_low: float
    ent_high: float
    kept: float


class Plane:
    """A selection batch on the plane.

    ppl, ent: [B] float64. naming: reading A1. thresholds: reading A5. quantile: reading A14. kept: the quadrants whose
    samples stay: Q2 and Q4, and in tables 4 and 15 one more.
    """

    def __init__(
        self,
        ppl: Tensor,
        ent: Tensor,
        naming: Naming = "figure",
        thresholds: Lines = "two-tails",
        quantile: Quantile = "linear",
        kept: Collection[int] = KEPT,
    ) -> None:
        self.thresholds = thresholds
        self._quantile = _QUANTILES[quantile]
        # numpy, whose calls on a few samples cost a fraction of torch's: the search makes a hundred of them. Sorted
        # once for all quantiles
        self._axes = ppl.numpy(), ent.numpy()
        self._sorted = [np.sort(values).tolist() for values in self._axes]
        self._numbers = _numbers(naming, thresholds)
        self._kept = np.isin(self._numbers, list(kept))

    @property
    def spread(self) -> bool:
        """Whether the samples differ in PPL and also in entropy. If not, the plane says little."""
        return all(values[0] < values[-1] for values in self._sorted)

    def lines(self, level: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """(low, high) of PPL and of entropy: values <= low are low, values > high are high (reading A5).

        two-tails (D), lean: quantile(level) and quantile(1 - level); values between them are neither low nor high.
        midpoint: one line halfway between these quantiles, given twice, so that every value is low or high.
        """
        ppl, ent = ((self._quantile(values, level), self._quantile(values, 1 - level)) for values in self._sorted)
        if self.thresholds == "midpoint":
            ppl, ent = ((low + (high - low) / 2,) * 2 for low, high in (ppl, ent))
        return ppl, ent

    def quadrants(self, level: float) -> Tensor:
        """[B] int8: the quadrant of each sample (1 to 4, or BETWEEN) at the quantile level a = b = `level`.

        With the default readings:
        Q2 = { PPL > quantile(PPL, 1-a) and Ent <= quantile(Ent, b) }
        Q4 = { PPL <= quantile(PPL, a)  and Ent >  quantile(Ent, 1-b) }
        With the same lines Q1 is high in both and Q3 low in both; all other samples are BETWEEN. Reading A1, `text`,
        swaps the names of the two quadrants of high error: Q2 has high entropy and Q1 low entropy. Reading A5, `lean`,
        assigns the samples between the lines: high PPL to Q2; middle PPL and low entropy, or low PPL, to Q3; the
        others to Q4.
        """
        return torch.from_numpy(self._numbers[self._bands(level)])

    def search(self, sample_ratio: float, ends: Search = "fixed") -> Thresholds:
        """Bisect the common level a = b in [0, 0.49] for the lines that keep the share `sample_ratio` of the batch.

        Algorithm 1, lines 5 to 16. A kept fraction below `sample_ratio` raises the level, any other lowers it. The
        last level tried counts. ends (A17): `fixed` makes 10 iterations; `tolerance` stops earlier where the fraction
        is within 0.01. In a small batch the fraction moves in steps of 1/B, so the search often ends without
        converging; the supplement and the reading of A6 do the rest.
        """
        low, high, count = 0.0, MAX_LEVEL, len(self._axes[0])
        for _ in range(ITERATIONS):
            level = (low + high) / 2
            kept = int(np.count_nonzero(self._kept[self._bands(level)])) / count
            converged = round(abs(kept - sample_ratio), 9) <= TOLERANCE
            if converged and ends == "tolerance":
                break
            if kept < sample_ratio:
                low = level
            else:
                high = level
        ppl, ent = self.lines(level)
        return Thresholds(level, converged, *ppl, *ent, kept)

    def _bands(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """([B], [B]) of error and of uncertainty: 0 low, 1 between, 2 high."""
        # searchsorted counts the lines below a value; a value on a line is not above it
        error_lines, uncertainty_lines = np.array(self.lines(level))
        error, uncertainty = self._axes
        return error_lines.searchsorted(error), uncertainty_lines.searchsorted(uncertainty)


def min_max(values: Tensor) -> Tensor:
    """n(.) of Algorithm 1, line 19: the values scaled to [0, 1] over the batch; zeros if all are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def ranks(values: Tensor) -> Tensor:
    """[B] float64: ranks from 0 for the lowest to B - 1 for the highest; equal values share the mean of their ranks.

    n(.) of reading A10, `rank`, is rank / (B - 1). The division is left out, because without it ranks and their
    differences are exact, and it changes neither order nor sign.
    """
    below = (values[:, None] > values[None, :]).sum(dim=1)
    equal = (values[:, None] == values[None, :]).sum(dim=1)
    return below + (equal - 1).double() / 2


def _numbers(naming: Naming, thresholds: Lines) -> np.ndarray:
    """[3, 3] int8: the quadrant at [error, uncertainty], each 0 low, 1 between, 2 high."""
    numbers = np.full((3, 3), BETWEEN, np.int8)
    if thresholds == "lean":
        numbers[1, 1:] = CALIBRATION
        numbers[2, 1] = MISCONCEPTION
        numbers[0, 1] = numbers[1, 0] = REDUNDANT
    for quadrant in QUADRANTS[naming]:
        numbers[2 * quadrant.high_error, 2 * quadrant.high_uncertainty] = quadrant.number
    return numbers


def _interpolated(values: Sequence[float], level: float) -> float:
    """A14, `linear`: the quantile of ascending values by linear interpolation, rounded as torch.quantile rounds it."""
    position = level * (len(values) - 1)
    below = int(position)
    weight, low, high = position - below, values[below], values[min(below + 1, len(values) - 1)]
    # from the nearer end, as torch does: the two forms differ in the last bit, and a sample may lie exactly on the line
    return low + weight * (high - low) if weight < 0.5 else high - (high - low) * (1 - weight)


def _lower_step(values: Sequence[float], level: float) -> float:
    """A14, `lower-step`: the smallest of ascending values with at least the share `level` at or below it."""
    # rounded first: 400 * (1 - 0.3675) is 253, and a little more in floating point
    return values[max(0, math.ceil(round(level * len(values), 9)) - 1)]


_QUANTILES: dict[Quantile, Callable[[Sequence[float], float], float]] = {
    "linear": _interpolated,
    "lower-step": _lower_step,
}
