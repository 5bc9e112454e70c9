"""Bands over the seeds, and the figures of trainings."""

from statistics import fmean

import polars as pl
import pytest
from figure_frames import cell_rows, points_of, steps, table

from qtuning.figures.style import styled
from qtuning.figures.training import draw_convergence, draw_shares, over_seeds


def test_bands_reach_from_the_lowest_seed_to_the_highest() -> None:
    runs = pl.concat([steps("a", seed=1), steps("b", seed=2), steps("c", bins=10, seed=3)])
    found = over_seeds(runs, ["loss"])
    common = set(steps("a")["update"]) & set(steps("c", bins=10)["update"])
    assert set(found["update"]) == common  # an update that one seed lacks has no mean
    row = found.row(1, named=True)
    at = runs.filter(pl.col("update") == row["update"])["loss"].to_list()
    assert (row["loss_low_seed"], row["loss_high_seed"]) == (min(at), max(at))
    assert row["loss"] == pytest.approx(fmean(at))


@pytest.mark.parametrize("rising", [False, True])
def test_the_legend_of_the_thresholds_lies_on_no_curve(rising: bool) -> None:
    run = steps("a")
    high = run["ppl_high"].reverse() if rising else run["ppl_high"]
    figure = draw_shares(run.with_columns(ppl_high=high, ppl_low=high / 20)).figure
    with styled():
        figure.draw_without_rendering()
    panel = figure.axes[2]
    legend = panel.get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    for line in panel.get_lines()[:2]:
        assert not line.get_transform().transform_path(line.get_path()).intersects_bbox(box, filled=False)


def test_convergence_has_a_curve_per_method() -> None:
    frame = pl.concat([steps("a", seed=1), steps("b", seed=2)])
    lines = points_of(table(cell_rows("full"), cell_rows("q-tuning", 0.5, 0.5)))
    lines = lines.with_columns(pl.Series("cell", ["a", "b"]))
    drawing = draw_convergence(frame, lines)
    assert drawing.figure.axes[0].get_legend_handles_labels()[1] == ["Full data", "Q-Tuning"]
    assert set(drawing.data["label"]) == {"Full data", "Q-Tuning"}
