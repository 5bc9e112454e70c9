"""Differences from random pruning, against hand calculation, and how the maps are cut."""

from statistics import fmean

import polars as pl
import pytest
from figure_frames import BENCHMARKS, cell_rows, grid, one, table

from qtuning.figures.heatmap import DIVERGING, LIMIT, differences, draw_heatmap, pages
from qtuning.statistics.summary import summarise


def test_differences_are_paired_by_seed_and_the_reference_has_none() -> None:
    ours, theirs = (33.0, 40.0), (30.0, 41.0)
    scores = table(
        *(cell_rows("random+random", 0.5, 0.5, seed, score=theirs[seed]) for seed in (0, 1)),
        *(cell_rows("q-tuning", 0.5, 0.5, seed, score=ours[seed]) for seed in (0, 1)),
        cell_rows("longest+random", 0.5, 0.5, 0, score=1.0),
        cell_rows("longest+random", 0.5, 0.5, 1, status="failed", reason="out of memory"),
    )
    frame = differences(summarise(scores))
    row = one(frame, label="Q-Tuning", benchmark="squad")
    assert row["difference"] == pytest.approx(fmean(a - b for a, b in zip(ours, theirs, strict=True)))
    assert one(frame, label="random + random", benchmark="squad")["reference"] is True
    assert "out of memory" in str(one(frame, label="longest + random", benchmark="squad")["hole"])
    panel = draw_heatmap(frame).figure.axes[0]
    hatched = [patch for patch in panel.patches if patch.get_hatch()]
    assert len(hatched) == len(BENCHMARKS) + 1  # every benchmark of the failed method, and its average
    assert "+1.0" in {text.get_text() for text in panel.texts}


def test_pages_cut_between_budgets() -> None:
    methods = ["random+random", *(f"longest+{t}" for t in ("random", "ppl", "fastv"))]
    frame = differences(summarise(grid(methods, [(s / 20, 0.5) for s in range(1, 15)])))
    cut = pages(frame)
    assert len(cut) == 2 and pl.concat(cut).equals(frame)
    for page in cut:
        assert page.select("budget", "label").n_unique() <= LIMIT
    assert not set(cut[0]["budget"]) & set(cut[1]["budget"])


def test_colours_of_differences_are_those_of_the_tables() -> None:
    """Up is blue and down is orange there (assets/tables/tables.css)."""
    below, above = DIVERGING(0.0), DIVERGING(1.0)
    assert below[0] > below[2] and above[2] > above[0]
