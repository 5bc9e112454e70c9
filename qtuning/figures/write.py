"""Which figures an experiment has, and their files: SVG, PNG, the data as CSV, and captions.json."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.experiment.quadrants import LEAST_SHARE, Naming
from qtuning.figures.captions import cells_caption, scores_caption
from qtuning.figures.heatmap import heatmaps
from qtuning.figures.pareto import draw_pareto
from qtuning.figures.plane import FEWEST, draw_flow, draw_plane
from qtuning.figures.planted_errors import draw_planted_errors
from qtuning.figures.points import budget_name, points, pruned
from qtuning.figures.score_curves import score_curves
from qtuning.figures.style import Drawing, save
from qtuning.figures.training import draw_convergence, draw_shares
from qtuning.files import atomic_path, write_json
from qtuning.statistics.summary import Summary, summarise
from qtuning.store.lines import cells_by_line
from qtuning.store.store import Store
from qtuning.tables.labels import method_label
from qtuning.tables.planted_errors import localised

CAPTIONS = "captions.json"


@dataclass(frozen=True)
class Written:
    """A figure of an experiment: its name, its caption, and its files (svg, png, csv)."""

    name: str
    caption: str
    paths: tuple[Path, ...]


def write_figures(experiment: str, store: Store, out: Path, summary: Summary | None = None) -> list[Written]:
    """Draw every figure that the rows of an experiment allow, to `out`/`experiment`; equal stores give equal bytes.

    The folder appears whole or not at all, and figures of an earlier store do not stay behind. Raises UserError if the
    store has no cells of the experiment.
    """
    store.cells_of(experiment)
    target = Path(out) / experiment
    written: list[Written] = []
    with atomic_path(target) as temporary:
        temporary.mkdir()
        for name, drawing, caption in drawings(store, experiment, summary):
            paths = save(drawing, temporary, name)
            written.append(Written(name, caption, tuple(target / path.name for path in paths)))
        write_json(temporary / CAPTIONS, {figure.name: figure.caption for figure in written})
    return written


def drawings(store: Store, experiment: str, summary: Summary | None = None) -> Iterator[tuple[str, Drawing, str]]:
    """(name, figure, caption) of all figures that apply to an experiment; without benchmarks those of its trainings."""
    cells = store.cells_of(experiment)
    scores = store.scores.filter(pl.col("experiment") == experiment)
    if len(scores):
        yield from _of_scores(summary or summarise(scores))
    yield from _of_trainings(store, cells)
    found = localised(store.localisation, cells)
    if len(found):
        drawing = draw_planted_errors(found)
        yield "localisation", drawing, cells_caption(drawing.text, cells.filter(pl.col("seed").is_not_null()))


def _of_scores(summary: Summary) -> Iterator[tuple[str, Drawing, str]]:
    scores, frame = summary.scores, points(summary)
    for name, drawing in score_curves(frame):
        yield name, drawing, scores_caption(drawing.text, scores)
    if pruned(frame).drop_nulls(["mean", "flops"]).height > 1:
        drawing = draw_pareto(frame)
        yield "pareto", drawing, scores_caption(drawing.text, scores)
    for name, drawing in heatmaps(summary):
        rows = scores.filter((pl.col("model") == drawing.data["model"][0]) & pl.col("headline"))
        yield name, drawing, scores_caption(drawing.text, rows)


def _of_trainings(store: Store, collected: pl.DataFrame) -> Iterator[tuple[str, Drawing, str]]:
    """Planes, quadrants and convergence, of each train set and model: Q-Tuning as it is (or its first variant)
    at its first budget."""
    for key, cells in _groups(_cells(collected)):
        suffix = f"-{key}" if key else ""
        triage = cells.filter(pl.col("method") == "q-tuning").sort(pl.col("variant") != "", maintain_order=True)
        budget, drawn = None, cells.filter(pl.col("method") == "full")
        if len(triage):
            budget, label = triage["budget"][0], triage["label"][0]
            first = triage.filter((pl.col("budget") == budget) & (pl.col("label") == label))
            yield from _of_triage(store, collected, first, suffix)
            drawn = cells.filter((pl.col("method") == "full") | (pl.col("budget") == budget))
        drawn = drawn.filter(pl.col("cell").is_in(store.steps["cell"].implode()))
        if len(drawn):
            text = (
                "Loss over the tokens that each method keeps (comparable over seeds, not between methods), and "
                f"response tokens kept per update{f', at {budget}%' if budget else ''}; the area below it is what was "
                "kept in all. Means of consecutive updates; lines are means over the seeds, bands their range."
            )
            yield (
                f"convergence{suffix}",
                draw_convergence(store.steps, drawn),
                cells_caption(text, _rows(collected, drawn["cell"])),
            )


def _of_triage(
    store: Store, collected: pl.DataFrame, cells: pl.DataFrame, suffix: str
) -> Iterator[tuple[str, Drawing, str]]:
    """Plane and flow of the first seed, shares of all; `cells` are the seeds of one setting."""
    about = f"{cells['label'][0]} at {cells['budget'][0]}% (samples × tokens), {cells['model'][0]}"
    cell, naming = cells["cell"][0], _naming(cells["options"][0])
    rows = store.planes.filter(pl.col("cell") == cell)
    if len(rows):
        text = (
            f"The Error-Uncertainty plane of {about}: {len(rows):,} samples, evenly spaced over all that were scored "
            "in training, each under the model of its update. Lines: medians of what is shown; corners: shares of the "
            "median split. Dots: samples that were kept, by the thresholds (filled) or by the supplement (open)."
        )
        yield f"plane{suffix}", draw_plane(rows, naming), cells_caption(text, _rows(collected, [cell]))
    if rows["update"].n_unique() >= FEWEST:
        text = (
            f"The plane of {about} in the first, the middle and the last tenth of the updates; the arrow leads from "
            "the medians of the stage before to its own."
        )
        yield f"flow{suffix}", draw_flow(rows, naming), cells_caption(text, _rows(collected, [cell]))
    steps = store.steps.filter(pl.col("cell").is_in(cells["cell"].implode()))
    if steps["median_q1"].drop_nulls().len():
        text = (
            f"Quadrant shares and thresholds of {about}, over the updates: means of consecutive updates; lines are "
            "means over the seeds, bands their range. (a): at the medians Q1 = Q3 and Q2 = Q4, but for ties; "
            f"dotted: {LEAST_SHARE:.0%}, the least that a quadrant should hold (a training warns of one that holds "
            "less in the mean). (b): what lies between the thresholds is in no quadrant. Grey: an epoch begins."
        )
        yield f"shares{suffix}", draw_shares(steps), cells_caption(text, _rows(collected, cells["cell"]))


def _cells(collected: pl.DataFrame) -> pl.DataFrame:
    """One row per trained cell, with the label and the budget of its line."""
    rows = [
        {
            "cell": row["cell"],
            "train_set": line.train_set,
            "model": model,
            "method": line.method,
            "sample_pruner": line.sample_pruner,
            "token_pruner": line.token_pruner,
            "options": line.options,
            "variant": line.variant,
            "training": line.training,
            "label": method_label(line),
            "budget": budget_name(row["sample_ratio"], row["token_ratio"]),
        }
        for (line, model), by_seed in cells_by_line(collected).items()
        for row in by_seed.values()
        if row["cell"]
    ]
    names = (
        "cell",
        "train_set",
        "model",
        "method",
        "sample_pruner",
        "token_pruner",
        "options",
        "variant",
        "training",
        "label",
        "budget",
    )
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String))


def _groups(cells: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """(name, cells) by train set and model; the name is empty where there is one group only."""
    groups = cells.partition_by("train_set", "model", maintain_order=True)
    for group in groups:
        yield f"{group['train_set'][0]}-{group['model'][0]}" if len(groups) > 1 else "", group


def _naming(options: str) -> Naming:
    """Reading A1 of a Q-Tuning cell."""
    chosen: dict[str, Any] = json.loads(options)
    return "text" if chosen["sample"].get("quadrants") == "text" else "figure"


def _rows(collected: pl.DataFrame, cells: Iterable[str]) -> pl.DataFrame:
    """The rows of some cells."""
    return collected.filter(pl.col("cell").is_in(list(cells)))
