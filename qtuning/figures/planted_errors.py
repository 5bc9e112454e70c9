"""How well scores of tokens, and pruning, find errors that were planted: precision, recall, area under the curve."""

from typing import Any

import polars as pl
from matplotlib.axes import Axes

from qtuning.figures.captions import SPREAD
from qtuning.figures.points import budget_name
from qtuning.figures.style import BLUE, GREEN, PAGE, VERMILLION, Drawing, legend_below, letter, panels, styled
from qtuning.tables.planted_errors import PRUNED

PANELS = (
    ("token perplexity", "Token perplexity", ("precision", "auc")),
    ("smoothed score", "Smoothed score", ("precision", "auc")),
    ("pruned tokens", "Pruned tokens", ("precision", "recall")),
    ("pruned tokens of kept samples", "In kept samples", ("precision", "recall")),
)
"""Score, title of its panel, measures that it has."""

LOOKS: dict[str, tuple[str, str, str]] = {
    "precision": ("Precision", VERMILLION, "o"),
    "recall": ("Recall", BLUE, "s"),
    "auc": ("AUC", GREEN, "^"),
}
"""Measure -> its name, colour and marker."""

OFFSET = {("base", 0): -0.27, ("trained", 0): -0.09, ("base", 1): 0.09, ("trained", 1): 0.27}
"""Of a point from the middle of its row, by the weights and the number of the measure."""


@styled()
def draw_planted_errors(frame: pl.DataFrame) -> Drawing:
    """Points from 0 to 1: a row per method and budget, a panel per score; open: base model, filled: trained.

    frame: that of `localised` (tables/planted_errors.py), all of which is in the data. Methods that prune no tokens
    have no points in the panels of pruned tokens; a value that is missing is a dash.
    """
    groups = frame.partition_by("train_set", "model", maintain_order=True)
    several = [name for name in ("train_set", "model") if frame[name].n_unique() > 1]
    lines = [part.unique(["label", "budget"], keep="first", maintain_order=True) for part in groups]
    ratios = [len(rows) for rows in lines]
    height = sum(0.30 * count + 0.55 for count in ratios) + 0.35
    options: dict[str, Any] = {"sharex": True, "sharey": "row", "gridspec_kw": {"height_ratios": ratios}}
    figure, axes = panels(len(groups), len(PANELS), PAGE, height, **options)
    for number, (part, rows) in enumerate(zip(groups, lines, strict=True)):
        for index, (score, title, measures) in enumerate(PANELS, start=number * len(PANELS)):
            _draw_score(axes[index], rows, part.filter(pl.col("score") == score), measures)
            letter(axes[index], index, title)
        first = axes[number * len(PANELS)]
        named = [
            row["label"]
            + ("" if row["method"] == "full" else f", {budget_name(row['sample_ratio'], row['token_ratio'])}")
            for row in rows.iter_rows(named=True)
        ]
        first.set_yticks(range(len(rows)), named)
        first.set_ylim(len(rows) - 0.45, -0.55)
        if several:
            first.set_ylabel(", ".join(part[name][0] for name in several))
    order = [f"{label}, {weights}" for label, *_ in LOOKS.values() for weights in ("base", "trained")]
    legend_below(figure, axes, len(order), order, handlelength=1.2)
    text = (
        "Planted errors: how well scores rank wrong tokens above right ones (precision among as many highest-scored"
        " tokens as are wrong, which is also the recall; area under the ROC curve, dotted: of guessing), and which "
        "tokens each method prunes in its first epoch (precision, recall), by the scores of the base model (open) "
        "and of the trained one (filled). λ: of the smoothed score. Methods that prune no tokens have no points "
        f"there. {SPREAD}; a dash is a value that is missing."
    )
    return Drawing(figure, frame, text)


def _draw_score(panel: Axes, lines: pl.DataFrame, rows: pl.DataFrame, measures: tuple[str, ...]) -> None:
    """One score: a row per line, its measures by colour and marker; the λ of the smoothed score in its row."""
    places = {line: place for place, line in enumerate(lines.select("label", "budget").iter_rows())}
    for row in rows.iter_rows(named=True):
        if row["score"] in PRUNED and row["share"] == 0:
            continue
        place = places[row["label"], row["budget"]]
        for number, measure in enumerate(measures):
            label, colour, marker = LOOKS[measure]
            y = place + OFFSET[row["weights"], number]
            if row[measure] is None:
                panel.annotate("–", (0.01, y), va="center", color=colour)
                continue
            panel.errorbar(
                row[measure],
                y,
                xerr=row[f"{measure}_sd"],
                marker=marker,
                color=colour,
                markerfacecolor=colour if row["weights"] == "trained" else "white",
                markeredgewidth=0.8,
                elinewidth=0.6,
                linestyle="none",
                clip_on=False,
                label=f"{label}, {row['weights']}",
            )
        if row["score"] == "smoothed score" and row["weights"] == "base" and row["lambda"] is not None:
            panel.annotate(f"λ {row['lambda']:g}", (0.13, place), va="center", color="#444444")
    if "auc" in measures:  # of guessing
        panel.axvline(0.5, color="#444444", linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
    panel.set_xlim(0, 1)
    panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    panel.tick_params(axis="y", length=0)
