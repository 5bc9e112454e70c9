"""The Error-Uncertainty plane against the plain reference."""

import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning import plane

# few distinct values make ties; perplexities reach exp(600)
PPL = st.sampled_from([1.0, 1.0 + 2**-20, 1.5, 2.0, 7.25, 1e3, 1e38, math.exp(600.0)]) | st.integers(1, 4000).map(
    lambda n: n / 8
)
ENT = st.sampled_from([0.0, 2**-30, 0.5, 1.0, 12.5]) | st.integers(0, 4000).map(lambda n: n / 256)
PLANE = st.lists(st.tuples(PPL, ENT), min_size=1, max_size=40).map(lambda rows: tuple(zip(*rows, strict=True)))
RATIO = st.sampled_from([0.0078125, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0]) | st.floats(1e-6, 1.0)


def tensors(ppl: tuple[float, ...], ent: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(ppl, dtype=torch.float64), torch.tensor(ent, dtype=torch.float64)


@settings(max_examples=300, deadline=None)
@given(PLANE, st.integers(0, 490).map(lambda n: n / 1000))
def test_quadrants(points: tuple[tuple[float, ...], tuple[float, ...]], level: float) -> None:
    result = plane.quadrants(*tensors(*points), level)
    assert result.dtype == torch.int8
    assert result.tolist() == oracles.quadrant(*points, level)


def test_quadrants_by_hand() -> None:
    """Two tails of a quarter: 1 and 2 are low, 4 and 5 high (quantiles 2 and 4), 3 is neither."""
    ppl = (1.0, 1.0, 5.0, 5.0, 3.0)
    ent = (0.1, 0.9, 0.1, 0.9, 0.5)
    # the quantile 1/4 of (1, 1, 3, 5, 5) is 1 and 3/4 is 5, so nothing is above the line: high error is strict
    assert plane.quadrants(*tensors(ppl, ent), 0.25).tolist() == [plane.REDUNDANT, 0, 0, 0, 0]
    # a level further out puts the line between 3 and 5
    assert plane.quadrants(*tensors(ppl, ent), 0.45).tolist() == [
        plane.REDUNDANT,
        plane.CALIBRATION,
        plane.MISCONCEPTION,
        plane.NOISE,
        plane.BETWEEN,
    ]


@settings(max_examples=300, deadline=None)
@given(PLANE, RATIO)
def test_search(points: tuple[tuple[float, ...], tuple[float, ...]], ratio: float) -> None:
    ppl, ent = points
    found = plane.find_thresholds(*tensors(*points), ratio)
    truth = oracles.search(ppl, ent, ratio)
    assert (found.level, found.kept, found.iterations, found.converged) == (
        truth.level,
        truth.kept,
        truth.iterations,
        truth.converged,
    )
    assert 0 <= found.level <= 0.49 and 1 <= found.iterations <= 10
    assert found.converged == (abs(found.kept - ratio) <= 0.01)
    for line, axis, level in (
        (found.ppl_low, ppl, found.level),
        (found.ppl_high, ppl, 1 - found.level),
        (found.ent_low, ent, found.level),
        (found.ent_high, ent, 1 - found.level),
    ):
        assert line == pytest.approx(oracles.quantile(axis, level), rel=1e-12)


def test_search_on_plateaus_ends_after_ten_trials() -> None:
    """Equal samples are in no quadrant at any level, so no share but zero can be reached."""
    found = plane.find_thresholds(*tensors((2.0,) * 8, (1.0,) * 8), 0.5)
    assert (found.kept, found.iterations, found.converged) == (0.0, 10, False)
    assert found.level == pytest.approx(0.49, abs=1e-3)


def test_search_on_a_large_batch_converges() -> None:
    rng = torch.Generator().manual_seed(0)
    ppl, ent = (torch.rand(2000, generator=rng, dtype=torch.float64) for _ in range(2))
    for ratio in (0.05, 0.125, 0.25, 0.4):
        found = plane.find_thresholds(ppl, ent, ratio)
        quadrant = plane.quadrants(ppl, ent, found.level)
        assert found.converged and found.iterations <= 10
        share = float(((quadrant == 2) | (quadrant == 4)).double().mean())
        assert share == found.kept and abs(share - ratio) <= 0.01


@settings(max_examples=100, deadline=None)
@given(PLANE)
def test_min_max(points: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    for values in points:
        result = plane.min_max(torch.tensor(values, dtype=torch.float64))
        assert result.tolist() == oracles.scaled(values)
        assert float(result.min()) == 0.0 and float(result.max()) in (0.0, 1.0)
