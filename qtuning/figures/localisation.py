"""How well scores of tokens find errors that were planted: precision, recall and area under the ROC curve."""

import polars as pl

from qtuning.figures.style import BLUE, COLUMN, GREEN, VERMILLION, Drawing, panels, styled

MEASURES = (
    ("precision", "Precision", VERMILLION, ""),
    ("recall", "Recall", BLUE, "////"),
    ("auc", "AUC", GREEN, "...."),
)


def localisation(frame: pl.DataFrame) -> Drawing:
    """Bars from 0 to 1 by score.

    frame: score (its name), precision, recall, auc (fractions). Of several rows of one score the mean is shown, with
    ± 1 sample standard deviation.
    """
    columns = [name for name, *_ in MEASURES]
    data = frame.group_by("score", maintain_order=True).agg(
        *(pl.col(name).mean() for name in columns),
        *(pl.col(name).std().alias(f"{name}_sd") for name in columns),
        pl.len().alias("n"),
    )
    with styled():
        figure, axes = panels(1, 1, COLUMN, 2.5)
        panel = axes[0]
        width = 0.26
        for number, (name, label, colour, hatch) in enumerate(MEASURES):
            places = [index + (number - 1) * width for index in range(len(data))]
            values = [value or 0.0 for value in data[name]]
            spread = None if data[f"{name}_sd"].null_count() else data[f"{name}_sd"].to_list()
            panel.bar(
                places,
                values,
                width * 0.92,
                yerr=spread,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
                label=label,
                error_kw={"elinewidth": 0.7},
            )
            for place, value in zip(places, data[name], strict=True):
                panel.annotate(
                    "–" if value is None else f"{value:.2f}".removeprefix("0"),
                    (place, value or 0.0),
                    (0, 2),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    fontsize=7,
                )
        panel.axhline(0.5, color="#444444", linewidth=0.8, linestyle=(0, (1, 2)), label="AUC of guessing", zorder=1)
        panel.set_xticks(range(len(data)), [name.replace(" ", "\n") for name in data["score"]])
        panel.tick_params(axis="x", length=0)
        panel.grid(visible=False, axis="x")
        panel.set_ylim(0, 1.08)
        panel.set_yticks([0, 0.25, 0.5, 0.75, 1])
        panel.set_ylabel("Precision, recall, AUC")
        handles, labels = panel.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=1.6)
    return Drawing(figure, data)
