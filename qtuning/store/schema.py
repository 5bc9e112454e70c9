"""The files of a store and their columns (docs/results.md)."""

import polars as pl

Columns = dict[str, pl.DataType]

COST_COLUMNS: Columns = {
    **dict.fromkeys(("updates", "updates_skipped", "samples_scored", "tokens_scored", "samples_kept"), pl.Int64()),
    **dict.fromkeys(("response_tokens", "tokens_kept", "tokens_forwarded"), pl.Int64()),
    **dict.fromkeys(("flops_scoring", "flops_training", "flops_references", "flops_total"), pl.Float64()),
    **dict.fromkeys(("seconds_scoring", "seconds_training", "seconds_references", "seconds_total"), pl.Float64()),
    "cpu_seconds": pl.Float64(),
    "peak_memory_bytes": pl.Int64(),
}
"""What a cell cost (train.json, `cost`; qtuning/train/cost.py)."""

SELECTION_COLUMNS: Columns = {
    **dict.fromkeys(("samples_available", "tokens_available", "level", "converged"), pl.Float64()),
    **dict.fromkeys(("q1_share", "q2_share", "q3_share", "q4_share"), pl.Float64()),
    **dict.fromkeys(("from_thresholds", "supplemented", "trimmed", "supp_ties"), pl.Float64()),
}
"""What there was to choose from, and how Q-Tuning's triage decided (`selection` of train.json; train/journal.py)."""

IDENTITY_COLUMNS: Columns = {
    **dict.fromkeys(("experiment", "title", "cell", "model", "model_label"), pl.String()),
    **dict.fromkeys(("train_set", "train_set_label", "method", "sample_pruner", "token_pruner"), pl.String()),
    **dict.fromkeys(("method_label", "method_colour"), pl.String()),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("options", "training", "seed"), pl.String()),
    **dict.fromkeys(("seed_data", "seed_pruner", "seed_init"), pl.Int64()),
}
"""Which cell of which experiment a row is about."""

SCHEMA: Columns = {
    **IDENTITY_COLUMNS,
    **dict.fromkeys(("benchmark", "metric"), pl.String()),
    "headline": pl.Boolean(),
    "score": pl.Float64(),
    "items": pl.Int64(),
    **dict.fromkeys(("digest", "status", "reason"), pl.String()),
    **dict.fromkeys(("evaluation", "evaluation_config", "primary", "backend", "versions"), pl.String()),
    **COST_COLUMNS,
    **SELECTION_COLUMNS,
    **dict.fromkeys(("cut_prompts", "cut_answers"), pl.Int64()),
    "cut_responses": pl.Float64(),
}
"""Columns of the score table, in order.

cut_prompts, cut_answers: of the benchmark's items, those whose prompt lost its beginning, and those whose answer had no
end; null for none. cut_responses: share of the cell's training samples whose response lost its end; null for none.
"""

CELL_SCHEMA: Columns = {
    **IDENTITY_COLUMNS,
    **dict.fromkeys(("status", "reason", "versions"), pl.String()),
    **COST_COLUMNS,
    **SELECTION_COLUMNS,
}
"""Columns of cells.parquet: what is known of a cell without its evaluation; `status` is that of its training."""

ITEM_SCHEMA: Columns = {
    **dict.fromkeys(("cell", "evaluation", "benchmark"), pl.String()),
    "item": pl.Int64(),
    **dict.fromkeys(("item_hash", "cluster", "metric"), pl.String()),
    "score": pl.Float64(),
}
"""Columns of items.parquet: each benchmark's headline metric and the likelihood metrics (experiment/metrics.py).

score: a fraction, or nats or bits. item_hash: its first 16 hex digits. cluster: items with one cluster are not
independent.
"""

SELECTION_STEPS = (
    *("level", "converged", "ppl_low", "ppl_high", "ent_low", "ent_high"),
    *(f"q{quadrant}_share" for quadrant in (1, 2, 3, 4)),
    *(f"median_q{quadrant}" for quadrant in (1, 2, 3, 4)),
)
"""What the triage logs of each update (`selection/` in metrics.jsonl)."""

STEP_SCHEMA: Columns = {
    "cell": pl.String(),
    **dict.fromkeys(("update", "epoch"), pl.Int32()),
    **dict.fromkeys(("samples", "samples_kept", "tokens_kept", "response_tokens"), pl.Float64()),
    **dict.fromkeys(("loss", "grad_norm"), pl.Float64()),
    **dict.fromkeys(SELECTION_STEPS, pl.Float64()),
}
"""Columns of steps.parquet: means over at most 64 bins of consecutive updates a cell, named by their first update."""

