"""How well scores of tokens, and pruning, find errors that were planted: precision, recall, area under the curve."""

from typing import Any

import polars as pl
from matplotlib.axes import Axes

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


def localisation(frame: pl.DataFrame) -> Drawing:
    """Points from 0 to 1: a row per method and budget, a panel per score; open: base model, filled: trained.

    frame: `results.localised.localised`, all of which is in the data. Methods that prune no tokens have no points in
    the panels of pruned tokens; a value that is missing is a dash.
    """
    keys = ["train_set", "model", "label", "budget"]
    groups = frame.partition_by("train_set", "model", maintain_order=True)
    several = {name: frame[name].n_unique() > 1 for name in ("train_set", "model")}
    height = sum(0.30 * part.select(keys).n_unique() + 0.55 for part in groups) + 0.35
    with styled():
        ratios = [part.select(keys).n_unique() for part in groups]
        figure, axes = panels(
            len(groups), len(PANELS), PAGE, height, sharex=True, sharey="row", gridspec_kw={"height_ratios": ratios}
        )
        for number, part in enumerate(groups):
            lines = part.unique(keys, keep="first", maintain_order=True)
            for column, (score, title, measures) in enumerate(PANELS):
                panel, index = axes[number * len(PANELS) + column], number * len(PANELS) + column
                _panel(panel, lines, part.filter(pl.col("score") == score), measures)
                letter(panel, index, title)
            first = axes[number * len(PANELS)]
            first.set_yticks(
                range(len(lines)),
                [f"{row['label']}{_budget(row)}" for row in lines.iter_rows(named=True)],
            )
            first.set_ylim(len(lines) - 0.45, -0.55)
            name = ", ".join(part[name][0] for name, more in several.items() if more)
            if name:
                first.set_ylabel(name)
        handles, labels = _legend(axes)
        legend_below(figure, handles, labels, len(labels), handlelength=1.2)
    return Drawing(figure, frame)


def _budget(row: dict[str, Any]) -> str:
    """` 50×70`, below the method; nothing for the full data."""
    return "" if row["method"] == "full" else f", {row['budget'].replace('% x ', '×').removesuffix('%')}"


def _panel(panel: Axes, lines: pl.DataFrame, rows: pl.DataFrame, measures: tuple[str, ...]) -> None:
    """One score: a row per line, its measures by colour and marker; the λ of the smoothed score in its row."""
    places = {(row["label"], row["budget"]): place for place, row in enumerate(lines.iter_rows(named=True))}
    for row in rows.iter_rows(named=True):
        if row["score"] in PRUNED and row["share"] == 0:
            continue
        place = places[row["label"], row["budget"]]
        for number, measure in enumerate(measures):
            label, colour, marker = LOOKS[measure]
            y = place + OFFSET[row["weights"], number]
            if row[measure] is None:
                panel.annotate("–", (0.01, y), fontsize=7, va="center", color=colour)
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
            panel.annotate(f"λ {row['lambda']:g}", (0.13, place), fontsize=7, va="center", color="#444444")
    if "auc" in measures:  # of guessing
        panel.axvline(0.5, color="#444444", linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
    panel.set_xlim(0, 1)
    panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    panel.tick_params(axis="y", length=0)


def _legend(axes: list[Axes]) -> tuple[list[Any], list[str]]:
    """Each measure and weights once, in the order of LOOKS."""
    found: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    names = [f"{label}, {weights}" for label, *_ in LOOKS.values() for weights in ("base", "trained")]
    shown = [name for name in names if name in found]
    return [found[name] for name in shown], shown
