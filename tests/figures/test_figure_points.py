"""What the figures of scores draw, against hand calculation."""

from statistics import fmean, stdev

import pytest
from figure_frames import cell_rows, one, points_of, table

from qtuning.figures.pareto import draw_pareto


def test_a_point_is_the_mean_over_seeds_of_the_average_over_benchmarks() -> None:
    each = [{"arc_easy": 10.0, "gsm8k": 20.0, "squad": 60.0}, {"arc_easy": 40.0, "gsm8k": 20.0, "squad": 33.0}]
    scores = table(
        *(cell_rows("q-tuning", 0.25, 0.5, seed, score=each[seed], flops=2e14 + seed * 1e14) for seed in (0, 1)),
        *(cell_rows("full", seed=seed, flops=1e15 * (1 + seed), seconds=50.0) for seed in (0, 1)),
    )
    row = one(points_of(scores), method="q-tuning")
    averages = [30.0, 31.0]
    assert row["mean"] == pytest.approx(fmean(averages)) and row["sd"] == pytest.approx(stdev(averages))
    assert (row["budget"], row["nominal"], row["n_seeds"]) == ("25×50", 12.5, 2)
    assert row["flops_share"] == pytest.approx(fmean([2e14 / 1e15, 3e14 / 2e15]))  # of the same seed's full data
    assert row["seconds_share"] == pytest.approx(2.0)


def test_a_missing_seed_is_a_hole_and_not_a_mean_over_fewer() -> None:
    scores = table(
        cell_rows("random+random", 0.5, 0.5, 0, score=50.0),
        cell_rows("random+random", 0.5, 0.5, 1, status="diverged", reason="the loss is not finite"),
    )
    row = one(points_of(scores), method="random+random")
    assert row["mean"] is None and "seed 1 diverged: the loss is not finite" in str(row["hole"])
    assert row["flops"] is None  # a training that diverged ended early


def test_without_full_data_costs_have_no_share() -> None:
    frame = points_of(table(cell_rows("random+random", 0.5, 0.5), cell_rows("q-tuning", 0.5, 0.5)))
    assert frame["flops_share"].null_count() == 2 and frame["flops"].null_count() == 0
    assert "% of full data" not in draw_pareto(frame).figure.axes[0].get_xlabel()