PLANE_SCHEMA: Columns = {
    "cell": pl.String(),
    **dict.fromkeys(("update", "epoch"), pl.Int32()),
    "sample": pl.Int64(),
    **dict.fromkeys(("ppl", "entropy"), pl.Float64()),
    "quadrant": pl.Int8(),
    **dict.fromkeys(("kept", "supplement"), pl.Boolean()),
}
"""Columns of planes.parquet: scored samples of the pruning trace, evenly thinned to at most 3000 a cell."""

LOCALISATION_SCHEMA: Columns = {
    **dict.fromkeys(("cell", "model", "score"), pl.String()),
    **dict.fromkeys(("precision", "recall", "auc", "share", "lambda"), pl.Float64()),
}
"""Columns of localisation.parquet: how well a score (or pruning) of the base and the trained model finds errors.

share: of the response tokens that are pruned, or of the samples that are kept. lambda: of the smoothed score.
"""

WATCHED_SCHEMA: Columns = {
    "cell": pl.String(),
    "update": pl.Int32(),
    "done": pl.Float64(),
    "epoch": pl.Int32(),
    "samples": pl.Int32(),
    **dict.fromkeys(("ppl", "ppl_low", "ppl_median", "ppl_high"), pl.Float64()),
    **dict.fromkeys(("entropy", "entropy_low", "entropy_median", "entropy_high"), pl.Float64()),
}
"""Columns of watched.parquet: mean and quartiles of the scores of fixed training samples, a row a look (watch.py).

update: how many were made before the look; done: share of the training.
"""

TOKEN_KINDS_SCHEMA: Columns = {
    "cell": pl.String(),
    "epoch": pl.Int32(),
    "supplement": pl.Boolean(),
    "kind": pl.String(),
    **dict.fromkeys(("kept", "pruned"), pl.Int64()),
}
"""Columns of token_kinds.parquet: tokens of samples that may lose some, by kind (probes/token_kinds.py)."""

QUADRANT_KINDS_SCHEMA: Columns = {
    "cell": pl.String(),
    "epoch": pl.Int32(),
    "kind": pl.String(),
    "of_kind": pl.Int64(),
    "quadrant": pl.Int8(),
    **dict.fromkeys(("samples", "kept"), pl.Int64()),
}
"""Columns of quadrant_kinds.parquet: samples of an epoch's decisions by planted kind and quadrant (planted_kinds.py).

of_kind: samples of the kind in the train set. samples, kept: those in the quadrant (0: in none), and of these kept.
"""

FOUND_KINDS_SCHEMA: Columns = {
    "cell": pl.String(),
    "epoch": pl.Int32(),
    **dict.fromkeys(("kind", "rule"), pl.String()),
    **dict.fromkeys(("samples", "of_kind", "flagged", "hits"), pl.Int64()),
    **dict.fromkeys(("base_rate", "precision", "recall", "auc"), pl.Float64()),
}
"""Columns of found_kinds.parquet: how well a rule finds the samples of a planted kind (planted_kinds.py).

epoch: null for all of them. samples: that were judged; of_kind, flagged, hits: of the kind, chosen by the rule, both.
"""

MEASURED_SCHEMA: Columns = {
    **dict.fromkeys(("cell", "status"), pl.String()),
    **dict.fromkeys(("seconds_sample_selection", "seconds_token_selection"), pl.Float64()),
    **dict.fromkeys(("seconds_training", "seconds_total"), pl.Float64()),
    **dict.fromkeys(("peak_memory_bytes", "device_memory_bytes"), pl.Int64()),
    "device": pl.String(),
    **dict.fromkeys(("processes", "threads"), pl.Int64()),
    "load_before": pl.Float64(),
}
"""Columns of measured.parquet: time and memory of trainings that had the machine to themselves (observed.py)."""

SCHEMAS: dict[str, Columns] = {
    "scores": SCHEMA,
    "cells": CELL_SCHEMA,
    "items": ITEM_SCHEMA,
    "steps": STEP_SCHEMA,
    "planes": PLANE_SCHEMA,
    "localisation": LOCALISATION_SCHEMA,
    "watched": WATCHED_SCHEMA,
    "token_kinds": TOKEN_KINDS_SCHEMA,
    "quadrant_kinds": QUADRANT_KINDS_SCHEMA,
    "found_kinds": FOUND_KINDS_SCHEMA,
    "measured": MEASURED_SCHEMA,
}
"""File (without .parquet) -> its columns."""

LATER = ("cut_prompts", "cut_answers", "cut_responses", "method_label", "method_colour")
"""Columns that a file lacks where all their rows are null, as the files of older versions do."""

OPTIONAL = ("watched", "token_kinds", "quadrant_kinds", "found_kinds", "measured")
"""Files that a store has only if some experiment has what they hold."""
