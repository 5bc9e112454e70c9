"""Names beside points, where there is room for them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

PLACES = (  # offset in points, horizontal and vertical alignment of the text
    ((-3, 4), "right", "bottom"),
    ((3, -4), "left", "top"),
    ((3, 4), "left", "bottom"),
    ((-3, -4), "right", "top"),
    ((0, 5), "center", "bottom"),
    ((0, -5), "center", "top"),
    ((6, 0), "left", "center"),
    ((-6, 0), "right", "center"),
)
MARKER = 3.0
"""Half the width of what a marker covers, in points."""


@dataclass(frozen=True)
class Label:
    """`text` beside the point (x, y) of a panel."""

    x: float
    y: float
    text: str
    colour: str


def beside(panel: Axes, labels: Iterable[Label], points: Sequence[tuple[float, float]]) -> list[Label]:
    """Write the labels, the first ones first, each where it meets none before it, no point and no edge of the panel.

    points: all there are in the panel. Returns those that were left out because there was no such place.
    """
    figure = panel.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # so that points have places on the sheet
    half, frame = MARKER * figure.dpi / 72, panel.get_window_extent()
    corners = [panel.transData.transform(point) for point in points]
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in corners]
    left_out = []
    for label in labels:
        for offset, across, upwards in PLACES:
            text = panel.annotate(
                label.text,
                (label.x, label.y),
                offset,
                textcoords="offset points",
                ha=across,
                va=upwards,
                fontsize=7,
                color=label.colour,
            )
            text.set_in_layout(False)  # the panel keeps the size that the places were found for
            box = text.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                break
            text.remove()
        else:
            left_out.append(label)
    return left_out
