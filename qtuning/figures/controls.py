"""The dose response of random pruning, and where methods lie between the oracle and the adversary at their budget."""

from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from qtuning.experiment.presets import PRESETS
from qtuning.figures.marks import Look, assign_looks
from qtuning.figures.points import SCHEMA as POINT_SCHEMA
from qtuning.figures.points import facets, points, score_label
from qtuning.figures.style import BLACK, GREEN, GREY, ORANGE, PAGE, Drawing, letter, panels, styled
from qtuning.statistics.answers import answer_sets
from qtuning.statistics.compare import interval
from qtuning.statistics.summary import Summary
from qtuning.store.lines import FULL, ZERO_SHOT, Line, control_at_budget, random_at_budget
from qtuning.tables.labels import method_label, percent

Role = Literal["random", "oracle", "adversary", "control", "method", "full", "zero-shot"]

SCHEMA: dict[str, Any] = POINT_SCHEMA | {
    "role": pl.String,
    "low": pl.Float64,
    "high": pl.Float64,
    "falling": pl.Boolean,
}
"""Columns of `controlled`: those of `points`; what a line is at its budget; a 95% interval of its score."""

SCALE: dict[str, Look] = {
    "random": Look(BLACK, "s", "-", 1.4),
    "oracle": Look(GREEN, "^", (0, (4, 1.5)), 1.1),
    "adversary": Look(ORANGE, "v", (0, (4, 1.5)), 1.1),
}
"""How the lines look that make the scale."""

HALO = [withStroke(linewidth=1.8, foreground="white")]
"""Letters on lines stay legible."""

HEIGHT = 3.0
"""Inches of a panel with what stands around it."""
NAMED = 9
"""Most methods of a budget that are named: Q-Tuning, then the best and the worst."""
LINE = 8.5
"""Points from one name to the next."""
FIRST, STEP, WIDTH = 0.09, 0.033, 0.8
"""Where the points of methods begin, how far they are apart, and how wide the grey is, as shares of a budget's room."""


