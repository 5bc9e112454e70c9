"""Heat maps of the difference from random pruning, methods x benchmarks, a block per budget."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.patches import Rectangle

from qtuning.experiment.metrics import METRICS
from qtuning.figures.points import budget_name
from qtuning.figures.style import BLACK, BLUE, COLUMN, PAGE, VERMILLION, Drawing, colour_bar, panels, styled
from qtuning.statistics.summary import Entry, Summary
from qtuning.store.lines import random_at_budget
from qtuning.tables.labels import benchmark_label, method_label

ROW, HEAD = 0.165, 0.26
"""Inches of a row, and of what stands above a block."""

LIMIT = 40
"""Most rows of one figure."""

DIVERGING = LinearSegmentedColormap.from_list("difference", [VERMILLION, "#FFFFFF", BLUE])
"""Vermillion below zero, blue above; reversed where a lower score is better, so that blue is always better."""

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("train_set", "model", "budget", "label"), pl.String),
    **{"reference": pl.Boolean, "benchmark": pl.String, "metric": pl.String},
    **{"mean": pl.Float64, "difference": pl.Float64, "hole": pl.String},
}


def differences(summary: Summary) -> pl.DataFrame:
    """One row per pruned method, budget, model and benchmark: score, and difference from random pruning (points).

    Only budgets that have a random row to compare with. reference: whether the row is that one, which has no
    difference.
    """
    rows = []
    for line in summary.lines:
        rival = random_at_budget(line, summary.lines)
        if rival is None:
            continue
        budget = budget_name(line.sample_ratio, line.token_ratio)
        row = {"budget": budget, "label": method_label(line), "reference": rival == line}
        row["metric"] = summary.metric.name
        for model, benchmark in product(summary.models, summary.benchmarks):
            entry = summary.entries.get((line, model, benchmark))
            if entry is None:
                continue
            score = vars(entry) if isinstance(entry, Entry) else {"hole": str(entry)}
            rows.append({"train_set": line.train_set, "model": model, "benchmark": benchmark} | score | row)
    return pl.DataFrame(rows, schema=SCHEMA)


def heatmaps(summary: Summary) -> Iterator[tuple[str, Drawing]]:
    """(name, drawing) of the heat maps of an experiment: of each train set and model, cut between budgets."""
    frame = differences(summary)
    parts = frame.partition_by("train_set", "model", maintain_order=True)
    for part in parts:
        train_set, model = part.row(0)[:2]
        cut = pages(part)
        for number, page in enumerate(cut, start=1):
            if page["difference"].drop_nulls().len():
                names = [train_set, model] if len(parts) > 1 else []
                yield "-".join(["heatmap", *names, *([str(number)] * (len(cut) > 1))]), draw_heatmap(page)


def pages(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """The differences of one train set and model, cut between budgets into figures of at most LIMIT rows."""
    found: list[list[pl.DataFrame]] = []
    for block in frame.partition_by("budget", maintain_order=True):
        rows = block["label"].n_unique()
        if not found or sum(part["label"].n_unique() for part in found[-1]) + rows > LIMIT:
            found.append([])
        found[-1].append(block)
    return [pl.concat(blocks) for blocks in found]


@styled()
def draw_heatmap(frame: pl.DataFrame) -> Drawing:
    """Difference from random + random in every cell, a block per budget, white at 0; the reference shows its score.

    frame: `differences` of one train set and model. Vermillion is below the reference, blue above, and every cell has
    its number; a hole is hatched. The colours reach as far as the largest difference of the figure.
    """
    blocks = frame.partition_by("budget", maintain_order=True)
    benchmarks = list(frame["benchmark"].unique(maintain_order=True))
    counts = [block["label"].n_unique() for block in blocks]
    known, metric = frame["difference"].drop_nulls(), METRICS[frame["metric"][0]]
    least = 0.1 if metric.scale == 100 else 0.001
    reach = max(float(known.abs().max()), least) if len(known) else 1.0  # type: ignore[arg-type]
    norm = TwoSlopeNorm(0.0, -reach, reach)
    colours = DIVERGING if metric.higher_is_better else DIVERGING.reversed()
    longest = max(len(label) for label in frame["label"])
    width = min(PAGE, max(COLUMN, 0.065 * longest + 0.5 * len(benchmarks) + 0.2))
    height = sum(counts) * ROW + len(blocks) * HEAD + 0.75
    figure, axes = panels(len(blocks), 1, width, height, gridspec_kw={"height_ratios": counts})
    for panel, block in zip(axes, blocks, strict=True):
        _draw_block(panel, block, benchmarks, norm, colours)
        panel.set_title(f"Samples × tokens {block['budget'][0]}%", loc="left", fontsize=7.5)
        panel.set_xticks([])
    axes[-1].set_xticks(range(len(benchmarks)), [benchmark_label(name) for name in benchmarks])
    options = {"location": "bottom", "aspect": 45, "pad": 0.01, "fraction": 0.04}
    colour_bar(
        figure, axes, ScalarMappable(norm, colours), f"Difference from random + random ({metric.unit})", **options
    )
    unit = "percentage points" if metric.scale == 100 else metric.unit
    what = "" if metric.name == "headline" else f" of {metric.label}"
    text = (
        f"Difference from random + random at the same budget in {unit}{what}, {frame['model'][0]} on "
        f"{frame['train_set'][0]}: mean over seeds of the paired differences. Blue: better; orange: worse. "
        "Grey, italic: the score of random + random itself. Hatched: missing."
    )
    return Drawing(figure, frame, text)


def _draw_block(panel: Axes, block: pl.DataFrame, benchmarks: list[str], norm: TwoSlopeNorm, colours: Colormap) -> None:
    decimals = 1 if METRICS[block["metric"][0]].scale == 100 else 2
    labels = list(block["label"].unique(maintain_order=True))
    for row in block.iter_rows(named=True):
        x, y = benchmarks.index(row["benchmark"]), labels.index(row["label"])
        edge, text, style, colour = "white", "", "normal", BLACK
        face: Any = "#FFFFFF"
        options: dict[str, Any] = {}
        if row["mean"] is None:
            edge, options = "#AAAAAA", {"hatch": "/////"}
        elif row["difference"] is None:
            face, text, style = "#EEEEEE", f"{row['mean']:.{decimals}f}", "italic"
        else:
            face, text = colours(norm(row["difference"])), _signed(row["difference"], decimals)
            red, green, blue, _ = face
            colour = BLACK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor=edge, linewidth=0.6, **options))
        panel.text(x, y, text, ha="center", va="center_baseline", style=style, color=colour)
    panel.set(xlim=(-0.5, len(benchmarks) - 0.5), ylim=(len(labels) - 0.5, -0.5))
    panel.set_yticks(range(len(labels)), labels)
    panel.tick_params(length=0)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)


def _signed(difference: float, decimals: int) -> str:
    rounded = round(difference, decimals)
    return f"{0:.{decimals}f}" if rounded == 0 else f"{rounded:+.{decimals}f}".replace("-", "−")
