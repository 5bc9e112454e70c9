"""The Error-Uncertainty plane against the plain reference."""

import math
from typing import get_args

import oracles
import oracles_readings
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qtuning.experiment.quadrants import BETWEEN, CALIBRATION, MISCONCEPTION, NOISE, REDUNDANT, Naming
from qtuning.scoring import plane

# few distinct values make ties; perplexities reach exp(600)
PPL = st.sampled_from([1.0, 1.0 + 2**-20, 1.5, 2.0, 7.25, 1e3, 1e38, math.exp(600.0)]) | st.integers(1, 4000).map(
    lambda n: n / 8
)
ENT = st.sampled_from([0.0, 2**-30, 0.5, 1.0, 12.5]) | st.integers(0, 4000).map(lambda n: n / 256)
PLANE = st.lists(st.tuples(PPL, ENT), min_size=1, max_size=40).map(lambda rows: tuple(zip(*rows, strict=True)))
READINGS = [(q, t) for q in get_args(Naming) for t in get_args(plane.Lines)]  # A1, A5
RATIO = st.sampled_from([0.0078125, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0]) | st.floats(1e-6, 1.0)


def tensors(ppl: tuple[float, ...], ent: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(ppl, dtype=torch.float64), torch.tensor(ent, dtype=torch.float64)


def a_sample_lies_on_a_middle_line(points: tuple[tuple[float, ...], ...], level: float) -> bool:
    """Then the last bit of the line decides on which side, and two right computations may differ in that bit."""
    return any(
        len(set(axis)) > 1 and any(abs(value - line) <= 1e-12 * abs(line) for value in axis)
        for axis in points
        for line in oracles_readings.lines(axis, level, "midpoint")[:1]
    )


@pytest.mark.parametrize("readings", READINGS, ids="-".join)
@settings(max_examples=150, deadline=None)
@given(points=PLANE, level=st.integers(0, 490).map(lambda n: n / 1000))
def test_quadrants(
    points: tuple[tuple[float, ...], tuple[float, ...]], level: float, readings: tuple[Naming, plane.Lines]
) -> None:
    assume(readings[1] == "two-tails" or not a_sample_lies_on_a_middle_line(points, level))
    result = plane.Plane(*tensors(*points), *readings).quadrants(level)
    assert result.dtype == torch.int8
    assert result.tolist() == oracles_readings.places(*points, level, *readings)
    if readings[1] == "midpoint":
        assert (result != BETWEEN).all(), "one line an axis: the quadrants cover the batch"


def test_quadrants_by_hand() -> None:
    """Two tails of a quarter: 1 and 2 are low, 4 and 5 high (quantiles 2 and 4), 3 is neither."""
    ppl = (1.0, 1.0, 5.0, 5.0, 3.0)
    ent = (0.1, 0.9, 0.1, 0.9, 0.5)
    # the quantile 1/4 of (1, 1, 3, 5, 5) is 1 and 3/4 is 5, so nothing is above the line: high error is strict
    assert plane.Plane(*tensors(ppl, ent)).quadrants(0.25).tolist() == [REDUNDANT, 0, 0, 0, 0]
    # a level further out puts the line between 3 and 5
    assert plane.Plane(*tensors(ppl, ent)).quadrants(0.45).tolist() == [
        REDUNDANT,
        CALIBRATION,
        MISCONCEPTION,
        NOISE,
        BETWEEN,
    ]


@settings(max_examples=150, deadline=None)
@given(PLANE, st.integers(0, 490).map(lambda n: n / 1000), st.sampled_from(get_args(plane.Lines)))
def test_text_swaps_the_names_of_the_quadrants_of_high_error(
    points: tuple[tuple[float, ...], tuple[float, ...]], level: float, lines: plane.Lines
) -> None:
    """Reading A1: the lines do not move."""
    figure = plane.Plane(*tensors(*points), "figure", lines).quadrants(level)
    text = plane.Plane(*tensors(*points), "text", lines).quadrants(level)
    swapped = torch.tensor([BETWEEN, MISCONCEPTION, NOISE, REDUNDANT, CALIBRATION])
    assert text.tolist() == swapped[figure.long()].tolist()


def test_readings_by_hand() -> None:
    """The fifth sample is above half of both axes (line 3 and 0.5), though in no tail; the sixth is below."""
    ppl = (1.0, 1.0, 5.0, 5.0, 3.5, 2.5)
    ent = (0.1, 0.9, 0.1, 0.9, 0.6, 0.4)
    two_tails = [3, 4, 2, 1, 0, 0]
    assert plane.Plane(*tensors(ppl, ent)).quadrants(0.3).tolist() == two_tails
    assert plane.Plane(*tensors(ppl, ent), "text").quadrants(0.3).tolist() == [3, 4, 1, 2, 0, 0]
    assert plane.Plane(*tensors(ppl, ent), "figure", "midpoint").quadrants(0.3).tolist() == [3, 4, 2, 1, 1, 3]
    assert plane.Plane(*tensors(ppl, ent), "text", "midpoint").quadrants(0.3).tolist() == [3, 4, 1, 2, 2, 3]


@pytest.mark.parametrize("readings", READINGS, ids="-".join)
@settings(max_examples=150, deadline=None)
@given(points=PLANE, ratio=RATIO)
@example(points=((1.0, 1.0 + 2**-20, 1.0 + 2**-20), (0.0, 0.5, 1.0)), ratio=0.0078125)
def test_search(
    points: tuple[tuple[float, ...], tuple[float, ...]], ratio: float, readings: tuple[Naming, plane.Lines]
) -> None:
    ppl, ent = points
    if readings[1] == "midpoint":
        least, most = 0.0, 0.49  # the levels that the bisection can try, on the oracle's way
        for _ in range(10):
            level = (least + most) / 2
            assume(not a_sample_lies_on_a_middle_line(points, level))
            where = oracles_readings.places(ppl, ent, level, *readings)
            least, most = (level, most) if (where.count(2) + where.count(4)) / len(where) < ratio else (least, level)
    found = plane.Plane(*tensors(*points), *readings).search(ratio)
    truth = oracles_readings.search(ppl, ent, ratio, *readings)
    assert (found.level, found.kept, found.converged) == (truth.level, truth.kept, truth.converged)
    assert 0 <= found.level <= 0.49
    assert found.converged == (abs(found.kept - ratio) <= 0.01)
    for lines, axis in (((found.ppl_low, found.ppl_high), ppl), ((found.ent_low, found.ent_high), ent)):
        assert lines == pytest.approx(oracles_readings.lines(axis, found.level, readings[1]), rel=1e-12)


def test_search_on_plateaus_ends_after_ten_trials() -> None:
    """Equal samples are in no quadrant at any level, so no share but zero can be reached."""
    found = plane.Plane(*tensors((2.0,) * 8, (1.0,) * 8)).search(0.5)
    assert (found.kept, found.converged) == (0.0, False)
    assert found.level == pytest.approx(0.49, abs=1e-3)


def test_search_on_a_large_batch_converges() -> None:
    rng = torch.Generator().manual_seed(0)
    ppl, ent = (torch.rand(2000, generator=rng, dtype=torch.float64) for _ in range(2))
    for ratio in (0.05, 0.125, 0.25, 0.4):
        found = plane.Plane(ppl, ent).search(ratio)
        quadrant = plane.Plane(ppl, ent).quadrants(found.level)
        assert found.converged
        share = float(((quadrant == 2) | (quadrant == 4)).double().mean())
        assert share == found.kept and abs(share - ratio) <= 0.01


@settings(max_examples=100, deadline=None)
@given(PLANE)
def test_min_max(points: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    for values in points:
        result = plane.min_max(torch.tensor(values, dtype=torch.float64))
        assert result.tolist() == oracles.scaled(values)
        assert float(result.min()) == 0.0 and float(result.max()) in (0.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(PLANE)
def test_ranks(points: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    """Reading A10, `rank`; the division by B - 1 is left out."""
    for values in points:
        result = plane.ranks(torch.tensor(values, dtype=torch.float64)) / max(1, len(values) - 1)
        assert result.tolist() == pytest.approx([float(rank) for rank in oracles_readings.ranked(values)])


def test_ranks_by_hand() -> None:
    assert plane.ranks(torch.tensor([7.0, 1.0, 7.0, 1e300, 3.0]).double()).tolist() == [2.5, 0.0, 2.5, 4.0, 1.0]
    assert plane.ranks(torch.tensor([3.0]).double()).tolist() == [0.0]
    assert plane.ranks(torch.tensor([2.0, 2.0, 2.0]).double()).tolist() == [1.0, 1.0, 1.0]