def controlled(summary: Summary, items: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """The `points` of an experiment with roles and intervals, at the token ratios at which it has controls; the methods
    that prune nothing are among them. Empty where no control has a score.

    low, high: of the line's own score, over seeds and clusters of items (docs/statistics.md); null where unknown.
    """
    known = {(answers.model, answers.train_set): answers for answers in answer_sets(summary, items)}
    lines = {(line.train_set, method_label(line), line.sample_ratio, line.token_ratio): line for line in summary.lines}
    rows = []
    for row in points(summary).to_dicts():
        line = lines[row["train_set"], row["label"], row["sample_ratio"], row["token_ratio"]]
        found = interval(known[row["model"], row["train_set"]], line, summary.overall)
        low, high = (None, None) if isinstance(found, str) else found
        falling = not summary.metric.higher_is_better
        rows.append(row | {"role": role_of(line, summary.lines), "low": low, "high": high, "falling": falling})
    frame = pl.DataFrame(rows, schema=SCHEMA)
    shown = frame.filter(pl.col("role").is_in(["oracle", "adversary"]) & pl.col("mean").is_not_null())
    place = ["train_set", "model", "token_ratio"]
    whole = pl.col("role").is_in([FULL, ZERO_SHOT])
    pruned = frame.filter(~whole).join(shown, on=place, how="semi", maintain_order="left")
    return pl.concat([frame.filter(whole).join(shown, on=place[:2], how="semi", maintain_order="left"), pruned])


def role_of(line: Line, lines: Sequence[Line]) -> Role:
    """What a line is at its budget."""
    if line.method in (FULL, ZERO_SHOT):
        return "full" if line.method == FULL else "zero-shot"
    if line == random_at_budget(line, lines):
        return "random"
    if line == control_at_budget(line, lines, "oracle"):
        return "oracle"
    if line == control_at_budget(line, lines, "adversary"):
        return "adversary"
    return "control" if line.control else "method"


@styled()
def draw_controls(frame: pl.DataFrame) -> Drawing:
    """A panel per train set, model and token ratio: the score against the share of the samples.

    frame: `controlled`. Better is upwards, also where a lower score is better. Panels of a single budget stand side by
    side.
    """
    pruned = frame.filter(~pl.col("role").is_in([FULL, ZERO_SHOT]))
    first = pruned.group_by("token_ratio").agg(pl.col("sample_ratio").min()).sort("sample_ratio", "token_ratio")
    places = [
        (title, here, ratio)
        for (title, here), ratio in product(facets(pruned), first["token_ratio"])
        if len(pruned.filter(here & (pl.col("token_ratio") == ratio)))
    ]
    looks = assign_looks(pruned.filter(pl.col("role").is_in(["method", "control"])))
    slots = [_slots(frame.filter(here), ratio) for _, here, ratio in places]
    columns = min(3, len(places)) if max(map(len, slots)) == 1 else 1
    rows = -(-len(places) // columns)
    figure, axes = panels(rows, columns, PAGE, HEIGHT * rows)
    for index, (panel, (title, here, ratio)) in enumerate(zip(axes, places, strict=False)):
        _draw_panel(panel, frame.filter(here), ratio, slots[index], looks)
        panel.set_xlabel(f"Samples kept, {percent(ratio)} of their tokens")
        if index % columns == 0:
            panel.set_ylabel(score_label(frame))
        if len(places) > 1:
            letter(panel, index, title)
    for panel in axes[len(places) :]:
        panel.remove()
    text = (
        "Random pruning (black) at several budgets, and other methods at those that have controls: between the oracle, "
        "which knows which samples are good, and the adversary, which takes the bad ones first (grey: from the one to "
        "the other). Bars and the band are 95% intervals of a score over seeds and test items; differences are paired, "
        "and known better. Dashed: full data; dotted: zero-shot, the model without fine-tuning."
    )
    if frame["falling"].any():
        text += " A lower score is better, and is drawn higher."
    return Drawing(figure, frame, text)


def _curve(part: pl.DataFrame, ratio: float) -> pl.DataFrame:
    """Random pruning at a token ratio; where all tokens are kept, the full data are its end."""
    whole = part.filter((pl.col("role") == FULL) & (pl.col("token_ratio") == ratio)).head(1)
    curve = pl.concat([_at(part, ratio).filter(pl.col("role") == "random"), whole])
    return curve.unique("sample_ratio", keep="first", maintain_order=True).sort("sample_ratio")


def _at(part: pl.DataFrame, ratio: float) -> pl.DataFrame:
    return part.filter((pl.col("token_ratio") == ratio) & ~pl.col("role").is_in([FULL, ZERO_SHOT]))


def _slots(part: pl.DataFrame, ratio: float) -> list[float]:
    """The sample ratios on the axis, evenly spaced."""
    return sorted({*_curve(part, ratio)["sample_ratio"], *_at(part, ratio)["sample_ratio"]})


def _draw_panel(panel: Axes, part: pl.DataFrame, ratio: float, slots: list[float], looks: dict[str, Look]) -> None:
    here, curve = _at(part, ratio), _curve(part, ratio)
    across = part.filter(pl.col("role").is_in([FULL, ZERO_SHOT]))
    ends = [value for name in ("mean", "low", "high") for value in part[name].drop_nulls()]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    low, high = min(ends) - room, max(ends) + room
    panel.set_ylim(*((high, low) if part["falling"].any() else (low, high)))
    panel.set_xlim(-0.25, len(slots) - 0.25)
    panel.set_xticks(range(len(slots)), [percent(slot) for slot in slots])
    panel.tick_params(axis="x", length=0)
    panel.grid(visible=False, axis="x")
    _draw_references(panel, across)
    for role, look in SCALE.items():
        rows = (curve if role == "random" else here.filter(pl.col("role") == role)).drop_nulls("mean")
        rows = rows.sort("sample_ratio")
        _draw_scale(panel, rows, [slots.index(ratio) for ratio in rows["sample_ratio"]], role, look)
    for place, slot in enumerate(slots):
        rows = here.filter((pl.col("sample_ratio") == slot) & pl.col("mean").is_not_null())
        if rows["role"].is_in(["oracle", "adversary"]).any():
            _draw_slot(panel, rows, place, looks, (high - low) * LINE / (72 * 0.8 * HEIGHT))


def _draw_references(panel: Axes, across: pl.DataFrame) -> None:
    for role, dashes, name in ((FULL, (0, (6, 2)), "full data"), (ZERO_SHOT, (0, (1, 2)), "zero-shot")):
        for mean in across.filter(pl.col("role") == role)["mean"].drop_nulls().head(1):
            panel.axhline(mean, color="#444444", linestyle=dashes, linewidth=0.9, zorder=1.5)
            options: dict[str, Any] = {"xytext": (-1, 2), "textcoords": "offset points", "color": "#444444"}
            panel.annotate(name, (1, mean), xycoords=("axes fraction", "data"), ha="right", va="bottom", **options)


def _draw_scale(panel: Axes, rows: pl.DataFrame, x: list[int], role: str, look: Look) -> None:
    """Random pruning as a curve with a band, a control as points with bars; each named at its first point."""
    if not x:
        return
    panel.plot(x, rows["mean"], zorder=4, clip_on=False, **look.options | {"markersize": 4.6})
    bounded = [
        (at, row["low"], row["high"]) for at, row in zip(x, rows.to_dicts(), strict=True) if row["low"] is not None
    ]
    if role == "random" and len(bounded) > 1:
        places, low, high = zip(*bounded, strict=True)
        panel.fill_between(places, low, high, color=look.colour, alpha=0.12, linewidth=0, zorder=2)
    else:
        for place, low, high in bounded:
            panel.plot([place, place], [low, high], color=look.colour, linewidth=0.7, zorder=3)
    options: dict[str, Any] = {"xytext": (-5, 0), "ha": "right", "va": "center_baseline"}
    if role == "random" and len(x) > 1:
        options = {"xytext": (0, 5), "ha": "center", "va": "bottom"}
    options |= {"textcoords": "offset points", "color": look.colour, "weight": "bold"}
    panel.annotate(role, (x[0], rows["mean"][0]), path_effects=HALO, zorder=6, **options)


def _draw_slot(panel: Axes, rows: pl.DataFrame, place: int, looks: dict[str, Look], gap: float) -> None:
    """The methods of one budget, on the grey of what the controls leave them: points with bars, names beside them.

    gap: the height of a name, in the unit of the score.
    """
    scale = {row["role"]: row["mean"] for row in rows.to_dicts() if row["role"] in SCALE}
    if {"oracle", "adversary"} <= scale.keys():
        ends = sorted((scale["oracle"], scale["adversary"]))
        panel.fill_between([place - 0.05, place + WIDTH], *ends, color="#DDDDDD", alpha=0.45, linewidth=0, zorder=1)
    methods = rows.filter(pl.col("role").is_in(["method", "control"])).sort("mean", "label")
    chosen, names = _named(methods), []
    step = STEP * min(1.0, NAMED / max(1, len(methods)))
    for number, row in enumerate(methods.to_dicts()):
        look, x, named = looks[row["label"]], place + FIRST + step * number, row["label"] in chosen
        options = look.options | {"linestyle": "none", "zorder": 5 if named else 4, "clip_on": False}
        if not named:
            options |= {"color": GREY, "markersize": 2.6}
        elif row["low"] is not None:
            panel.plot([x, x], [row["low"], row["high"]], color=look.colour, linewidth=0.6, zorder=3)
        panel.plot(x, row["mean"], **options)
        if named:
            names.append((row["mean"], _short(row["label"]), look.colour, x))
    text_at = place + FIRST + step * len(methods) + 0.02
    for y, (mean, name, colour, x) in zip(apart([mean for mean, *_ in names], gap), names, strict=True):
        panel.plot([x, text_at - 0.01], [mean, y], color=colour, linewidth=0.35, zorder=2)
        panel.text(text_at, y, name, color=colour, va="center_baseline", path_effects=HALO, zorder=6)


def _named(methods: pl.DataFrame) -> set[str]:
    """The labels of the methods that are named; methods: by rising score."""
    labels = methods["label"].to_list()
    if len(labels) <= NAMED:
        return set(labels)
    own = methods.filter(pl.col("method").is_in(list(PRESETS)) & (pl.col("variant") == ""))["label"].to_list()[:2]
    rest = [label for label in labels if label not in own]
    half = (NAMED - len(own)) // 2
    return {*own, *rest[:half], *rest[-half:]}


def _short(label: str) -> str:
    """A pair of pruners by the one that is no random one: the panel and the budget say the rest."""
    for ending in (" + none", " + random"):
        label = label.removesuffix(ending)
    return label.removeprefix("full + ").removeprefix("random + ")


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Rising values moved as little as can be (least squares) so that neighbours are at least `gap` apart."""
    from scipy.optimize import isotonic_regression

    steps = gap * np.arange(len(values))
    return list(isotonic_regression(np.asarray(values) - steps).x + steps)
