"""Figure 8: mean perplexity and entropy of fixed training samples over training, by method."""

import polars as pl
from matplotlib.ticker import FuncFormatter, LogLocator

from qtuning.figures.marks import assign_looks
from qtuning.figures.style import PAGE, Drawing, legend_below, letter, panels, styled

SCORES = (("ppl", "Mean perplexity (log scale)"), ("entropy", "Mean entropy (nats)"))


@styled()
def draw_watched(looks: pl.DataFrame, lines: pl.DataFrame) -> Drawing:
    """Two panels, perplexity and entropy, against the share of the training; a curve per line.

    looks: rows of watched.parquet. lines: one row per cell of one train set and model: cell, label, budget, variant,
    training, method, sample_pruner, token_pruner; cells of one label are its seeds (line: mean, band: lowest to highest
    seed). Cells without looks are left out.
    """
    lines = lines.filter(pl.col("cell").is_in(looks["cell"].implode()))
    if lines["budget"].n_unique() > 1:
        lines = lines.with_columns(pl.concat_str("label", "budget", separator=" ").str.strip_chars_end())
    drawn, parts = assign_looks(lines), []
    figure, axes = panels(1, 2, PAGE, 2.5 + 0.14 * -(-len(drawn) // 4))
    for label, look in drawn.items():
        mine = looks.filter(pl.col("cell").is_in(lines.filter(pl.col("label") == label)["cell"].implode()))
        part = over_seeds_by_share(mine)
        for panel, (score, _) in zip(axes, SCORES, strict=True):
            curve = part.drop_nulls(score)
            x = (100 * curve["done"]).to_numpy()
            panel.plot(x, curve[score].to_numpy(), label=label, color=look.colour, linestyle=look.dashes)
            low, high = curve[f"{score}_low_seed"].to_numpy(), curve[f"{score}_high_seed"].to_numpy()
            panel.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0)
        parts.append(part.with_columns(label=pl.lit(label)))
    for index, (panel, (_, name)) in enumerate(zip(axes, SCORES, strict=True)):
        panel.margins(x=0.01)
        panel.set(xlabel="Training done (% of the updates)", ylabel=name)
        letter(panel, index)
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].minorticks_off()
    legend_below(figure, axes, 4)
    samples, times = max(looks["samples"].to_list()), max(looks.group_by("cell").len()["len"].to_list())
    text = (
        f"Mean perplexity (a) and mean entropy (b) of {samples} training samples: one fixed draw, the same for all "
        f"methods, whether they train on them or not; at most {times} looks, the first before training. Methods "
        "make different numbers of updates, so the axis is the share of each. Lines are means over the seeds, bands "
        "their range. A few samples of very high perplexity carry its mean: the data have the quartiles, too."
    )
    return Drawing(figure, pl.concat(parts), text)


def over_seeds_by_share(looks: pl.DataFrame) -> pl.DataFrame:
    """Mean, lowest and highest over the cells at each look that all of them have; null where one has no value.

    Cells of one method may differ in their numbers of updates, so looks are matched by their number. `done`, `update`:
    mean over the cells.
    """
    cells = looks["cell"].n_unique()
    numbered = looks.sort("cell", "update").with_columns(look=pl.int_range(pl.len()).over("cell"))
    whole = numbered.filter(pl.col("cell").n_unique().over("look") == cells)
    names = [name for score, _ in SCORES for name in (score, f"{score}_low", f"{score}_median", f"{score}_high")]

    def where_known(name: str, value: pl.Expr) -> pl.Expr:
        return pl.when(pl.col(name).null_count() == 0).then(value)

    return (
        whole.group_by("look")
        .agg(
            pl.col("update", "done").mean(),
            *(where_known(name, pl.col(name).mean()).alias(name) for name in names),
            *(where_known(name, pl.col(name).min()).alias(f"{name}_low_seed") for name, _ in SCORES),
            *(where_known(name, pl.col(name).max()).alias(f"{name}_high_seed") for name, _ in SCORES),
            n_seeds=pl.lit(cells),
        )
        .sort("look")
    )
