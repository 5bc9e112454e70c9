"""Figure 4: what pruning samples alone, and tokens alone, does to the average score."""

import polars as pl

from qtuning.figures import curves
from qtuning.figures.marks import marks
from qtuning.figures.points import pruned
from qtuning.figures.style import COLUMN, PAGE, Drawing, legend_below, letter, panels, styled
from qtuning.tables.labels import percent

SIDES = (
    ("sample_ratio", "token_ratio", "Samples kept, all their tokens (%)"),
    ("token_ratio", "sample_ratio", "Tokens kept, of all samples (%)"),
)


def alone(frame: pl.DataFrame, ratio: str, other: str) -> pl.DataFrame:
    """The points that prune by `ratio` only, of which there must be two or more; else none.

    A pair of pruners goes by the one that has something to do: `longest + none` is `longest (samples)` here.
    """
    chosen = pruned(frame).filter((pl.col(other) == 1) & (pl.col(ratio) < 1))
    label = pl.col("label")
    label = (
        label.str.replace(r" \+ none", " (samples)")
        if ratio == "sample_ratio"
        else (
            pl.when(label.str.starts_with("full + "))
            .then(label.str.strip_prefix("full + ") + " (tokens)")
            .otherwise(label)
        )
    )
    chosen = chosen.with_columns(label)
    return chosen if chosen[ratio].n_unique() > 1 else chosen.clear()


def ratios(frame: pl.DataFrame) -> Drawing:
    """Average score against the sample ratio (all tokens) and the token ratio (all samples), a row per model.

    frame: `points` of an experiment. Only the sides that it has are drawn.
    """
    sides = [side for side in SIDES if len(alone(frame, *side[:2]))]
    shown = pl.concat([alone(frame, *side[:2]) for side in sides])
    look = marks(shown)
    facets = curves.facets(shown)
    width = PAGE if len(sides) > 1 else COLUMN
    with styled():
        figure, axes = panels(len(facets), len(sides), width, 2.35 * len(facets) + 0.75, sharey="row")
        for row, place in enumerate(facets):
            everything = curves.facet(frame, *place)
            for column, (ratio, other, label) in enumerate(sides):
                index = row * len(sides) + column
                panel, part = axes[index], alone(everything, ratio, other)
                curves.references(panel, everything)
                for method in part["label"].unique(maintain_order=True):
                    rows = part.filter(pl.col("label") == method).sort(ratio)
                    curves.curve(panel, [100 * value for value in rows[ratio]], rows, method, look[method])
                curves.holes(panel, [100 * value for value in part.filter(pl.col("mean").is_null())[ratio]])
                ticks = sorted(part[ratio].unique())
                panel.set_xscale("log")
                panel.set_xticks([100 * tick for tick in ticks], [percent(tick)[:-1] for tick in ticks], minor=False)
                panel.minorticks_off()
                panel.margins(x=0.08, y=0.08)
                panel.set_xlabel(label)
                if column == 0:
                    panel.set_ylabel(curves.score_label(frame))
                letter(panel, index, curves.facet_title(frame, *place) if len(facets) > 1 else "")
        handles, labels = curves.once(axes)
        legend_below(figure, handles, labels, 4 if len(sides) > 1 else 2)
    return Drawing(figure, pl.concat([shown, frame.filter(pl.col("method").is_in(["full", "zero-shot"]))]))
