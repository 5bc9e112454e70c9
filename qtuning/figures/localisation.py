"""How well scores of tokens find errors that were planted: precision, recall and area under the ROC curve."""

from typing import Any

import polars as pl

from qtuning.figures.style import BLUE, COLUMN, GREEN, PAGE, VERMILLION, Drawing, letter, panels, styled

MEASURES = (
    ("precision", "Precision", VERMILLION, ""),
    ("recall", "Recall", BLUE, "////"),
    ("auc", "AUC", GREEN, "...."),
)
WIDTH = 0.27
"""Of a bar; three of them stand together."""


def localisation(frame: pl.DataFrame) -> Drawing:
    """Bars from 0 to 1 by score, a panel per model.

    frame: score (its name), precision, recall, auc (fractions), and perhaps model. Of several rows of one score and
    model (seeds) the mean is shown, with ± 1 sample standard deviation; a bar that any of them lacks is a dash.
    """
    if "model" not in frame.columns:
        frame = frame.with_columns(pl.lit("").alias("model"))
    names = [name for name, *_ in MEASURES]
    data = frame.group_by("model", "score", maintain_order=True).agg(
        *(pl.when(pl.col(name).null_count() == 0).then(pl.col(name).mean()).alias(name) for name in names),
        *(pl.when(pl.col(name).null_count() == 0).then(pl.col(name).std()).alias(f"{name}_sd") for name in names),
        pl.len().alias("n"),
    )
    parts = data.partition_by("model", maintain_order=True)
    with styled():
        width = PAGE if len(parts) > 1 else COLUMN
        figure, axes = panels(1, len(parts), width, 2.5, sharey=True)
        for index, (panel, part) in enumerate(zip(axes, parts, strict=True)):
            for number, (name, label, colour, hatch) in enumerate(MEASURES):
                for place, row in enumerate(part.iter_rows(named=True)):
                    x, value, spread = place + (number - 1) * WIDTH, row[name], row[f"{name}_sd"]
                    if value is not None:
                        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
                        panel.bar(x, value, 0.92 * WIDTH, label=label, **style)
                    if spread is not None:
                        panel.errorbar(x, value, spread, color="black", elinewidth=0.7)
                    panel.annotate(
                        "–" if value is None else f"{value:.2f}".removeprefix("0"),
                        (x, (value or 0.0) + (spread or 0.0)),
                        (0, 2),
                        textcoords="offset points",
                        ha="center",
                        va="bottom",
                        fontsize=7,
                        bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none"},
                    )
            panel.axhline(0.5, color="#444444", linewidth=0.8, linestyle=(0, (1, 2)), label="AUC of guessing", zorder=1)
            panel.set_xticks(range(len(part)), [name.replace(" ", "\n") for name in part["score"]])
            panel.tick_params(axis="x", length=0)
            panel.grid(visible=False, axis="x")
            panel.set_ylim(0, 1.12)
            panel.set_yticks([0, 0.25, 0.5, 0.75, 1])
            if len(parts) > 1:
                letter(panel, index, f"{part['model'][0]} model")
        axes[0].set_ylabel("Precision, recall, AUC")
        handles, labels = axes[0].get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, handlelength=1.6)
    return Drawing(figure, data)
