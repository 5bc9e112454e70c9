"""Every figure at its real size: no letter below 7 points, nothing outside the sheet, no tick label on another."""

from itertools import pairwise, product

import polars as pl
import pytest
from figure_frames import cell_rows, grid, planted, points_of, table
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from qtuning.figures.heatmap import differences, draw_heatmap
from qtuning.figures.pareto import draw_pareto
from qtuning.figures.planted_errors import draw_planted_errors
from qtuning.figures.score_curves import (
    draw_batch_sizes,
    draw_budgets,
    draw_lambdas,
    draw_ratios,
    varied_batch_size,
    varied_lambda,
)
from qtuning.figures.style import COLUMN, PAGE, Drawing, styled
from qtuning.figures.write import drawings
from qtuning.statistics.summary import summarise
from qtuning.store.store import Store
from qtuning.tables.planted_errors import localised

SAMPLE = ("random", "longest", "infobatch", "entropy")
TOKEN = ("random", "ppl", "fastv", "sparsevlm")


def check(drawing: Drawing) -> None:
    """Draw, and measure every text."""
    figure = drawing.figure
    assert COLUMN <= figure.get_figwidth() <= PAGE
    with styled():
        figure.draw_without_rendering()
        for text in figure.findobj(Text):
            if text.get_text().strip() and text.get_visible():
                assert float(text.get_fontsize()) >= 7, text.get_text()
        for axes in figure.axes:
            titles = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]  # type: ignore[attr-defined]
            for text in [*titles, *axes.texts]:
                box = extent(text)
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
                assert inside or not text.get_text().strip(), f"{text.get_text()!r} leaves the sheet"
            for axis in (axes.xaxis, axes.yaxis):
                labels = [t for t in axis.get_ticklabels() if t.get_text() and t.get_visible() and shown(axes, t)]
                for one, other in pairwise(extent(label) for label in labels if not label.get_rotation()):
                    across = min(one.x1, other.x1) - max(one.x0, other.x0)
                    upwards = min(one.y1, other.y1) - max(one.y0, other.y0)
                    assert across <= 0.5 or upwards <= 0.5, "tick labels overlap"
            boxes = [extent(text) for text in axes.texts if text.get_text().strip()]
            for number, box in enumerate(boxes):
                assert not box.shrunk(0.98, 0.98).count_overlaps(boxes[:number]), "texts of a panel overlap"
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1, "the legend leaves the sheet"


def extent(text: Text) -> Bbox:
    """Of an annotation the text only: the lines of `pareto` may cross other texts."""
    return Text.get_window_extent(text)


def shown(axes: Axes, label: Text) -> bool:
    """Whether a tick label belongs to a tick that is shown (matplotlib keeps some outside the limits)."""
    box, frame = extent(label), axes.get_window_extent()
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return (frame.x0 - 2 <= x <= frame.x1 + 2) or (frame.y0 - 2 <= y <= frame.y1 + 2)


def test_figures_of_a_small_experiment(store: Store) -> None:
    for _, drawing, _ in drawings(store, "demo"):
        check(drawing)


@pytest.mark.slow
def test_figures_of_the_whole_table_1() -> None:
    methods = [f"{sample}+{token}" for sample in SAMPLE for token in TOKEN] + ["q-tuning"]
    all_budgets = [(s, t) for s in (0.125, 0.25, 0.5) for t in (0.5, 0.7)]
    scores = pl.concat([grid(methods, all_budgets, model=model) for model in ("llama2-7b", "mistral-7b")])
    frame = points_of(scores)
    check(draw_budgets(frame))
    check(draw_pareto(frame))
    table = differences(summarise(scores)).filter((pl.col("model") == "llama2-7b") & (pl.col("budget") == "12.5×50"))
    check(draw_heatmap(table))


def test_the_names_of_a_front_stand_left_of_all_points() -> None:
    frame = points_of(grid(["random+random", "q-tuning"], [(0.0078125 * 2**number, 0.5) for number in range(8)]))
    figure = draw_pareto(frame).figure
    with styled():
        figure.draw_without_rendering()
    for panel in figure.axes:
        names = [extent(text) for text in panel.texts]
        lines = [line for line in panel.get_lines() if line.get_marker() in ("o", "s", "P")]
        places = [panel.transData.transform(point) for line in lines for point in line.get_xydata()]  # type: ignore[union-attr]
        assert len(names) > 1 and len(places) == 17
        assert max(name.x1 for name in names) < min(x for x, _ in places)


def test_names_that_are_long_and_points_that_meet() -> None:
    """Budgets of many digits, methods with options, and costs that hardly differ."""
    cells = [
        cell_rows(method, 0.0078125 * 2**number, 0.5, seed, score=30 + number / 10, selection="global")
        for method in ("random+random", "q-tuning")
        for number in range(4)
        for seed in (0, 1)
    ]
    frame = points_of(table(*cells))
    check(draw_budgets(frame))
    check(draw_pareto(frame))


def test_figure_4() -> None:
    samples = grid([f"{sample}+none" for sample in SAMPLE] + ["q-tuning"], [(0.125, 1), (0.25, 1), (0.5, 1)])
    tokens = grid([f"full+{token}" for token in TOKEN] + ["q-tuning"], [(1, 0.5), (1, 0.7)])
    tokens = tokens.filter(~pl.col("method").is_in(["full", "zero-shot"]))
    check(draw_ratios(points_of(pl.concat([samples, tokens]))))


def test_figure_5() -> None:
    cells = [
        cell_rows("q-tuning", *budget, seed, score=30 + 5 * number + seed, **{"lambda": value})
        for seed in (0, 1)
        for number, budget in enumerate([(0.25, 0.5), (0.25, 0.7), (0.5, 0.7)])
        for value in (0.0, 0.3, 0.5, 0.7, 1.0)
    ]
    frame = points_of(table(*cells, cell_rows("full", score=60.0)))
    assert len(varied_lambda(frame)) == 15
    check(draw_lambdas(frame))
    sizes = frame.filter((pl.col("lambda") == 0.5) & (pl.col("method") == "q-tuning"))
    sizes = pl.concat([sizes.with_columns(pl.lit(size, pl.Int64).alias("batch_size")) for size in (8, 16, 32)])
    assert len(varied_batch_size(sizes)) == 9
    check(draw_batch_sizes(sizes))


@pytest.mark.parametrize("seeds", [1, 3])
def test_localisation(seeds: int) -> None:
    methods: list[tuple[str, dict[str, float]]] = [("full+random", {}), ("q-tuning", {"lambda": 0.0}), ("q-tuning", {})]
    cells = [cell_rows("full", seed=seed) for seed in range(seeds)]
    for seed, tokens, (method, options) in product(range(seeds), (0.5, 0.7), methods):
        cells.append(cell_rows(method, 0.5, tokens, seed, **options))
    scores = table(*cells)
    check(draw_planted_errors(localised(planted(scores), scores)))
