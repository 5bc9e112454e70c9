"""The Error-Uncertainty plane: quadrants, thresholds and their search, against the exact oracle and by hand."""

import math
from fractions import Fraction
from typing import Any, get_args

import oracle_method as oracle
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qtuning.experiment.quadrants import BETWEEN, CALIBRATION, MISCONCEPTION, NOISE, REDUNDANT, Naming
from qtuning.scoring import plane

# few distinct values make ties; all are fractions of powers of 2, so that floating point has them exactly
PPL = st.sampled_from(
    [Fraction(1), 1 + Fraction(1, 2**20), Fraction(3, 2), Fraction(2), Fraction(2) ** 600]
) | st.integers(1, 4000).map(lambda n: Fraction(n, 8))
ENT = st.sampled_from([Fraction(0), Fraction(1, 2**30), Fraction(1, 2)]) | st.integers(0, 4000).map(
    lambda n: Fraction(n, 256)
)
Axes = tuple[tuple[Fraction, ...], tuple[Fraction, ...]]
PLANE = st.lists(st.tuples(PPL, ENT), min_size=1, max_size=40).map(lambda rows: tuple(zip(*rows, strict=True)))
# levels that put no line on a sample but where equal samples are
LEVEL = st.integers(1, 490).map(lambda n: Fraction(n, 1009))
READINGS = [
    (naming, lines, quantile)
    for naming in get_args(Naming)  # A1
    for lines in get_args(plane.Lines)  # A5
    for quantile in get_args(plane.Quantile)  # A14
]


def tensors(points: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ppl, ent = (torch.tensor([float(value) for value in axis], dtype=torch.float64) for axis in points)
    return ppl, ent


@pytest.mark.parametrize("readings", READINGS, ids="-".join)
@settings(max_examples=60, deadline=None)
@given(points=PLANE, level=LEVEL)
def test_quadrants(points: Axes, level: Fraction, readings: Any) -> None:
    naming, thresholds, quantile = readings
    lines = [oracle.lines_of(axis, level, thresholds, quantile) for axis in points]
    # where a middle line is as near to a sample as rounding reaches, the last bit would decide
    near = Fraction(1, 10**12)
    assume(
        all(
            len(set(axis)) == 1 or thresholds != "midpoint" or all(abs(v - low) > near * low for v in axis)
            for axis, (low, _) in zip(points, lines, strict=True)
        )
    )
    expected = [
        oracle.quadrant_of(oracle.side(error, lines[0]), oracle.side(doubt, lines[1]), naming, thresholds)
        for error, doubt in zip(*points, strict=True)
    ]
    result = plane.Plane(*tensors(points), *readings).quadrants(float(level))
    assert result.dtype == torch.int8 and result.tolist() == expected
    if thresholds != "two-tails":
        assert (result != BETWEEN).all(), "the quadrants cover the batch"


def test_quadrants_by_hand() -> None:
    """Two tails of a quarter: 1 and 2 are low, 4 and 5 high (quantiles 2 and 4), 3 is neither."""
    ppl = (1.0, 1.0, 5.0, 5.0, 3.0)
    ent = (0.1, 0.9, 0.1, 0.9, 0.5)
    # the quantile 1/4 of (1, 1, 3, 5, 5) is 1 and 3/4 is 5, so nothing is above the line: high error is strict
    assert plane.Plane(*tensors((ppl, ent))).quadrants(0.25).tolist() == [REDUNDANT, 0, 0, 0, 0]
    # a level further out puts the line between 3 and 5
    assert plane.Plane(*tensors((ppl, ent))).quadrants(0.45).tolist() == [
        REDUNDANT,
        CALIBRATION,
        MISCONCEPTION,
        NOISE,
        BETWEEN,
    ]


@settings(max_examples=100, deadline=None)
@given(PLANE, LEVEL, st.sampled_from(["two-tails", "midpoint"]))
def test_text_swaps_the_names_of_the_quadrants_of_high_error(points: Axes, level: Fraction, lines: plane.Lines) -> None:
    """Reading A1: the lines do not move."""
    figure = plane.Plane(*tensors(points), "figure", lines).quadrants(float(level))
    text = plane.Plane(*tensors(points), "text", lines).quadrants(float(level))
    swapped = torch.tensor([BETWEEN, MISCONCEPTION, NOISE, REDUNDANT, CALIBRATION])
    assert text.tolist() == swapped[figure.long()].tolist()


def test_readings_by_hand() -> None:
    """The fifth sample is above half of both axes (line 3 and 0.5), though in no tail; the sixth is below."""
    points = tensors(((1.0, 1.0, 5.0, 5.0, 3.5, 2.5), (0.1, 0.9, 0.1, 0.9, 0.6, 0.4)))
    assert plane.Plane(*points).quadrants(0.3).tolist() == [3, 4, 2, 1, 0, 0]
    assert plane.Plane(*points, "text").quadrants(0.3).tolist() == [3, 4, 1, 2, 0, 0]
    assert plane.Plane(*points, "figure", "midpoint").quadrants(0.3).tolist() == [3, 4, 2, 1, 1, 3]
    assert plane.Plane(*points, "text", "midpoint").quadrants(0.3).tolist() == [3, 4, 1, 2, 2, 3]


def test_lean_by_hand() -> None:
    """Low is 1, middle 2, high 3: high error leans to Q2, low error and low entropy to Q3, all else to Q4."""
    rows = [(error, doubt) for error in (1.0, 2.0, 3.0) for doubt in (1.0, 2.0, 3.0)]
    found = plane.Plane(*tensors(zip(*rows, strict=True)), "figure", "lean").quadrants(0.33).tolist()
    assert dict(zip(rows, found, strict=True)) == {
        (1.0, 1.0): 3, (1.0, 2.0): 3, (1.0, 3.0): 4,
        (2.0, 1.0): 3, (2.0, 2.0): 4, (2.0, 3.0): 4,
        (3.0, 1.0): 2, (3.0, 2.0): 2, (3.0, 3.0): 1,
    }  # fmt: skip


def test_quantiles_by_hand() -> None:
    """Of 0, 1, 2, 3, 10 at 0.3: 1.2 by interpolation; 1 by steps, for two of five are at or below it."""
    axes = tensors(((0.0, 1.0, 2.0, 3.0, 10.0),) * 2)
    for quantile, low, high in (("linear", 1.2, 2.8), ("lower-step", 1.0, 3.0)):
        lines = plane.Plane(*axes, quantile=quantile).lines(0.3)  # type: ignore[arg-type]
        assert lines[0] == lines[1] == pytest.approx((low, high))
    assert plane.Plane(*axes, quantile="lower-step").lines(0.0)[0] == (0.0, 10.0)


@pytest.mark.parametrize("size", [400, 800, 1600])
def test_a_step_that_holds_just_the_share_is_enough(size: int) -> None:
    """The definition counts shares in whole numbers: at 0.6325 of 400 samples the 253rd value, at every level tried."""
    values = torch.arange(size, dtype=torch.float64)
    points = plane.Plane(values, values, quantile="lower-step")
    for place in range(1, 1024):
        level = 0.49 * place / 1024
        exact = Fraction(49, 100) * place / 1024
        expected = tuple(math.ceil(share * size) - 1 for share in (exact, 1 - exact))
        assert points.lines(level)[0] == expected


def test_search_on_plateaus_does_not_converge() -> None:
    """Equal samples are in no quadrant at any level, so no share but zero can be reached."""
    found = plane.Plane(*tensors(((2.0,) * 8, (1.0,) * 8))).search(0.5)
    assert (found.kept, found.converged) == (0.0, False)
    assert found.level == pytest.approx(0.49, abs=1e-3)


def test_search_makes_ten_bisections_whatever_they_find() -> None:
    """At the first level, 0.245, half of the samples are in Q2 and Q4, as asked. The search lowers it anyway, down
    to 1/7, the least level that keeps them."""
    ppl, ent = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), (7.0, 6.0, 2.0, 3.0, 4.0, 5.0, 1.0, 0.0)
    found = plane.Plane(*tensors((ppl, ent))).search(0.5)
    assert found.level == pytest.approx(1 / 7, abs=0.49 / 2**9)
    assert found.converged == (found.kept == 0.5)
    assert plane.Plane(*tensors((ppl, ent))).search(0.25).level == pytest.approx(0, abs=0.49 / 2**9)


