"""Curves of the score against the budget, the sample or token ratio, the batch size, or λ: one drawing, four x axes.

`score_curves` yields those that an experiment has.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qtuning.figures.captions import SPREAD
from qtuning.figures.marks import BUDGET_LOOKS, FULL_LOOK, Look, assign_looks, describe_looks
from qtuning.figures.points import UNPRUNED, facets, pruned, score_label
from qtuning.figures.style import BLACK, COLUMN, PAGE, Drawing, legend_below, letter, panels, styled
from qtuning.tables.labels import percent

SIDES = (
    ("sample_ratio", "token_ratio", "Samples kept, all their tokens (%)"),
    ("token_ratio", "sample_ratio", "Tokens kept, of all samples (%)"),
)
"""Of `draw_ratios`: the ratio on the axis, the one that is 1, and the label of the axis."""

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
    if any(len(pruned_alone(frame, *side[:2])) for side in SIDES):
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
    charts = []
    for facet in facets(shown):
        part = facet.of(shown)
        names: dict[float, list[str]] = {}  # budgets of the same product share a tick
        for nominal, budget in part.select("nominal", "budget").unique(maintain_order=True).iter_rows():
            names.setdefault(round(nominal, 9), []).append(budget)
        charts.append(
            Chart(
                title=facet.title,
                everything=facet.of(frame),
                points=part.with_columns(x=pl.col("nominal"), curve=pl.col("label")),
                x_label="Nominal budget: samples × tokens (%, log scale)",
                ticks={nominal: "\n".join(budgets) for nominal, budgets in names.items()},
            )
        )
    many, wide = len(looks) > 6, len(charts) > 1
    height = (3.0 if many else 2.4) * -(-len(charts) // 2) + 0.55 + -(-len(looks) // (4 if wide else 2)) * 0.14
    figure = _draw(charts, looks, PAGE if wide or many else COLUMN, height, slanted=True, margins=(0.06, 0.08))
    text = "Average score against the nominal budget, r_sample × r_token. "
    return Drawing(figure, frame, f"{text}{describe_looks(shown)} {describe_references(frame)}{CROSS}")


def draw_ratios(frame: pl.DataFrame) -> Drawing:
    """Figure 4: score against the sample ratio (all tokens) and the token ratio (all samples), a row per model.

    frame: `points` of an experiment. A side without points is not drawn.
    """
    parts = [(*side, pruned_alone(frame, *side[:2])) for side in SIDES]
    parts = [part for part in parts if len(part[-1])]
    shown = pl.concat([part for *_, part in parts])
    charts = []
    for facet in facets(shown):
        for ratio, _, x_label, part in parts:
            here = facet.of(part).with_columns(x=100 * pl.col(ratio), curve=pl.col("label"))
            ticks = {100 * value: percent(value)[:-1] for value in sorted(here[ratio].unique())}
            charts.append(Chart(facet.title, facet.of(frame), here, x_label, ticks))
    rows = len(charts) // len(parts)
    width = PAGE if len(parts) > 1 else COLUMN
    looks = assign_looks(shown)
    figure = _draw(charts, looks, width, 2.35 * rows + 0.75, columns=len(parts), margins=(0.08, 0.08), sharey="row")
    text = "Average score when only samples (all tokens), or only tokens (all samples) are pruned. "
    return Drawing(
        figure,
        pl.concat([shown, frame.filter(pl.col("method").is_in(UNPRUNED))]),
        f"{text}{describe_looks(pruned(frame))} {describe_references(frame)}{CROSS}",
    )


def pruned_alone(frame: pl.DataFrame, ratio: str, other: str) -> pl.DataFrame:
    """The points that prune by `ratio` only, if there are two such ratios or more; else none.

    A pair of pruners is named after the one that prunes: `longest + none` is `longest (samples)` here.
    """
    chosen = pruned(frame).filter((pl.col(other) == 1) & (pl.col(ratio) < 1))
    label = pl.col("label")
    if ratio == "sample_ratio":
        label = label.str.replace(r" \+ none", " (samples)")
    else:
        tokens = label.str.strip_prefix("full + ") + " (tokens)"
        label = pl.when(label.str.starts_with("full + ")).then(tokens).otherwise(label)
    chosen = chosen.with_columns(label)
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
    settings: dict[str, dict[int, list[str]]] = {}
    for size, training in frame.sort("batch_size").select("batch_size", "training").unique(maintain_order=True).rows():
        for name, value in re.findall(r"(\w+)=(.*?)(?=, \w+=|$)", training):
            values = settings.setdefault(name, {}).setdefault(size, [])
            if value not in values:
                values.append(value)
    settings.pop("batch_size", None)
    told = [
        f"the {name.replace('_', ' ')} changes with it: {', '.join(' or '.join(values) for values in by_size.values())}"
        for name, by_size in settings.items()
        if len({value for values in by_size.values() for value in values}) > 1
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
    options = [
        text.removeprefix(training).removeprefix(", ")
        for text, training in frame.select("variant", "training").iter_rows()
    ]
    default = [re.fullmatch(f"({but}=[^,]+)?" if but else "", text) is not None for text in options]
    return frame.filter(pl.Series(default, dtype=pl.Boolean) & (pl.col("method") == "q-tuning"))


def _draw_setting(
    frame: pl.DataFrame,
    everything: pl.DataFrame,
    column: str,
    x_label: str,
    text: str,
    base: int | None = None,
) -> Drawing:
    """Score against a setting of Q-Tuning, `column`: a curve per budget, and one of the full data if it varies there.

    frame: the points to draw. everything: all points of the experiment, for the lines across the panels.
    """
    charts = []
    for facet in facets(frame):
        part, rest = facet.of(frame), facet.of(everything)
        whole = rest.filter((pl.col("method") == "full") & pl.col(column).is_not_null())
        curves = pl.concat(
            [whole.with_columns(curve=pl.lit("Full data")), part.with_columns(curve=pl.col("budget"))]
        ).with_columns(x=pl.col(column))
        ticks = {value: f"{value:g}" for value in sorted(part[column].unique())}
        charts.append(Chart(facet.title, rest, curves, x_label, ticks))
    names = frame["budget"].unique(maintain_order=True)
    looks = {name: BUDGET_LOOKS[number % len(BUDGET_LOOKS)] for number, name in enumerate(names)}
    width = PAGE if len(charts) > 1 else COLUMN
    height = 2.3 * -(-len(charts) // 2) + 0.5
    looks = {"Full data": FULL_LOOK} | looks
    figure = _draw(charts, looks, width, height, base=base, margins=(0.06, MARGIN), far=True, most=3)
    data = pl.concat([frame, everything.filter(pl.col("method").is_in(UNPRUNED))])
    return Drawing(figure, data, f"{text}{describe_references(everything)}{CROSS}")


@dataclass(frozen=True)
class Chart:
    """A panel of score curves.

    everything: all points of its train set and model, for the lines across. points: those of the curves, with two more
    columns: `x`, and `curve`, the name of the curve. ticks: label of each tick of the x axis.
    """

    title: str
    everything: pl.DataFrame
    points: pl.DataFrame
    x_label: str
    ticks: Mapping[float, str]


def _draw(
    charts: Sequence[Chart],
    looks: Mapping[str, Look],
    width: float,
    height: float,
    *,
    margins: tuple[float, float],
    columns: int | None = None,
    base: int | None = 10,
    slanted: bool = False,
    far: bool = False,
    most: int | None = None,
    **options: Any,
) -> Figure:
    """A figure of the charts, row by row; by default two a row, with letters if there are two or more.

    base: of the logarithm of the x axis; None for a linear one. slanted: the tick labels, if they are many. far: lines
    far from the curves are told at the edge. most: columns of the legend.
    """
    letters = columns is not None or len(charts) > 1
    columns = columns or min(2, len(charts))
    with styled():
        figure, axes = panels(-(-len(charts) // columns), columns, width, height, **options)
        for index, (panel, chart) in enumerate(zip(axes, charts, strict=False)):
            points = chart.points
            draw_references(panel, chart.everything, _span(points) if far else None)
            for name, look in looks.items():
                rows = points.filter(pl.col("curve") == name).sort("x", maintain_order=True)
                if len(rows):
                    _draw_curve(panel, rows, look)
            _draw_holes(panel, points.filter(pl.col("mean").is_null())["x"])
            if base is not None:
                panel.set_xscale("log", base=base)
            slant = slanted and len(chart.ticks) > 4
            panel.set_xticks(
                list(chart.ticks),
                list(chart.ticks.values()),
                rotation=45 if slant else 0,
                ha="right" if slant else "center",
                rotation_mode="anchor" if slant else "default",
            )
            panel.minorticks_off()
            panel.margins(*margins)
            panel.set_xlabel(chart.x_label)
            if index % columns == 0:
                panel.set_ylabel(score_label(points))
            if letters:
                letter(panel, index, chart.title)
        for panel in axes[len(charts) :]:
            panel.remove()
        legend_below(figure, axes[: len(charts)], most or (4 if width == PAGE else 2))
    return figure


def _draw_curve(panel: Axes, rows: pl.DataFrame, look: Look) -> None:
    """Means over the seeds, joined in the order of the rows; bars: ± 1 sample standard deviation over the seeds.

    A hole breaks the line: its neighbours are not joined across it.
    """
    mean = [float("nan") if value is None else value for value in rows["mean"]]
    sd = [0.0 if value is None else value for value in rows["sd"]]
    # clipping would cut a marker or a bar that ends at the frame
    options = look.options | {"label": rows["curve"][0], "zorder": 4 if look.width > 1 else 3, "clip_on": False}
    if any(sd):
        panel.errorbar(rows["x"].to_list(), mean, yerr=sd, elinewidth=0.6, capthick=0.6, **options)
    else:
        panel.plot(rows["x"].to_list(), mean, **options)


def _draw_holes(panel: Axes, at: pl.Series) -> None:
    """A cross at the lower end of a panel for each score that is missing."""
    if len(at):
        transform = panel.get_xaxis_transform()
        options: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 4.5, "color": BLACK}
        panel.plot(at.to_list(), [0.03] * len(at), transform=transform, label="missing (see the data)", **options)


def draw_references(panel: Axes, frame: pl.DataFrame, near: tuple[float, float] | None = None) -> None:
    """Lines across the panel: full data (dashed, with a band of ± 1 sd over the seeds) and zero-shot (dotted).

    near: the range of the curves (`_span`), in a panel with MARGIN. A line far from them would press them flat; it is
    told at the edge of the panel instead, with an arrow to where it lies.
    """
    lines = frame.filter(
        pl.col("method").is_in(UNPRUNED) & pl.col("mean").is_not_null() & pl.col("batch_size").is_null()
    )
    low, high = (-math.inf, math.inf) if near is None else _shown_range(lines, near)
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
                fontsize=7,
                color="#444444",
            )
            told[above] += 1


def describe_references(frame: pl.DataFrame) -> str:
    """What a caption says of the lines across a panel. frame: the points that they are taken from."""
    drawn = set(frame.filter(pl.col("mean").is_not_null())["method"])
    told = [text for method, (*_, text) in REFERENCES.items() if method in drawn]
    return f"{'; '.join(told).capitalize()}. " if told else ""


def _shown_range(lines: pl.DataFrame, near: tuple[float, float]) -> tuple[float, float]:
    """The scores at which a line is drawn: those near the curves, and all others that the axis then shows anyway."""
    # a single value has no range: matplotlib gives it 5% of itself on either side
    width = near[1] - near[0] or 0.1 * abs(near[0])
    low, high = near[0] - FAR * width, near[1] + FAR * width
    shown = near
    while True:
        drawn = _span(lines.filter(pl.col("mean").is_between(low, high)))
        if drawn is not None:
            shown = min(shown[0], drawn[0]), max(shown[1], drawn[1])
        room = MARGIN * (shown[1] - shown[0])
        if low <= shown[0] - room and shown[1] + room <= high:
            return low, high
        # the band of a line has stretched the axis, which may now reach a line that was far
        low, high = min(low, shown[0] - room), max(high, shown[1] + room)


def _span(rows: pl.DataFrame) -> tuple[float, float] | None:
    """(lowest, highest) score that the rows show, bars included; None if all scores are missing."""
    known = rows.filter(pl.col("mean").is_not_null())
    sd = known["sd"].fill_null(0.0)
    ends = [*(known["mean"] - sd), *(known["mean"] + sd)]
    return (min(ends), max(ends)) if ends else None
