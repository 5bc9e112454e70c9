"""Data of figures -> charts that the page draws with ECharts (assets/report/charts.js): panels, and series in them.

A chart has the numbers of the figure's CSV. Figures that are no curves or points (heat maps, bars) stay pictures.

A panel: title, x and y ({name, log, inverse, ticks}), lines across ([name, y, dashes]). A series: name (several of one
name share a button of the legend), panel (its number), colour, marker, dashes, width (of its line; 0: points alone),
step, points ([x, y, low, high, words], the last three null where there is nothing), shift (a factor of x, where series
would cover each other), band (whether low and high are curves).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import polars as pl

from qtuning.experiment.metrics import METRICS
from qtuning.figures.captions import SPREAD
from qtuning.figures.marks import BUDGET_LOOKS, FULL_LOOK, Look, assign_looks
from qtuning.figures.pareto import COSTS
from qtuning.figures.plane import STAGES
from qtuning.figures.points import UNPRUNED, facets, pruned, score_label
from qtuning.figures.score_curves import CROSS, REFERENCES, SIDES, pruned_alone
from qtuning.figures.style import BLUE, QUADRANT_COLOUR, VERMILLION
from qtuning.figures.training import QUADRANT_DASHES
from qtuning.figures.write import Written

Chart = dict[str, Any]
Looks = Mapping[str, Look]

NARROW = ("bands their range", "thin lines their range")
"""How captions call what lies between the seeds, and how a chart draws it."""

DIGITS = 5
"""Significant digits of a number in a chart."""

SCALE = ("random", "oracle", "adversary")
"""Roles that a chart of controls joins by lines."""

NOMINAL = "Nominal budget: samples × tokens (%)"
UNCERTAINTY, ERROR = "Uncertainty: mean token entropy (nats)", "Error: perplexity"


def chart_of(figure: Written, looks: Looks) -> tuple[Chart, str] | None:
    """The chart of a figure, and its caption; None for a figure that stays a picture."""
    kind = next((kind for kind in DRAWN if figure.name == kind or figure.name.startswith(f"{kind}-")), None)
    if kind is None:
        return None
    text = CAPTIONS[kind](figure.data) if kind in CAPTIONS else figure.text
    # what is said of the picture and is not true of the chart
    text = text.replace(CROSS, f"{SPREAD}.").replace(*NARROW).partition(" (a): at the medians")[0]
    return DRAWN[kind](figure.data, looks), text


def _budgets(data: pl.DataFrame, looks: Looks) -> Chart:
    shown = pruned(data).with_columns(x="nominal", curve="label")
    return _curves([(NOMINAL, True, shown)], data, looks)


def _ratios(data: pl.DataFrame, looks: Looks) -> Chart:
    del looks  # its curves have names of their own
    charts = []
    for ratio, (_, label, *_) in SIDES.items():
        part = pruned_alone(pruned(data), ratio)
        if len(part):
            charts.append((label, True, part.with_columns(x=100 * pl.col(ratio), curve="label")))
    return _curves(charts, data, assign_looks(pl.concat(part for _, _, part in charts)))


def _setting(column: str, label: str, log: bool) -> Callable[[pl.DataFrame, Looks], Chart]:
    def draw(data: pl.DataFrame, looks: Looks) -> Chart:
        whole = data.filter((pl.col("method") == "full") & pl.col(column).is_not_null())
        chosen = pruned(data).with_columns(x=column, curve="budget")
        budgets = chosen["budget"].unique(maintain_order=True)
        own = dict(zip(budgets, cycle(BUDGET_LOOKS), strict=False)) | {"Full data": FULL_LOOK}
        shown = pl.concat([whole.with_columns(x=column, curve=pl.lit("Full data")), chosen])
        return _curves([(label, log, shown)], data, own)

    return draw


def _curves(charts: Sequence[tuple[str, bool, pl.DataFrame]], frame: pl.DataFrame, looks: Looks) -> Chart:
    """A panel for each train set and model, and chart: (label of the x axis, whether it is a log, points with `x`)."""
    panels, series = [], []
    for title, here in facets(pl.concat(chart for _, _, chart in charts)):
        for label, log, chart in charts:
            y = {"name": score_label(frame), "inverse": _falls(frame)}
            panels.append(
                {"title": title, "x": {"name": label, "log": log}, "y": y, "lines": _lines(frame.filter(here))}
            )
            for curve in chart.filter(here).partition_by("curve", maintain_order=True):
                rows = curve.sort("x", maintain_order=True)
                points = [_scored(row["x"], row) for row in rows.to_dicts()]
                series.append(_series(curve["curve"][0], len(panels) - 1, points, looks))
    return {"panels": panels, "series": series}


def _pareto(data: pl.DataFrame, looks: Looks) -> Chart:
    panels, series = [], []
    for title, here in facets(data):
        part = data.filter(here)
        for cost, unit in COSTS:
            relative = (part[f"{cost}_drawn"] != part[cost]).any()
            x = {"name": f"{unit}{', % of full data' if relative else ''}, scoring included", "log": True}
            panels.append(
                {"title": title, "x": x, "y": {"name": score_label(data), "inverse": _falls(data)}, "lines": []}
            )
            front = part.filter(f"{cost}_front").sort(f"{cost}_drawn")
            stairs = [[row[f"{cost}_drawn"], row["mean"], None, None, None] for row in front.to_dicts()]
            look = Look("#444444", "none", "-", 0.8)
            series.append(_series("Pareto front", len(panels) - 1, stairs, {"Pareto front": look}) | {"step": True})
            for rows in part.partition_by("label", maintain_order=True):
                points = [_scored(row[f"{cost}_drawn"], row) for row in rows.to_dicts()]
                series.append(_series(rows["label"][0], len(panels) - 1, points, looks) | {"width": 0})
    return {"panels": panels, "series": series}


def _controls(data: pl.DataFrame, looks: Looks) -> Chart:
    """Beside one another at a budget, so that intervals do not cover each other: x is moved by 1.5% for each."""
    panels, series = [], []
    shown = data.filter(~pl.col("role").is_in(UNPRUNED))
    for title, here in facets(shown):
        for ratio in shown.filter(here)["token_ratio"].unique().sort():
            part = shown.filter(here & (pl.col("token_ratio") == ratio))
            titled = ", ".join(filter(None, [title, f"{100 * ratio:g}% of the tokens"]))
            ticks = [100 * value for value in part["sample_ratio"].unique().sort()]
            x = {"name": "Samples kept (%)", "log": True, "ticks": ticks}
            y = {"name": score_label(data), "inverse": bool(data["falling"].any())}
            panels.append({"title": titled, "x": x, "y": y, "lines": _lines(data.filter(here))})
            for number, label in enumerate(part["label"].unique(maintain_order=True)):
                rows = part.filter(pl.col("label") == label).sort("sample_ratio")
                points = [_scored(100 * row["sample_ratio"], row) for row in rows.to_dicts()]
                found = _series(label, len(panels) - 1, points, looks) | {"shift": 1.015**number}
                series.append(found if rows["role"][0] in SCALE else found | {"width": 0})
    return {"panels": panels, "series": series}


def _convergence(data: pl.DataFrame, looks: Looks) -> Chart:
    names = {"loss": "Loss of the kept tokens (nats)", "tokens_kept": "Tokens kept per update"}
    return _bands(data, "update", "Optimizer update", {key: (name, False) for key, name in names.items()}, looks)


def _watched(data: pl.DataFrame, looks: Looks) -> Chart:
    columns = {"ppl": ("Mean perplexity", True), "entropy": ("Mean entropy (nats)", False)}
    shares = data.with_columns(x=100 * pl.col("done"))
    return _bands(shares, "x", "Training done (% of the updates)", columns, looks)


def _bands(data: pl.DataFrame, x: str, label: str, columns: Mapping[str, tuple[str, bool]], looks: Looks) -> Chart:
    panels, series = [], []
    for number, (column, (name, log)) in enumerate(columns.items()):
        panels.append({"title": "", "x": {"name": label, "log": False}, "y": {"name": name, "log": log}, "lines": []})
        for rows in data.partition_by("label", maintain_order=True):
            found = _series(rows["label"][0], number, _banded(rows, x, column), looks)
            series.append(found | {"band": True, "marker": "none"})
    return {"panels": panels, "series": series}


def _shares(data: pl.DataFrame, looks: Looks) -> Chart:
    del looks
    update = {"name": "Optimizer update", "log": False}
    share, series = {"name": "Share of the samples (%)"}, []
    titles = [f"quadrants of the {by}" for by in ("median split", "thresholds")]
    panels = [{"title": title, "x": update, "y": share, "lines": []} for title in titles]
    for number, column in enumerate(("median_q{}", "q{}_share")):
        for quadrant, colour in QUADRANT_COLOUR.items():
            points = _banded(data, "update", column.format(quadrant), 100)
            look = Look(colour, "none", QUADRANT_DASHES[quadrant], 1.2)
            series.append(_series(f"Q{quadrant}", number, points, {f"Q{quadrant}": look}) | {"band": True})
    for number, (axis, name, log) in enumerate((("ppl", "Perplexity", True), ("ent", "Entropy (nats)", False)), 2):
        title = f"thresholds of {'error' if axis == 'ppl' else 'uncertainty'}"
        panels.append({"title": title, "x": update, "y": {"name": name, "log": log}, "lines": []})
        for end, colour, dashes in (("high above", VERMILLION, "-"), ("low up to", BLUE, (0, (5, 1.5)))):
            points = _banded(data, "update", f"{axis}_{end.partition(' ')[0]}")
            series.append(_series(end, number, points, {end: Look(colour, "none", dashes, 1.1)}) | {"band": True})
    return {"panels": panels, "series": series}


def _plane(data: pl.DataFrame, looks: Looks) -> Chart:
    del looks
    return _planes([("", data)])


def _flow(data: pl.DataFrame, looks: Looks) -> Chart:
    del looks
    return _planes([(f"{stage} of training", data.filter(pl.col("stage") == stage)) for stage in STAGES])


def _planes(parts: Sequence[tuple[str, pl.DataFrame]]) -> Chart:
    """Points on the plane by quadrant of the median split and by fate."""
    panels, series = [], []
    for number, (title, part) in enumerate(parts):
        x, y = {"name": UNCERTAINTY, "log": False}, {"name": ERROR, "log": True}
        panels.append({"title": title, "x": x, "y": y, "lines": []})
        for quadrant, colour in QUADRANT_COLOUR.items():
            for kept, fate in ((False, "dropped"), (True, "kept")):
                rows = part.filter((pl.col("median_quadrant") == quadrant) & (pl.col("kept") == kept))
                points = [[*map(_short, pair), None, None, None] for pair in rows.select("entropy", "ppl").iter_rows()]
                name = f"Q{quadrant} {fate}"
                look = Look(colour, "o" if kept else "ring", "-", 0)
                series.append(_series(name, number, points, {name: look}))
    return {"panels": panels, "series": series}


def _series(name: str, panel: int, points: list[list[Any]], looks: Looks) -> dict[str, Any]:
    look = looks.get(name) or next(
        (look for label, look in looks.items() if name.startswith(label)), Look(BLUE, "o", "-")
    )
    dashes = None if look.dashes == "-" else list(look.dashes[1])
    return {
        **{"name": name, "panel": panel, "colour": look.colour, "marker": look.marker, "dashes": dashes},
        **{"width": look.width, "points": [[*map(_short, point[:4]), point[4]] for point in points]},
    }


def _scored(x: float | None, row: Mapping[str, Any]) -> list[Any]:
    """A score with its interval where it is known, else with its spread; a hole has no score and says why."""
    mean, words = row["mean"], [f"{row['label']} {row['budget']}".strip()]
    low, high = row.get("low"), row.get("high")
    if mean is None:
        return [x, None, None, None, f"{words[0]}: {row['hole']}"]
    text = f"{words[0]}: {mean:.2f}"
    if low is not None:
        text += f" [{low:.2f}, {high:.2f}]"
    elif row["sd"] is not None:
        low, high, text = mean - row["sd"], mean + row["sd"], f"{text} ± {row['sd']:.2f}"
    text += f", {row['n_seeds']} seed{'' if row['n_seeds'] == 1 else 's'}"
    if row["flops_share"] is not None:
        text += f", {row['flops_share']:.1%} of the full data's FLOPs"
    return [x, mean, low, high, text]


def _banded(rows: pl.DataFrame, x: str, column: str, scale: float = 1) -> list[list[Any]]:
    names = (column, f"{column}_low_seed", f"{column}_high_seed")
    known = rows.drop_nulls(column).select(x, *(pl.col(name) * scale for name in names))
    return [[*row, None] for row in known.iter_rows()]


def _lines(frame: pl.DataFrame) -> list[list[Any]]:
    """What prunes nothing, as lines across a panel: [name, score, dashes]."""
    rows = frame.filter(pl.col("method").is_in(UNPRUNED) & pl.col("batch_size").is_null()).drop_nulls("mean")
    return [
        [REFERENCES[method][0], _short(mean), list(REFERENCES[method][1][1])]
        for method, mean in rows.select("method", "mean").iter_rows()
    ]


def _falls(frame: pl.DataFrame) -> bool:
    return not METRICS[frame["metric"][0]].higher_is_better


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


CAPTIONS: dict[str, Callable[[pl.DataFrame], str]] = {
    "controls": lambda data: (
        "Random pruning at several budgets, and other methods at those that have controls: between the oracle, which "
        "knows which samples are good, and the adversary, which takes the bad ones first. Methods of a budget stand "
        "side by side. Bars are 95% intervals of a score over seeds and test items; differences are paired, and known "
        "better. Dashed: full data; dotted: zero-shot, the model without fine-tuning."
    ),
    "plane": lambda data: f"The Error-Uncertainty plane of {data['cell'][0]}: {len(data):,} {_OF_PLANE}",
    "flow": lambda data: (
        f"The plane of {data['cell'][0]} in the first, the middle and the last tenth of the updates: {len(data):,} "
        f"{_OF_PLANE}"
    ),
}
"""Captions of charts that show other things than the picture does."""

_OF_PLANE = (
    "samples, evenly spaced over all that were scored in training, each under the model of its update. Colour: "
    "quadrant of the median split; discs were kept, rings dropped."
)

DRAWN: dict[str, Callable[[pl.DataFrame, Looks], Chart]] = {
    "controls": _controls,
    "budgets": _budgets,
    "ratios": _ratios,
    "batch-size": _setting("batch_size", "Batch size (samples)", True),
    "lambda": _setting("lambda", "Weight of the neighbours, λ", False),
    "pareto": _pareto,
    "convergence": _convergence,
    "watched": _watched,
    "shares": _shares,
    "plane": _plane,
    "flow": _flow,
}
"""The figures that the page draws itself."""