def test_search_on_a_large_batch_converges() -> None:
    rng = torch.Generator().manual_seed(0)
    ppl, ent = (torch.rand(2000, generator=rng, dtype=torch.float64) for _ in range(2))
    for ratio in (0.05, 0.125, 0.25, 0.4):
        found = plane.Plane(ppl, ent).search(ratio)
        quadrant = plane.Plane(ppl, ent).quadrants(found.level)
        share = float(((quadrant == 2) | (quadrant == 4)).double().mean())
        assert found.converged and share == found.kept and abs(share - ratio) <= 0.01


def test_search_counts_every_quadrant_whose_samples_stay() -> None:
    """Tables 4 and 15: with Q3 beside Q2 and Q4, thinner tails are enough."""
    rng = torch.Generator().manual_seed(1)
    ppl, ent = (torch.rand(2000, generator=rng, dtype=torch.float64) for _ in range(2))
    found = plane.Plane(ppl, ent, kept=(2, 3, 4)).search(0.3)
    share = float((plane.Plane(ppl, ent).quadrants(found.level) > 1).double().mean())
    assert found.converged and share == found.kept
    assert found.level < plane.Plane(ppl, ent).search(0.3).level


@settings(max_examples=100, deadline=None)
@given(PLANE)
def test_min_max(points: Axes) -> None:
    for axis in points:
        result = plane.min_max(torch.tensor([float(value) for value in axis], dtype=torch.float64))
        assert result.tolist() == pytest.approx([float(n) for n in oracle.supplement_scores(axis, "min-max")])
        assert float(result.min()) == 0.0 and float(result.max()) in (0.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(PLANE)
def test_ranks(points: Axes) -> None:
    """Reading A10, `rank`; the division by B - 1 is left out."""
    for axis in points:
        result = plane.ranks(torch.tensor([float(value) for value in axis], dtype=torch.float64))
        expected = [float(n) for n in oracle.supplement_scores(axis, "rank")]
        assert (result / max(1, len(axis) - 1)).tolist() == pytest.approx(expected)


def test_ranks_by_hand() -> None:
    assert plane.ranks(torch.tensor([7.0, 1.0, 7.0, 1e300, 3.0]).double()).tolist() == [2.5, 0.0, 2.5, 4.0, 1.0]
    assert plane.ranks(torch.tensor([3.0]).double()).tolist() == [0.0]
    assert plane.ranks(torch.tensor([2.0, 2.0, 2.0]).double()).tolist() == [1.0, 1.0, 1.0]
