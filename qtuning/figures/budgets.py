"""Average score against the nominal budget, a curve per method."""

import polars as pl
from matplotlib.axes import Axes

from qtuning.figures import curves
from qtuning.figures.marks import marks
from qtuning.figures.points import pruned
from qtuning.figures.style import COLUMN, PAGE, Drawing, legend_below, letter, panels, styled


def budgets(frame: pl.DataFrame) -> Drawing:
    """Score against r_sample x r_token (log axis), a panel per train set and model.

    frame: `points` of an experiment. The nominal budget is what a method was asked to train on; what it really cost
    stands in the figure of `pareto`.
    """
    shown = pruned(frame)
    look = marks(shown)
    facets = curves.facets(shown)
    columns = min(2, len(facets))
    rows = -(-len(facets) // columns)
    many = len(look) > 6
    legend = -(-len(look) // (4 if columns > 1 else 2)) * 0.14
    with styled():
        width = PAGE if columns > 1 or many else COLUMN
        figure, axes = panels(rows, columns, width, (3.0 if many else 2.4) * rows + 0.55 + legend)
        for index, (panel, place) in enumerate(zip(axes, facets, strict=False)):
            everything = curves.facet(frame, *place)
            part = pruned(everything)
            curves.references(panel, everything)
            for method in part["label"].unique(maintain_order=True):
                line = part.filter(pl.col("label") == method).sort("nominal", maintain_order=True)
                curves.curve(panel, line["nominal"].to_list(), line, method, look[method])
            curves.holes(panel, part.filter(pl.col("mean").is_null())["nominal"])
            _ticks(panel, part)
            panel.margins(x=0.06, y=0.08)
            panel.set_xlabel("Nominal budget: samples × tokens (%, log scale)")
            if index % columns == 0:
                panel.set_ylabel(curves.score_label(frame))
            if len(facets) > 1:
                letter(panel, index, curves.facet_title(frame, *place))
        for panel in axes[len(facets) :]:
            panel.remove()
        handles, labels = curves.once(axes[: len(facets)])
        legend_below(figure, handles, labels, 4 if width == PAGE else 2)
    return Drawing(figure, frame)


def _ticks(panel: Axes, part: pl.DataFrame) -> None:
    """A tick per budget; budgets of the same product share one."""
    names: dict[float, list[str]] = {}
    for nominal, budget in part.select("nominal", "budget").unique(maintain_order=True).iter_rows():
        names.setdefault(round(nominal, 9), []).append(budget)
    panel.set_xscale("log")
    crowded = len(names) > 4
    panel.set_xticks(
        list(names),
        ["\n".join(budgets) for budgets in names.values()],
        rotation=45 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor" if crowded else "default",
    )
    panel.minorticks_off()
