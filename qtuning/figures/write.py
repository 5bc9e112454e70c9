"""Which figures an experiment has, and their files: SVG, PDF, PNG, the data as CSV, and captions.json."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from qtuning.experiment.metrics import MetricName
from qtuning.experiment.presets import PRESETS
from qtuning.experiment.quadrants import Naming
from qtuning.figures.captions import cells_caption, scores_caption
from qtuning.figures.controls import controlled, draw_controls
from qtuning.figures.heatmap import heatmaps
from qtuning.figures.pareto import draw_pareto
from qtuning.figures.plane import FEWEST, draw_flow, draw_plane
from qtuning.figures.planted_errors import draw_planted_errors
from qtuning.figures.planted_kinds import draw_planted_kinds
from qtuning.figures.points import SCHEMA, budget_name, points, pruned
from qtuning.figures.score_curves import score_curves
from qtuning.figures.style import Drawing, save
from qtuning.figures.token_kinds import draw_token_kinds
from qtuning.figures.training import draw_convergence, draw_shares
from qtuning.figures.watched import draw_watched
from qtuning.files import atomic_path, write_json
from qtuning.paper.token_kinds import kinds_of_lines
from qtuning.statistics.summary import Summary, summarise
from qtuning.store.lines import cells_by_line
from qtuning.store.store import Store
from qtuning.tables.labels import method_label
from qtuning.tables.planted_errors import localised
from qtuning.tables.planted_kinds import shares_of_lines

CAPTIONS = "captions.json"


@dataclass(frozen=True)
class Written:
    """A figure of an experiment: its name, its caption, its files (svg, pdf, png, csv), what the last of them holds.

    text: the caption without what the figure rests on (cells, seeds, items, versions).
    """

    name: str
    caption: str
    paths: tuple[Path, ...]
    data: pl.DataFrame
    text: str


def write_figures(
    experiment: str, store: Store, out: Path, summary: Summary | None = None, metric: MetricName = "headline"
) -> list[Written]:
    """Draw every figure that the rows of an experiment allow, to `out`/`experiment`; equal stores give equal bytes.

    metric: a likelihood metric has the figures of scores alone, in `out`/`experiment`.`metric`.
    The folder appears whole or not at all, and figures of an earlier store do not stay behind. Raises UserError if the
    store has no cells of the experiment.
    """
    store.cells_of(experiment)
    target = Path(out) / (experiment if metric == "headline" else f"{experiment}.{metric}")
    written: list[Written] = []
    with atomic_path(target) as temporary:
        temporary.mkdir()
        by_metric = summarise(store.experiment(experiment), metric) if metric != "headline" else None
        found = drawings(store, experiment, summary) if by_metric is None else _of_scores(by_metric, store)
        for name, drawing, caption in found:
            paths = save(drawing, temporary, name)
            named = tuple(target / path.name for path in paths)
            written.append(Written(name, caption, named, drawing.data, drawing.text))
        write_json(temporary / CAPTIONS, {figure.name: figure.caption for figure in written})
    return written


def drawings(store: Store, experiment: str, summary: Summary | None = None) -> Iterator[tuple[str, Drawing, str]]:
    """(name, figure, caption) of all figures that apply to an experiment; without benchmarks those of its trainings."""
    cells = store.cells_of(experiment)
    scores = store.scores.filter(pl.col("experiment") == experiment)
    if len(scores):
        yield from _of_scores(summary or summarise(scores), store)
    yield from _of_trainings(store, cells)
    found = localised(store.localisation, cells)
    if len(found):
        drawing = draw_planted_errors(found)
        yield "localisation", drawing, cells_caption(drawing.text, cells.filter(pl.col("seed").is_not_null()))
    kinds = kinds_of_lines(store.token_kinds, cells)
    if len(kinds):
        drawing = draw_token_kinds(kinds)
        counted = cells.filter(pl.col("cell").is_in(store.token_kinds["cell"].implode()))
        yield "token-kinds", drawing, cells_caption(drawing.text, counted)


def _of_scores(summary: Summary, store: Store) -> Iterator[tuple[str, Drawing, str]]:
    scores, frame = summary.rows, points(summary)
    if any(line.control for line in summary.lines) and len(controls := controlled(summary, store.answers)):
        drawing = draw_controls(controls)
        yield "controls", drawing, scores_caption(drawing.text, scores)
    for name, drawing in score_curves(frame):
        yield name, drawing, scores_caption(drawing.text, scores)
    if len(pruned(frame).drop_nulls(["mean", "flops"])) > 1:
        drawing = draw_pareto(frame)
        yield "pareto", drawing, scores_caption(drawing.text, scores)
    for name, drawing in heatmaps(summary):
        rows = scores.filter(pl.col("model") == drawing.data["model"][0])
        yield name, drawing, scores_caption(drawing.text, rows)


def _of_trainings(store: Store, collected: pl.DataFrame) -> Iterator[tuple[str, Drawing, str]]:
    """The figures of trainings, by train set and model. collected: rows of cells.parquet of one experiment."""
    groups = _trained(collected).partition_by("train_set", "model", maintain_order=True)
    for cells in groups:
        suffix = f"-{cells['train_set'][0]}-{cells['model'][0]}" if len(groups) > 1 else ""
        for name, drawing, shown in _of_group(store, cells, collected):
            rows = collected.filter(pl.col("cell").is_in(shown.implode()))
            yield f"{name}{suffix}", drawing, cells_caption(drawing.text, rows)


def _of_group(store: Store, cells: pl.DataFrame, collected: pl.DataFrame) -> Iterator[tuple[str, Drawing, pl.Series]]:
    """(name, drawing, cells that it shows), for the cells of one train set and model.

    Plane and flow show the first seed, kinds and shares all seeds, of Q-Tuning at its first budget, with default
    options or else as its first variant. Convergence shows all methods at this budget.
    """
    budget, drawn = "", pl.col("method") == "full"
    triage = cells.filter(pl.col("method").is_in(list(PRESETS)))
    triage = triage.sort(pl.col("method") != "q-tuning", pl.col("variant") != "", maintain_order=True)
    if len(triage):
        first = triage.row(0, named=True)
        budget = f"{first['budget']}%"
        drawn |= pl.col("budget") == first["budget"]
        about = f"{first['label']} at {budget} (samples × tokens), {first['model']}"
        # reading A1
        naming: Naming = "text" if json.loads(first["options"])["sample"].get("quadrants") == "text" else "figure"
        seeds = triage.filter((pl.col("budget") == first["budget"]) & (pl.col("label") == first["label"]))["cell"]
        plane = store.planes.filter(pl.col("cell") == seeds[0])
        if len(plane):
            yield "plane", draw_plane(plane, naming, about=about), seeds[:1]
        if plane["update"].n_unique() >= FEWEST:
            yield "flow", draw_flow(plane, naming, about), seeds[:1]
        kinds = shares_of_lines(store.quadrant_kinds, collected.filter(pl.col("cell").is_in(seeds.implode())))
        if len(kinds.drop_nulls(["epoch", "quadrant", "share"])):
            yield "kinds", draw_planted_kinds(kinds, about), seeds
        steps = store.steps.filter(pl.col("cell").is_in(seeds.implode()))
        if steps["median_q1"].drop_nulls().len():
            yield "shares", draw_shares(steps, about), seeds
    logged = cells.filter(drawn & pl.col("cell").is_in(store.steps["cell"].implode()))
    if len(logged):
        yield "convergence", draw_convergence(store.steps, logged, budget), logged["cell"]
    looks = store.watched.filter(pl.col("cell").is_in(cells["cell"].implode()))
    if len(looks):
        yield "watched", draw_watched(looks, cells), looks["cell"].unique(maintain_order=True)


def _trained(collected: pl.DataFrame) -> pl.DataFrame:
    """One row per trained cell, with the label and the budget of its line."""
    rows = [
        line.columns()
        | {"model": model, "label": method_label(line), "cell": row["cell"]}
        | {"budget": budget_name(line.sample_ratio, line.token_ratio)}
        for (line, model), by_seed in cells_by_line(collected).items()
        for row in by_seed.values()
        if row["cell"]
    ]
    return pl.DataFrame(rows, schema=SCHEMA | {"cell": pl.String, "options": pl.String})
