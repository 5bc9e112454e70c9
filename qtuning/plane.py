"""The Error-Uncertainty plane: PPL, Ent -> quadrants (method.md, Stage 1). No model, no I/O.

All functions take [B] float64 tensors of one selection batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LEVEL = 0.49  # quantile levels a and b are searched in [0, 0.49]
MAX_ITERATIONS = 10
TOLERANCE = 0.01  # on the kept fraction

NOISE, MISCONCEPTION, REDUNDANT, CALIBRATION = 1, 2, 3, 4
BETWEEN = 0  # neither tail: such a sample is in no quadrant of the two-tail reading


@dataclass(frozen=True)
class Thresholds:
    """Lines on the plane and how they were found.

    level: the common quantile level a = b. ppl_low = quantile(PPL, a), ppl_high = quantile(PPL, 1 - a), likewise for
    entropy. kept: the share of samples in Q2 and Q4. converged: |kept - r_sample| <= 0.01.
    """

    level: float
    ppl_low: float
    ppl_high: float
    ent_low: float
    ent_high: float
    kept: float
    iterations: int
    converged: bool


def quadrants(ppl: Tensor, ent: Tensor, level: float) -> Tensor:
    """[B] int8 in {0, 1, 2, 3, 4}: the quadrant of each sample with two tails at quantile `level` (reading A5, D).

    Q2 = { PPL > quantile(PPL, 1-a) and Ent <= quantile(Ent, b) }
    Q4 = { PPL <= quantile(PPL, a)  and Ent >  quantile(Ent, 1-b) }
    and, for the record, Q1 (both high) and Q3 (both low) with the same lines; the rest is BETWEEN.
    """
    high_error, low_error = ppl > _quantile(ppl, 1 - level), ppl <= _quantile(ppl, level)
    high_uncertainty, low_uncertainty = ent > _quantile(ent, 1 - level), ent <= _quantile(ent, level)
    result = torch.full(ppl.shape, BETWEEN, dtype=torch.int8)
    result[high_error & high_uncertainty] = NOISE
    result[high_error & low_uncertainty] = MISCONCEPTION
    result[low_error & low_uncertainty] = REDUNDANT
    result[low_error & high_uncertainty] = CALIBRATION
    return result


def find_thresholds(ppl: Tensor, ent: Tensor, sample_ratio: float) -> Thresholds:
    """Bisect the common level a = b in [0, 0.49] until Q2 and Q4 hold the share `sample_ratio` of the batch.

    Kept fraction too small -> raise the level, too large -> lower it; at most 10 iterations, tolerance 0.01. In a
    small batch the kept fraction moves in steps of 1/B, so the search often ends without converging; the last level
    tried is used and the supplement or the trimming does the rest.
    """
    low, high = 0.0, MAX_LEVEL
    iterations = 0
    while iterations < MAX_ITERATIONS:
        iterations += 1
        level = (low + high) / 2
        quadrant = quadrants(ppl, ent, level)
        kept = float(((quadrant == MISCONCEPTION) | (quadrant == CALIBRATION)).double().mean())
        converged = abs(kept - sample_ratio) <= TOLERANCE
        if converged:
            break
        if kept < sample_ratio:
            low = level
        else:
            high = level
    return Thresholds(
        level=level,
        ppl_low=_quantile(ppl, level),
        ppl_high=_quantile(ppl, 1 - level),
        ent_low=_quantile(ent, level),
        ent_high=_quantile(ent, 1 - level),
        kept=kept,
        iterations=iterations,
        converged=converged,
    )


def min_max(values: Tensor) -> Tensor:
    """n(.): scaled to [0, 1] over the batch; all zero where the values are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def _quantile(values: Tensor, level: float) -> float:
    """Linear interpolation between order statistics."""
    return float(torch.quantile(values, level))
