"""The figure of planted errors against its rows."""

from statistics import fmean, stdev

import polars as pl
import pytest
from figure_frames import cell_rows, one, planted, table

from qtuning.figures.planted_errors import draw_planted_errors
from qtuning.tables.planted_errors import localised


def test_localisation_has_a_row_per_method_and_none_for_what_prunes_nothing() -> None:
    lines = [("full", {}), ("q-tuning", {"lambda": 0.0}), ("q-tuning", {})]
    cells = table(*(cell_rows(method, 0.5, 0.5, seed, **options) for seed in (0, 1) for method, options in lines))
    answers = planted(cells)
    lost = cells["cell"].unique(maintain_order=True)[-1]  # one seed of Q-Tuning diverged: no answer of its weights
    answers = answers.filter((pl.col("cell") != lost) | (pl.col("model") == "base"))
    frame = localised(answers, cells)
    chosen = frame.filter(score="smoothed score", weights="base")
    assert dict(chosen.select("label", "lambda").iter_rows()) == {
        "Full data": 0.5,
        "Q-Tuning (lambda=0.0)": 0.0,
        "Q-Tuning (lambda=0.5)": 0.5,
    }
    named = cells.filter(pl.col("options").str.contains('"lambda":0.0'))["cell"].unique()
    mine = answers.filter(pl.col("cell").is_in(named.implode()), model="trained", score="pruned tokens")
    row = one(frame, label="Q-Tuning (lambda=0.0)", weights="trained", score="pruned tokens")
    assert row["recall"] == pytest.approx(fmean(mine["recall"]))
    assert row["recall_sd"] == pytest.approx(stdev(mine["recall"]))
    row = one(frame, label="Q-Tuning (lambda=0.5)", weights="trained", score="pruned tokens")
    assert (row["precision"], row["missing"]) == (None, 1), "never a mean over fewer seeds"

    drawing = draw_planted_errors(frame)
    axes = drawing.figure.axes
    assert [panel.get_title("left")[:3] for panel in axes] == ["(a)", "(b)", "(c)", "(d)"]
    assert [text.get_text() for text in axes[1].texts if "λ" in text.get_text()] == ["λ 0.5", "λ 0", "λ 0.5"]
    points = [len(panel.containers) for panel in axes]  # 3 methods x 2 weights x 2 measures, less one hole
    assert points == [10, 10, 6, 6], "no points of the full data, which prune nothing"
    assert [text.get_text() for text in axes[2].texts].count("–") == 2, "only what is missing"
    assert set(drawing.data["score"]) >= {"pruned tokens of kept samples", "kept samples with an error"}
