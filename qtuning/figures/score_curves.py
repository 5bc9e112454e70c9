"""Curves of the score against the budget, the sample or token ratio, the batch size, or λ: one drawing, four x axes.

`score_curves` yields those that an experiment has.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qtuning.figures.captions import SPREAD
from qtuning.figures.marks import BUDGET_LOOKS, FULL_LOOK, Look, assign_looks, describe_looks
from qtuning.figures.points import UNPRUNED, facets, pruned, score_label
from qtuning.figures.style import BLACK, COLUMN, PAGE, Drawing, legend_below, letter, panels, styled
from qtuning.tables.labels import percent

SIDES = {
    "sample_ratio": ("token_ratio", "Samples kept, all their tokens (%)", r" \+ none", " (samples)"),
    "token_ratio": ("sample_ratio", "Tokens kept, of all samples (%)", r"^full \+ (.*)", "$1 (tokens)"),
}
"""The ratios of `draw_ratios`: the other one, which is 1; the label of the axis; what it replaces in the name of a pair
of pruners, and by what."""

REFERENCES = {
    "full": ("Full data", (0, (6, 2)), "dashed: full data"),
    "zero-shot": ("Zero-shot", (0, (1, 2)), "dotted: zero-shot, the model without fine-tuning"),
}
"""Lines across a panel: method -> label, line style, and what a caption says."""

FAR = 0.5
"""A line is far from the curves if it is further away than this share of the range that they and their bars cover."""

MARGIN = 0.14
"""Room above and below what is drawn, as a share of its range, where far lines are told at the edge."""

CROSS = f"{SPREAD}; a cross is a score that is missing."
BY_BUDGET = "by budget (samples × tokens, %). "


def score_curves(frame: pl.DataFrame) -> Iterator[tuple[str, Drawing]]:
    """(name, drawing) of each of these figures that the `points` of an experiment allow."""
    if any(len(pruned_alone(frame, ratio)) for ratio in SIDES):
        yield "ratios", draw_ratios(frame)
    if len(varied_batch_size(frame)):
        yield "batch-size", draw_batch_sizes(frame)
    if len(varied_lambda(frame)):
        yield "lambda", draw_lambdas(frame)
    if pruned(frame)["nominal"].n_unique() > 1:
        yield "budgets", draw_budgets(frame)


def draw_budgets(frame: pl.DataFrame) -> Drawing:
    """Score against the nominal budget r_sample x r_token, a curve per method, a panel per train set and model.

    frame: `points` of an experiment. The nominal budget is what a method was asked to train on; the figure of `pareto`
    shows what the training really cost.
    """
    shown = pruned(frame)
    looks = assign_looks(shown)
    places = facets(shown)
    many, wide = len(looks) > 6, len(places) > 1
    height = (3.0 if many else 2.4) * -(-len(places) // 2) + 0.55 + -(-len(looks) // (4 if wide else 2)) * 0.14
    charts = {
        "Nominal budget: samples × tokens (%, log scale)": shown.with_columns(x="nominal", curve="label", tick="budget")
    }
    figure = _draw(charts, frame, looks, (PAGE if wide or many else COLUMN, height), slanted=True)
    text = "Average score against the nominal budget, r_sample × r_token. "
    return Drawing(figure, frame, f"{text}{describe_looks(shown)} {describe_references(frame)}{CROSS}")


def draw_ratios(frame: pl.DataFrame) -> Drawing:
    """Figure 6: score against the sample ratio (all tokens) and the token ratio (all samples), a row per model.

    frame: `points` of an experiment. A side without points is not drawn.
    """
    parts = {ratio: part for ratio in SIDES if len(part := pruned_alone(frame, ratio))}
    charts = {}
    for ratio, part in parts.items():
        ticks = pl.col(ratio).map_elements(lambda value: percent(value)[:-1], return_dtype=pl.String)
        charts[SIDES[ratio][1]] = part.sort(ratio, maintain_order=True).with_columns(
            x=100 * pl.col(ratio), curve="label", tick=ticks
        )
    shown = pl.concat(parts.values())
    size = (PAGE if len(parts) > 1 else COLUMN, 2.35 * len(facets(shown)) + 0.75)
    figure = _draw(charts, frame, assign_looks(shown), size, margins=(0.08, 0.08), row_per_model=True)
    data = pl.concat([shown, frame.filter(pl.col("method").is_in(UNPRUNED))])
    text = "Average score when only samples (all tokens), or only tokens (all samples) are pruned. "
    return Drawing(figure, data, f"{text}{describe_looks(pruned(frame))} {describe_references(frame)}{CROSS}")


def pruned_alone(frame: pl.DataFrame, ratio: str) -> pl.DataFrame:
    """The points that prune by `ratio` only, if there are two such ratios or more; else none.

    A pair of pruners is named after the one that prunes: `longest + none` is `longest (samples)` here.
    """
    other, _, pair, alone = SIDES[ratio]
    chosen = pruned(frame).filter((pl.col(other) == 1) & (pl.col(ratio) < 1))
    chosen = chosen.with_columns(pl.col("label").str.replace(pair, alone))
    return chosen if chosen[ratio].n_unique() > 1 else chosen.clear()


def draw_batch_sizes(frame: pl.DataFrame) -> Drawing:
    """Figure 5(a): score against the size of the batch that Q-Tuning selects in, a curve per budget.

    frame: `points` of an experiment.
    """
    chosen = varied_batch_size(frame)
    text = f"Q-Tuning's average score against its batch size, {BY_BUDGET}{describe_changes(chosen)}"
    return _draw_setting(chosen, frame, "batch_size", "Batch size (samples, log scale)", text, base=2)


def varied_batch_size(frame: pl.DataFrame) -> pl.DataFrame:
    """The points of Q-Tuning with default options, where the experiment varies the batch size; else none."""
    chosen = _default_options(frame).filter(pl.col("batch_size").is_not_null())
    return chosen if chosen["batch_size"].n_unique() > 1 else chosen.clear()


def describe_changes(frame: pl.DataFrame) -> str:
    """What a caption says of the training settings that change with the batch size; empty if there are none.

    frame: as of `varied_batch_size`. Values are in the order of the batch sizes, several of one batch size with `or`.
    """
    # setting -> batch size -> its values, as the keys of a dictionary to keep their order
    settings: dict[str, dict[int, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for size, training in frame.sort("batch_size").select("batch_size", "training").unique(maintain_order=True).rows():
        for name, value in re.findall(r"(\w+)=(.*?)(?=, \w+=|$)", training):
            settings[name][size][value] = None
    told = [
        f"the {name.replace('_', ' ')} changes with it: {', '.join(' or '.join(values) for values in by_size.values())}"
        for name, by_size in settings.items()
        if name != "batch_size" and len({value for values in by_size.values() for value in values}) > 1
    ]
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}. " if told else ""


def draw_lambdas(frame: pl.DataFrame) -> Drawing:
    """Figure 5(b): score against λ, the weight of the neighbours in Q-Tuning's token score, a curve per budget.

    frame: `points` of an experiment.
    """
    chosen = varied_lambda(frame)
    alike = frame.filter((pl.col("method") == "zero-shot") | (pl.col("training") == chosen["training"][0]))
    # all are trained alike here, so the full data are a line and not a point of a batch size
    alike = alike.with_columns(batch_size=pl.lit(None, pl.Int64))
    text = f"Q-Tuning's average score against λ, {BY_BUDGET}"
    return _draw_setting(chosen, alike, "lambda", "Weight of the neighbours, λ", text)


def varied_lambda(frame: pl.DataFrame) -> pl.DataFrame:
    """The points of Q-Tuning that differ in λ only, trained alike; none if λ has one value only.

    If several ways of training vary λ, the first of them is taken.
    """
    chosen = _default_options(frame, but="lambda")
    chosen = chosen.filter(pl.col("lambda").n_unique().over("training") > 1)
    return chosen.filter(pl.col("training") == pl.col("training").first())


def _default_options(frame: pl.DataFrame, but: str = "") -> pl.DataFrame:
    """The points of Q-Tuning whose options, all or all `but` one, are at their defaults; however they are trained."""
    options = pl.col("variant").str.strip_prefix(pl.col("training")).str.strip_prefix(", ")
    return frame.filter((pl.col("method") == "q-tuning") & options.str.contains(f"^({but}=[^,]+)?$"))


def _draw_setting(
    chosen: pl.DataFrame, frame: pl.DataFrame, column: str, x_label: str, text: str, base: int | None = None
) -> Drawing:
    """Score against a setting of Q-Tuning, `column`: a curve per budget, and one of the full data if it varies there.

    chosen: the points to draw. frame: all points of the experiment, for the lines across the panels.
    """
    whole = frame.filter((pl.col("method") == "full") & pl.col(column).is_not_null())
    ticks = pl.col(column).map_elements(lambda value: f"{value:g}", return_dtype=pl.String)
    curves = [
        whole.with_columns(x=column, curve=pl.lit("Full data"), tick=pl.lit(None, pl.String)),
        chosen.with_columns(x=column, curve="budget", tick=ticks),
    ]
    names = chosen["budget"].unique(maintain_order=True)
    looks = {"Full data": FULL_LOOK} | dict(zip(names, cycle(BUDGET_LOOKS), strict=False))
    places = len(facets(chosen))
    size = (PAGE if places > 1 else COLUMN, 2.3 * -(-places // 2) + 0.5)
    figure = _draw(
        {x_label: pl.concat(curves).sort("x", maintain_order=True)},
        frame,
        looks,
        size,
        (0.06, MARGIN),
        base=base,
        far=True,
        most=3,
    )
    data = pl.concat([chosen, frame.filter(pl.col("method").is_in(UNPRUNED))])
    return Drawing(figure, data, f"{text}{describe_references(frame)}{CROSS}")


@styled()
def _draw(
    charts: Mapping[str, pl.DataFrame],
    frame: pl.DataFrame,
    looks: Mapping[str, Look],
    size: tuple[float, float],
    margins: tuple[float, float] = (0.06, 0.08),
    *,
    row_per_model: bool = False,
    base: int | None = 10,
    slanted: bool = False,
    far: bool = False,
    most: int | None = None,
) -> Figure:
    """A panel per train set, model and chart; two a row, with letters if there are two or more.

    charts: label of the x axis -> points with three more columns: `x`, `curve` (its name) and `tick` (label at `x`, or
    null). frame: all points, for the lines across. size: width and height (inches).
    row_per_model: instead of two a row, and with letters in any case. base: of the logarithm of the x axis; None for a
    linear one. slanted: the tick labels, if they are many. far: lines far from the curves are told at the edge. most:
    columns of the legend.
    """
    places = facets(pl.concat(charts.values()).drop_nulls("tick"))
    shown = [(title, here, *chart) for title, here in places for chart in charts.items()]
    columns = len(charts) if row_per_model else min(2, len(shown))
    share_y = "row" if row_per_model else "none"
    figure, axes = panels(-(-len(shown) // columns), columns, *size, sharey=share_y)
    for index, (panel, (title, here, x_label, chart)) in enumerate(zip(axes, shown, strict=False)):
        points = chart.filter(here)
        draw_references(panel, frame.filter(here), _ends(points) if far else ())
        for name, look in looks.items():
            curve = points.filter(pl.col("curve") == name).sort("x", maintain_order=True)
            if len(curve):
                _draw_curve(panel, curve, look)
        holes = points.filter(pl.col("mean").is_null())["x"]
        if len(holes):  # a cross at the lower end
            options: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 4.5, "color": BLACK}
            options |= {"transform": panel.get_xaxis_transform(), "label": "missing (see the data)"}
            panel.plot(holes, [0.03] * len(holes), **options)
        if base is not None:
            panel.set_xscale("log", base=base)
        ticks: dict[float, list[str]] = defaultdict(list)  # budgets of the same product share a tick
        for x, tick in points.select("x", "tick").drop_nulls().unique(maintain_order=True).iter_rows():
            ticks[round(x, 9)].append(tick)
        slant: dict[str, Any] = (
            {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted and len(ticks) > 4 else {}
        )
        panel.set_xticks(list(ticks), ["\n".join(labels) for labels in ticks.values()], **slant)
        panel.minorticks_off()
        panel.margins(*margins)
        panel.set_xlabel(x_label)
        if index % columns == 0:
            panel.set_ylabel(score_label(points))
        if row_per_model or len(shown) > 1:
            letter(panel, index, title)
    for panel in axes[len(shown) :]:
        panel.remove()
    legend_below(figure, axes[: len(shown)], most or (4 if size[0] == PAGE else 2))
    return figure


def _draw_curve(panel: Axes, rows: pl.DataFrame, look: Look) -> None:
    """Means over the seeds, joined in the order of the rows; bars: ± 1 sample standard deviation over the seeds.

    A hole breaks the line: its neighbours are not joined across it.
    """
    # clipping would cut a marker or a bar that ends at the frame
    options = look.options | {"label": rows["curve"][0], "zorder": 4 if look.width > 1 else 3, "clip_on": False}
    mean, sd = rows["mean"].to_numpy(), rows["sd"].fill_null(0.0).to_numpy()  # a null is NaN in numpy
    if sd.any():
        panel.errorbar(rows["x"], mean, yerr=sd, elinewidth=0.6, capthick=0.6, **options)
    else:
        panel.plot(rows["x"], mean, **options)


def draw_references(panel: Axes, frame: pl.DataFrame, near: Sequence[float] = ()) -> None:
    """Lines across the panel: full data (dashed, with a band of ± 1 sd over the seeds) and zero-shot (dotted).

    near: the scores that the curves show (`_ends`), in a panel with MARGIN. A line far from them would press them flat;
    it is told at the edge of the panel instead, with an arrow to where it lies.
    """
    lines = frame.filter(
        pl.col("method").is_in(UNPRUNED) & pl.col("mean").is_not_null() & pl.col("batch_size").is_null()
    )
    low, high = _shown_range(lines, near) if near else (-math.inf, math.inf)
    told = {True: 0, False: 0}  # at the upper edge, at the lower
    for method, (label, dashes, _) in REFERENCES.items():
        for mean, sd in lines.filter(pl.col("method") == method).select("mean", "sd").iter_rows():
            if low <= mean <= high:
                panel.axhline(mean, label=label, color="#444444", linestyle=dashes, linewidth=0.9, zorder=1.5)
                if sd:
                    panel.axhspan(mean - sd, mean + sd, color="#999999", alpha=0.15, linewidth=0)
                continue
            above = mean > high
            panel.annotate(
                f"{label} {mean:.1f} {'↑' if above else '↓'}",
                (1, 1 if above else 0),
                (0, -1 - 9 * told[above] if above else 2 + 9 * told[above]),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                va="top" if above else "bottom",
                color="#444444",
            )
            told[above] += 1


def describe_references(frame: pl.DataFrame) -> str:
    """What a caption says of the lines across a panel. frame: the points that they are taken from."""
    drawn = set(frame.drop_nulls("mean")["method"])
    told = [text for method, (*_, text) in REFERENCES.items() if method in drawn]
    return f"{'; '.join(told).capitalize()}. " if told else ""


def _shown_range(lines: pl.DataFrame, near: Sequence[float]) -> tuple[float, float]:
    """The scores at which a line is drawn: those near the curves, and all others that the axis then shows anyway."""
    # a single value has no range: matplotlib gives it 5% of itself on either side
    width = max(near) - min(near) or 0.1 * abs(min(near))
    low, high = min(near) - FAR * width, max(near) + FAR * width
    while True:
        shown = [*near, *_ends(lines.filter(pl.col("mean").is_between(low, high)))]
        room = MARGIN * (max(shown) - min(shown))
        lowest, highest = min(shown) - room, max(shown) + room
        if low <= lowest and highest <= high:
            return low, high
        # the band of a line has stretched the axis, which may now reach a line that was far
        low, high = min(low, lowest), max(high, highest)


def _ends(rows: pl.DataFrame) -> list[float]:
    """The scores that the rows show, at the ends of their bars."""
    known = rows.drop_nulls("mean")
    sd = known["sd"].fill_null(0.0)
    return [*(known["mean"] - sd), *(known["mean"] + sd)]
