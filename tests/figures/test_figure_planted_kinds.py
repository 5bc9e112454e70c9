"""The heat map of quadrant x kind against its rows."""

import polars as pl
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from qtuning.figures.planted_kinds import draw_planted_kinds
from qtuning.figures.style import VERMILLION

KINDS = ("clean", "misconception", "redundant", "noise")


def test_every_field_has_its_share_and_the_claims_are_framed() -> None:
    rows = [
        {"epoch": epoch, "kind": kind, "quadrant": quadrant, "share": 10.0 * quadrant + epoch + place}
        for epoch in range(5)
        for place, kind in enumerate(KINDS)
        for quadrant in range(5)
    ]
    drawing = draw_planted_kinds(pl.DataFrame(rows), "Q-Tuning at 25x50")
    panels = drawing.figure.axes[:-1]  # the last is the colour bar
    assert [panel.get_title("left") for panel in panels] == ["Epoch 1", "Epoch 3", "Epoch 5"]
    assert drawing.data["epoch"].unique().sort().to_list() == [0, 2, 4]
    for panel, epoch in zip(panels, (0, 2, 4), strict=True):
        shown = {
            (round(text.get_position()[0]), round(text.get_position()[1])): text.get_text() for text in panel.texts
        }
        for place, _ in enumerate(KINDS):
            assert [shown[place, y] for y in range(5)] == [f"{10 * q + epoch + place}" for q in (1, 2, 3, 4, 0)]
        framed = [
            patch.get_xy()
            for patch in panel.patches
            if isinstance(patch, Rectangle) and to_hex(patch.get_edgecolor()).upper() == VERMILLION
        ]
        # noise in Q1, misconception in Q2, redundant in Q3
        assert framed == [(2.5, -0.5), (0.5, 0.5), (1.5, 1.5)]
