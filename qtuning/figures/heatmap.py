"""Where methods differ from random pruning: methods x benchmarks."""

from collections.abc import Iterator
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qtuning.figures.points import budget_name
from qtuning.figures.style import BLACK, BLUE, COLUMN, PAGE, VERMILLION, Drawing, styled
from qtuning.tables.labels import benchmark_label, hole_text, method_label
from qtuning.tables.summary import Entry, Summary, random_at_budget, summarise

ROW, HEAD = 0.165, 0.26
"""Inches of a row, and of what stands above a block."""

LIMIT = 40
"""Most rows of one figure."""

DIVERGING = LinearSegmentedColormap.from_list("difference", [VERMILLION, "#FFFFFF", BLUE])
"""Vermillion below zero, blue above: as ↓ and ↑ in the tables."""

SCHEMA: dict[str, Any] = {
    "train_set": pl.String,
    "model": pl.String,
    "budget": pl.String,
    "label": pl.String,
    "reference": pl.Boolean,
    "benchmark": pl.String,
    "mean": pl.Float64,
    "difference": pl.Float64,
    "hole": pl.String,
}


def differences(scores: pl.DataFrame) -> pl.DataFrame:
    """One row per pruned method, budget, model and benchmark: score, and difference from random pruning (points).

    scores: the rows of one experiment. Only budgets that have a random row to compare with. reference: that row itself,
    which has no difference.
    """
    summary = summarise(scores)
    return pl.DataFrame(list(_rows(summary)), schema=SCHEMA, orient="row")


def _rows(summary: Summary) -> Iterator[dict[str, Any]]:
    for line in summary.lines:
        rival = random_at_budget(line, summary.lines)
        if rival is None or line.sample_ratio is None or line.token_ratio is None:
            continue
        for model in summary.models:
            for benchmark in summary.benchmarks:
                entry = summary.entries.get((line, model, benchmark))
                if entry is None:
                    continue
                score = isinstance(entry, Entry)
                yield {
                    "train_set": line.train_set,
                    "model": model,
                    "budget": budget_name(line.sample_ratio, line.token_ratio),
                    "label": method_label(line),
                    "reference": rival == line,
                    "benchmark": benchmark,
                    "mean": entry.mean if isinstance(entry, Entry) else None,
                    "difference": entry.difference if isinstance(entry, Entry) else None,
                    "hole": None if score else hole_text(entry),  # type: ignore[arg-type]
                }


def pages(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """The differences of one train set and model, cut between budgets into figures of at most LIMIT rows."""
    found: list[list[pl.DataFrame]] = []
    for block in frame.partition_by("budget", maintain_order=True):
        rows = block["label"].n_unique()
        if not found or sum(part["label"].n_unique() for part in found[-1]) + rows > LIMIT:
            found.append([])
        found[-1].append(block)
    return [pl.concat(blocks) for blocks in found]


def heatmap(frame: pl.DataFrame) -> Drawing:
    """Difference from random + random in every cell, a block per budget, white at 0; the reference shows its score.

    frame: `differences` of one train set and model. Vermillion is below the reference, blue above, and every cell has
    its number; a hole is hatched. The colours reach as far as the largest difference of the figure.
    """
    blocks = frame.partition_by("budget", maintain_order=True)
    benchmarks = list(frame["benchmark"].unique(maintain_order=True))
    counts = [block["label"].n_unique() for block in blocks]
    known = frame["difference"].drop_nulls()
    reach = max(float(known.abs().max()), 0.1) if len(known) else 1.0  # type: ignore[arg-type]
    norm = TwoSlopeNorm(0.0, -reach, reach)
    longest = max(len(label) for label in frame["label"])
    width = min(PAGE, max(COLUMN, 0.065 * longest + 0.5 * len(benchmarks) + 0.2))
    with styled():
        height = sum(counts) * ROW + len(blocks) * HEAD + 0.75
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(len(blocks), 1, squeeze=False, gridspec_kw={"height_ratios": counts})[:, 0]
        for number, (panel, block) in enumerate(zip(axes, blocks, strict=True)):
            _block(panel, block, benchmarks, norm)
            panel.set_title(f"Samples × tokens {block['budget'][0]}%", loc="left", fontsize=7.5)
            if number == len(blocks) - 1:
                panel.set_xticks(range(len(benchmarks)), [benchmark_label(name) for name in benchmarks])
            else:
                panel.set_xticks([])
        bar = figure.colorbar(
            ScalarMappable(norm, DIVERGING), ax=list(axes), location="bottom", aspect=45, pad=0.01, fraction=0.04
        )
        bar.set_label("Difference from random + random (points)", fontsize=7)
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    return Drawing(figure, frame)


def _block(panel: Axes, block: pl.DataFrame, benchmarks: list[str], norm: TwoSlopeNorm) -> None:
    labels = list(block["label"].unique(maintain_order=True))
    for row in block.iter_rows(named=True):
        x, y = benchmarks.index(row["benchmark"]), labels.index(row["label"])
        face, text, hatch = "#FFFFFF", "", None
        if row["mean"] is None:
            hatch = "/////"
        elif row["difference"] is not None:
            face, text = DIVERGING(norm(row["difference"])), _signed(row["difference"])
        else:
            face, text = "#EEEEEE", f"{row['mean']:.1f}"
        box = Rectangle(
            (x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="#AAAAAA" if hatch else "white", hatch=hatch
        )
        box.set_linewidth(0.6)
        panel.add_patch(box)
        bright = isinstance(face, str) or 0.3 * face[0] + 0.59 * face[1] + 0.11 * face[2] > 0.5
        style = "italic" if row["difference"] is None else "normal"
        panel.text(
            x, y, text, ha="center", va="center_baseline", fontsize=7, style=style, color=BLACK if bright else "white"
        )
    panel.set_xlim(-0.5, len(benchmarks) - 0.5)
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.set_yticks(range(len(labels)), labels)
    panel.tick_params(length=0)
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set_visible(False)


def _signed(difference: float) -> str:
    rounded = round(difference, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "−")
