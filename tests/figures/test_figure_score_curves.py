"""Curves of the score: which points they take, holes, and the lines across."""

import numpy as np
import polars as pl
import pytest
from figure_frames import cell_rows, grid, points_of, table, trained

from qtuning.figures.score_curves import (
    describe_changes,
    draw_batch_sizes,
    draw_budgets,
    draw_lambdas,
    draw_ratios,
    pruned_alone,
    varied_batch_size,
    varied_lambda,
)


def test_a_hole_breaks_the_curve_and_is_marked() -> None:
    cells = [cell_rows("q-tuning", 0.25, 0.5, score=30 + 5 * value, **{"lambda": value}) for value in (0.0, 0.3, 1.0)]
    cells.append(cell_rows("q-tuning", 0.25, 0.5, status="failed", reason="out of memory", **{"lambda": 0.7}))
    drawing = draw_lambdas(points_of(table(*cells)))
    panel = drawing.figure.axes[0]
    (line,) = [line for line in panel.get_lines() if line.get_label() == "25×50"]
    assert np.asarray(line.get_xdata()).tolist() == [0.0, 0.3, 0.7, 1.0]
    assert [y != y for y in np.asarray(line.get_ydata()).tolist()] == [False, False, True, False]
    (cross,) = [line for line in panel.get_lines() if str(line.get_label()).startswith("missing")]
    assert np.asarray(cross.get_xdata()).tolist() == [0.7]


def test_far_references_are_told_in_words() -> None:
    cells = [cell_rows("q-tuning", 0.25, 0.5, score=30 + value, **{"lambda": value}) for value in (0.0, 1.0)]
    frame = points_of(table(*cells, cell_rows("full", score=80.0), cell_rows("zero-shot", seed=None, score=30.2)))
    panel = draw_lambdas(frame).figure.axes[0]
    assert [text.get_text() for text in panel.texts] == ["Full data 80.0 ↑"]
    assert "Zero-shot" in panel.get_legend_handles_labels()[1]


@pytest.mark.parametrize("zero", [10.0, 20.0, 26.0, 29.0, 31.0, 44.0, 46.0, 47.5, 49.0, 52.0, 57.0, 70.0])
@pytest.mark.parametrize("spread", [0.0, 4.0])
@pytest.mark.parametrize("full", [None, 33.0, 44.0])
def test_a_reference_is_off_the_axis_only_if_it_is(zero: float, spread: float, full: float | None) -> None:
    """Bars, and the band of another line, stretch the axis: what lies on it is a line."""
    scores = {0.0: 34.0, 1.0: 38.0}
    cells = [
        cell_rows("q-tuning", 0.25, 0.5, seed, score=score + spread * seed, **{"lambda": value})
        for seed in (0, 1)
        for value, score in scores.items()
    ]
    if full is not None:
        cells += [cell_rows("full", seed=seed, score=full + 2 * spread * seed) for seed in (0, 1)]
    panel = draw_lambdas(points_of(table(*cells, cell_rows("zero-shot", seed=None, score=zero)))).figure.axes[0]
    low, high = panel.get_ylim()
    told = [text.get_text() for text in panel.texts if "Zero-shot" in text.get_text()]
    line = "Zero-shot" in panel.get_legend_handles_labels()[1]
    assert line == (low <= zero <= high) and len(told) == (not line)
    assert all(("↑" if zero > high else "↓") in text for text in told)


def test_a_lone_value_has_an_axis_too() -> None:
    cells = [cell_rows("q-tuning", 0.25, 0.5, score=40.0, **{"lambda": value}) for value in (0.0, 1.0)]
    panel = draw_lambdas(points_of(table(*cells, cell_rows("full", score=41.0)))).figure.axes[0]
    assert not panel.texts and panel.get_ylim()[1] > 41


def test_lambda_alone_is_varied() -> None:
    cells = [
        cell_rows("q-tuning", 0.25, 0.5, **{"lambda": 0.3}),
        cell_rows("q-tuning", 0.25, 0.5),
        cell_rows("q-tuning", 0.25, 0.5, supplement="rank"),
    ]
    assert sorted(varied_lambda(points_of(table(*cells)))["lambda"]) == [0.3, 0.5]
    assert len(varied_lambda(points_of(table(*cells[1:])))) == 0


def test_where_training_varies_too_each_half_of_figure_5_takes_its_own_points() -> None:
    """Three batch sizes at the default lambda, three values of lambda at batch size 8."""
    cells = [cell_rows("q-tuning", 0.25, 0.5, **{"lambda": value}) for value in (0.0, 0.5, 1.0)]
    frame = points_of(table(*cells, cell_rows("full", score=41.0), cell_rows("zero-shot", seed=None)))
    zero = frame.filter(pl.col("method") == "zero-shot")
    rest = frame.filter(pl.col("method") != "zero-shot")
    default = rest.filter(pl.col("variant") == "")
    mixed = pl.concat([zero, trained(rest, 8), trained(default, 16), trained(default, 32)])
    sizes, lambdas = varied_batch_size(mixed), varied_lambda(mixed)
    assert sorted(sizes["batch_size"]) == [8, 16, 32] and set(sizes["lambda"]) == {0.5}
    assert sorted(lambdas["lambda"]) == [0.0, 0.5, 1.0] and set(lambdas["batch_size"]) == {8}
    assert draw_batch_sizes(mixed).figure.axes[0].get_legend_handles_labels()[1] == ["Zero-shot", "Full data", "25×50"]


def test_the_caption_says_what_changes_with_the_batch_size() -> None:
    frame = points_of(table(cell_rows("q-tuning", 0.25, 0.5)))
    sizes = ((32, "0.004"), (8, "0.001"), (16, "0.002"))
    rates = [
        frame.with_columns(
            training=pl.lit(f"batch_size={size}, learning_rate={rate}, epochs=3"), batch_size=pl.lit(size, pl.Int64)
        )
        for size, rate in sizes
    ]
    assert describe_changes(pl.concat(rates)) == "The learning rate changes with it: 0.001, 0.002, 0.004. "
    assert describe_changes(pl.concat([trained(frame, 8), trained(frame, 16)])) == ""


def test_ratios_take_the_budgets_that_prune_one_way_only() -> None:
    alone = grid(["longest+none", "q-tuning"], [(0.25, 1), (0.5, 1)], seeds=(0,))
    frame = points_of(pl.concat([alone, table(cell_rows("q-tuning", 0.5, 0.5))]))
    chosen = pruned_alone(frame, "sample_ratio")
    assert sorted(set(chosen["label"])) == ["Q-Tuning", "longest (samples)"]
    assert set(chosen["token_ratio"]) == {1.0}
    assert len(pruned_alone(frame, "token_ratio")) == 0
    axes = draw_ratios(frame).figure.axes
    assert len(axes) == 1 and [label.get_text() for label in axes[0].get_xticklabels()] == ["25", "50"]


def test_budgets_of_the_same_product_share_a_tick() -> None:
    frame = points_of(grid(["random+random"], [(0.5, 0.5), (0.25, 1.0), (0.5, 0.7)], seeds=(0,)))
    labels = [label.get_text() for label in draw_budgets(frame).figure.axes[0].get_xticklabels()]
    assert labels == ["50×50\n25×100", "50×70"]
