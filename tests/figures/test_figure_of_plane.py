"""The plane against method.md: quadrants of a median split, and bins that hold every sample once."""

from statistics import median

import numpy as np
import polars as pl
import pytest
from figure_frames import planes
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Annotation

from qtuning.figures.plane import STAGES, DrawnPlane, draw_flow, draw_plane, stages

values = st.floats(0.0, 8.0, allow_nan=False)
clouds = st.lists(st.tuples(values, values), min_size=2, max_size=60)


def frame_of(cloud: list[tuple[float, float]]) -> pl.DataFrame:
    """(log perplexity, entropy) pairs as samples."""
    return pl.DataFrame({"ppl": [float(np.exp(a)) for a, _ in cloud], "entropy": [b for _, b in cloud]})


def expected(ppl: float, ent: float, ppl_line: float, ent_line: float, text: bool = False) -> int:
    """method.md, Stage 1, and its reading A1 (`text`)."""
    if ppl > ppl_line:
        high_uncertainty = ent > ent_line
        return (2 if text else 1) if high_uncertainty else (1 if text else 2)
    return 4 if ent > ent_line else 3


@given(clouds, st.booleans())
@settings(max_examples=60, deadline=None)
def test_quadrants_are_those_of_the_medians(cloud: list[tuple[float, float]], text: bool) -> None:
    frame = frame_of(cloud)
    plane = DrawnPlane.of(frame, "text" if text else "figure")
    middle = median(frame["ppl"]), median(frame["entropy"])
    wanted = [expected(ppl, ent, *middle, text) for ppl, ent in zip(frame["ppl"], frame["entropy"], strict=True)]
    assert plane.samples["median_quadrant"].to_list() == wanted
    assert [plane.share(quadrant) for quadrant in (1, 2, 3, 4)] == [
        pytest.approx(wanted.count(quadrant) / len(wanted)) for quadrant in (1, 2, 3, 4)
    ]


@given(clouds)
@settings(max_examples=60, deadline=None)
def test_every_sample_lies_in_one_bin_and_no_bin_in_two_quadrants(cloud: list[tuple[float, float]]) -> None:
    frame = frame_of(cloud)
    plane = DrawnPlane.of(frame)
    assert plane.bins["len"].sum() == len(frame)
    assert plane.ent in plane.ents and np.log10(plane.ppl) in plane.log_ppls
    assert plane.ents[0] < frame["entropy"].min() and plane.ents[-1] >= frame["entropy"].max()  # type: ignore[operator]
    right = int((frame["entropy"] > plane.ent).sum())
    column = int(np.flatnonzero(plane.ents == plane.ent)[0])
    assert plane.bins.filter(pl.col("column") >= column)["len"].sum() == right


def test_the_plane_shows_every_share_and_all_its_data() -> None:
    frame = planes("cell")
    drawing = draw_plane(frame, tails=(2.0, 4.0, 0.6, 1.2))
    quadrants = drawing.data["median_quadrant"].to_list()
    found = {quadrant: quadrants.count(quadrant) / len(quadrants) for quadrant in (1, 2, 3, 4)}
    texts = {(text.xy, text.get_text()) for text in drawing.figure.axes[0].texts if isinstance(text, Annotation)}
    corners = {1: (1, 1), 2: (0, 1), 3: (0, 0), 4: (1, 0)}  # uncertainty to the right, error upwards
    assert texts == {(corner, f"Q{quadrant} {100 * found[quadrant]:.0f}%") for quadrant, corner in corners.items()}
    assert drawing.data.select(frame.columns).equals(frame)
    _, labels = drawing.figure.axes[0].get_legend_handles_labels()
    kept = frame.filter(pl.col("kept") & ~pl.col("supplement"))
    assert any(label.startswith(f"kept by the thresholds: {len(kept)} of 900") for label in labels)
    assert "thresholds" in labels and drawing.figure.axes[0].get_yscale() == "log"


def test_a_constant_axis_is_no_error() -> None:
    frame = pl.DataFrame({"ppl": [2.0, 2.0, 2.0], "entropy": [1.0, 1.0, 1.0], "kept": [True, False, False]})
    assert draw_plane(frame).data["median_quadrant"].to_list() == [3, 3, 3]


def test_stages_are_the_first_middle_and_last_tenth() -> None:
    frame = planes("cell", rows=2000, updates=1001)
    staged = stages(frame)
    ranges = {name: staged.filter(pl.col("stage") == name)["update"] for name in STAGES}
    last = int(frame["update"].max())  # type: ignore[arg-type]
    for name, low, high in (("start", 0.0, 0.1), ("middle", 0.45, 0.55), ("end", 0.9, 1.0)):
        wanted = [u for u in frame["update"] if low * last - 1e-9 <= u <= high * last + 1e-9]
        assert sorted(ranges[name]) == sorted(wanted)


def test_the_flow_splits_each_stage_at_its_own_medians() -> None:
    drawing = draw_flow(planes("cell"))
    for name in STAGES:
        part = drawing.data.filter(pl.col("stage") == name)
        middle = median(part["ppl"]), median(part["entropy"])
        wanted = [expected(ppl, ent, *middle) for ppl, ent in zip(part["ppl"], part["entropy"], strict=True)]
        assert part["median_quadrant"].to_list() == wanted
