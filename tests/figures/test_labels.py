"""Names beside points: none on another, on a point or over the edge, whatever the points."""

from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Annotation

from qtuning.figures.labels import MARKER, Label, beside
from qtuning.figures.style import COLUMN, panels, styled

PLACE = st.tuples(st.floats(0, 1), st.floats(0, 1))


@settings(deadline=None, max_examples=30)
@given(st.lists(PLACE, max_size=12))
def test_no_name_touches_anything(points: list[tuple[float, float]]) -> None:
    with styled():
        figure, (panel,) = panels(1, 1, COLUMN, 2.4)
        panel.set(xlim=(0, 1), ylim=(0, 1))
        labels = [Label(x, y, f"name {number}", "#000000") for number, (x, y) in enumerate(points)]
        left_out = beside(panel, labels, points)
        figure.draw_without_rendering()
        written = [text for text in panel.texts if isinstance(text, Annotation)]
        assert [text.get_text() for text in written] == [label.text for label in labels if label not in left_out]
        boxes = [text.get_window_extent() for text in written]
        frame, half = panel.get_window_extent(), MARKER * figure.dpi / 72
        for number, box in enumerate(boxes):
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            assert not box.count_overlaps(boxes[:number])
            for x, y in map(panel.transData.transform, points):
                assert not (box.x0 < x + half and x - half < box.x1 and box.y0 < y + half and y - half < box.y1)


def test_a_lone_point_has_its_name_and_the_first_comes_first() -> None:
    with styled():
        _, (panel,) = panels(1, 1, COLUMN, 2.4)
        panel.set(xlim=(0, 1), ylim=(0, 1))
        crowd = [(0.5, 0.5)] * 20
        left_out = beside(
            panel, [Label(*point, f"no. {number}", "#000000") for number, point in enumerate(crowd)], crowd
        )
    assert panel.texts[0].get_text() == "no. 0" and 0 < len(left_out) < 20
