"""The files of a store and their columns (docs/results.md)."""

import polars as pl

COST_COLUMNS: dict[str, pl.DataType] = {
    "updates": pl.Int64(),
    "updates_skipped": pl.Int64(),
    "samples_scored": pl.Int64(),
    "tokens_scored": pl.Int64(),
    "samples_kept": pl.Int64(),
    "response_tokens": pl.Int64(),
    "tokens_kept": pl.Int64(),
    "tokens_forwarded": pl.Int64(),
    "flops_scoring": pl.Float64(),
    "flops_training": pl.Float64(),
    "flops_total": pl.Float64(),
    "seconds_scoring": pl.Float64(),
    "seconds_training": pl.Float64(),
    "seconds_total": pl.Float64(),
    "peak_memory_bytes": pl.Int64(),
}
"""What a cell cost (train.json, `cost`; qtuning/train/cost.py)."""

SELECTION_COLUMNS: dict[str, pl.DataType] = {
    "samples_available": pl.Float64(),
    "tokens_available": pl.Float64(),
    "level": pl.Float64(),
    "iterations": pl.Float64(),
    "converged": pl.Float64(),
    "q1_share": pl.Float64(),
    "q2_share": pl.Float64(),
    "q3_share": pl.Float64(),
    "q4_share": pl.Float64(),
    "from_thresholds": pl.Float64(),
    "supplemented": pl.Float64(),
    "trimmed": pl.Float64(),
}
"""What there was to choose from, and how Q-Tuning's triage decided (`selection` of train.json; train/journal.py)."""

SCHEMA: dict[str, pl.DataType] = {
    "experiment": pl.String(),
    "title": pl.String(),
    "cell": pl.String(),
    "model": pl.String(),
    "model_label": pl.String(),
    "train_set": pl.String(),
    "train_set_label": pl.String(),
    "method": pl.String(),
    "sample_pruner": pl.String(),
    "token_pruner": pl.String(),
    "sample_ratio": pl.Float64(),
    "token_ratio": pl.Float64(),
    "options": pl.String(),
    "training": pl.String(),
    "seed": pl.String(),
    "seed_data": pl.Int64(),
    "seed_pruner": pl.Int64(),
    "seed_init": pl.Int64(),
    "benchmark": pl.String(),
    "metric": pl.String(),
    "headline": pl.Boolean(),
    "score": pl.Float64(),
    "items": pl.Int64(),
    "digest": pl.String(),
    "status": pl.String(),
    "reason": pl.String(),
    "evaluation": pl.String(),
    "evaluation_config": pl.String(),
    "backend": pl.String(),
    "versions": pl.String(),
    **COST_COLUMNS,
    **SELECTION_COLUMNS,
}
"""Columns of the score table, in order."""

CELL_SCHEMA: dict[str, pl.DataType] = {
    name: dtype
    for name, dtype in SCHEMA.items()
    if name
    not in (
        *("benchmark", "metric", "headline", "score", "items", "digest"),
        *("evaluation", "evaluation_config", "backend"),
    )
}
"""Columns of cells.parquet: what is known of a cell without its evaluation; `status` is that of its training."""

ITEM_SCHEMA: dict[str, pl.DataType] = {
    "cell": pl.String(),
    "evaluation": pl.String(),
    "benchmark": pl.String(),
    "item": pl.Int64(),
    "item_hash": pl.String(),
    "score": pl.Float64(),
}
"""Columns of items.parquet: headline metric only; score as a fraction; item_hash: its first 16 hex digits."""

SELECTION_STEPS = (
    *("level", "iterations", "converged", "ppl_low", "ppl_high", "ent_low", "ent_high"),
    *(f"q{quadrant}_share" for quadrant in (1, 2, 3, 4)),
    *(f"median_q{quadrant}" for quadrant in (1, 2, 3, 4)),
)
"""What the triage logs of each update (`selection/` in metrics.jsonl)."""

STEP_SCHEMA: dict[str, pl.DataType] = {
    "cell": pl.String(),
    "update": pl.Int32(),
    "epoch": pl.Int32(),
    **dict.fromkeys(("samples", "samples_kept", "tokens_kept", "response_tokens"), pl.Float64()),
    **dict.fromkeys(("loss", "grad_norm"), pl.Float64()),
    **dict.fromkeys(SELECTION_STEPS, pl.Float64()),
}
"""Columns of steps.parquet: means over at most 64 bins of consecutive updates a cell, named by their first update."""

PLANE_SCHEMA: dict[str, pl.DataType] = {
    "cell": pl.String(),
    "update": pl.Int32(),
    "epoch": pl.Int32(),
    "sample": pl.Int64(),
    "ppl": pl.Float64(),
    "entropy": pl.Float64(),
    "quadrant": pl.Int8(),
    "kept": pl.Boolean(),
    "supplement": pl.Boolean(),
}
"""Columns of planes.parquet: scored samples of the pruning trace, evenly thinned to at most 3000 a cell."""

LOCALISATION_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("cell", "model", "score"), pl.String()),
    **dict.fromkeys(("precision", "recall", "auc", "share", "lambda"), pl.Float64()),
}
"""Columns of localisation.parquet: how well a score (or pruning) of the base and the trained model finds errors.

share: of the response tokens that are pruned, or of the samples that are kept. lambda: of the smoothed score.
"""

SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    "scores": SCHEMA,
    "cells": CELL_SCHEMA,
    "items": ITEM_SCHEMA,
    "steps": STEP_SCHEMA,
    "planes": PLANE_SCHEMA,
    "localisation": LOCALISATION_SCHEMA,
}
"""File (without .parquet) -> its columns."""
