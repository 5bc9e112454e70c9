"""Small synthetic stores: rows as the score store has them, made from a formula instead of trainings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qtuning.experiment.registry import NAMED_METHODS, SAMPLE_PRUNERS, TOKEN_PRUNERS
from qtuning.figures.points import points
from qtuning.files import canonical_json
from qtuning.statistics.summary import summarise
from qtuning.store.schema import CELL_SCHEMA, LOCALISATION_SCHEMA, SCHEMA, SCHEMAS
from qtuning.tables.planted_errors import SCORES

BENCHMARKS = {"arc_easy": ("acc", 200), "gsm8k": ("exact_match,flexible-extract", 150), "squad": ("f1", 180)}
EVALUATION = {
    "backend": "hf",
    "batch_size": 64,
    "benchmarks": list(BENCHMARKS),
    "chat_template": False,
    "dtype": "float32",
    "fewshot": 0,
    "limit": None,
    "max_length": 256,
    "max_new_tokens": None,
    "source": "mini-world",
}
BACKEND = {"name": "hf", "lm_eval": "0.4.13", "torch": "2.13.0", "transformers": "5.23.0"}


def cell_rows(
    method: str,
    sample_ratio: float = 1.0,
    token_ratio: float = 1.0,
    seed: int | None = 0,
    *,
    score: float | dict[str, float] = 40.0,
    flops: float = 1e15,
    seconds: float = 100.0,
    status: str = "done",
    reason: str | None = None,
    model: str = "mini",
    experiment: str = "demo",
    **options: Any,
) -> list[dict[str, Any]]:
    """The rows of one cell: a row per benchmark. score: per cent, of every benchmark or of each."""
    sample, token = NAMED_METHODS.get(method, tuple(method.split("+"))) if method != "zero-shot" else ("", "")
    zero = method == "zero-shot"
    name = f"{model}-{method}-{100 * sample_ratio:g}x{100 * token_ratio:g}-s{seed}" + "".join(
        map(str, options.values())
    )
    chosen = {
        "sample": {} if zero else SAMPLE_PRUNERS[sample].options().model_dump(mode="json", by_alias=True),
        "token": {} if zero else TOKEN_PRUNERS[token].options().model_dump(mode="json", by_alias=True),
        "method": {"passes": "once", "pruned_tokens": "mask", "selection": "device", "updates": "as-defined"},
    }
    for key, value in options.items():
        chosen["token" if key == "lambda" else "sample"][key] = value
    trained = {
        "train_set": "mini-sft",
        "sample_pruner": sample,
        "token_pruner": token,
        "sample_ratio": sample_ratio,
        "token_ratio": token_ratio,
        "options": canonical_json(chosen),
        "seed": str(seed),
        "versions": canonical_json({"git": "abc1234", "torch": "2.13.0"}),
        "flops_total": flops,
        "seconds_total": seconds,
        "updates": 100,
    }
    return [
        dict.fromkeys(SCHEMA)
        | {"experiment": experiment, "title": "Demo", "cell": name, "model": model, "model_label": model}
        | {"method": method, "benchmark": benchmark, "metric": metric, "headline": True}
        | ({} if zero else trained)
        | {
            "score": (score[benchmark] if isinstance(score, dict) else score) if status == "done" else None,
            "items": items,
            "digest": "0" * 64,
            "status": status,
            "reason": reason,
            "evaluation": "evaluation-1234abcd",
            "evaluation_config": canonical_json(EVALUATION),
            "backend": json.dumps(BACKEND),
        }
        for benchmark, (metric, items) in BENCHMARKS.items()
    ]


def points_of(scores: pl.DataFrame) -> pl.DataFrame:
    """The points of an experiment's rows."""
    return points(summarise(scores))


def one(frame: pl.DataFrame, **where: object) -> dict[str, object]:
    """The only row with these values."""
    (row,) = frame.filter(**where).to_dicts()
    return row


def trained(frame: pl.DataFrame, size: int) -> pl.DataFrame:
    """Points as they are where the experiment varies the batch size."""
    text = f"batch_size={size}"
    named = pl.when(pl.col("variant") == "").then(pl.lit(text)).otherwise(text + ", " + pl.col("variant"))
    return frame.with_columns(variant=named, training=pl.lit(text), batch_size=pl.lit(size, pl.Int64))


def table(*cells: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Rows of cells as a score table."""
    return pl.DataFrame([row for cell in cells for row in cell], schema=SCHEMA, orient="row")


def grid(
    methods: Sequence[str],
    budgets: Sequence[tuple[float, float]],
    seeds: Sequence[int] = (0, 1),
    model: str = "mini",
    experiment: str = "demo",
) -> pl.DataFrame:
    """A whole experiment with full data and zero-shot: scores rise with the budget, costs as the field's rules say."""
    cells = [cell_rows("zero-shot", seed=None, score=20.0, model=model, experiment=experiment)]
    rng = np.random.default_rng(7)
    for seed in seeds:
        wave = float(rng.normal(0, 1))
        cells.append(cell_rows("full", seed=seed, score=50 + wave, model=model, experiment=experiment))
        for number, method in enumerate(methods):
            for samples, tokens in budgets:
                level = 25 + 22 * (samples * tokens) ** 0.5 + 2 * np.sin(number) + float(rng.normal(0, 0.8))
                score = {name: level + 3 * np.cos(number + place) for place, name in enumerate(BENCHMARKS)}
                dynamic = method == "q-tuning"
                cost = (1 / 3 + 2 / 3 * samples) if dynamic else samples
                cells.append(
                    cell_rows(
                        method,
                        samples,
                        tokens,
                        seed,
                        score=score,
                        flops=1e15 * cost * (1 + 0.02 * number),
                        seconds=100 * cost * (1 + 0.1 * number),
                        model=model,
                        experiment=experiment,
                    )
                )
    return table(*cells)


def steps(cell: str, updates: int = 640, bins: int = 64, quadrants: bool = True, seed: int = 0) -> pl.DataFrame:
    """Rows of steps.parquet of a cell that learns."""
    rng = np.random.default_rng(seed)
    at = np.arange(bins)
    done = at / bins
    known = {
        "level": 0.4,
        "converged": 0.5,
        "ppl_low": 2 + 20 * np.exp(-6 * done),
        "ppl_high": 3 + 200 * np.exp(-6 * done),
        "ent_low": 0.7 - 0.2 * done + rng.normal(0, 0.02, bins),
        "ent_high": 1.1 - 0.4 * done + rng.normal(0, 0.02, bins),
        **{
            f"q{q}_share": np.clip([0.22, 0.1, 0.2, 0.1][q - 1] + rng.normal(0, 0.01, bins), 0, 1) for q in (1, 2, 3, 4)
        },
        **{f"median_q{q}": [0.3, 0.2, 0.3, 0.2][q - 1] + 0.05 * done * [1, -1, 1, -1][q - 1] for q in (1, 2, 3, 4)},
    }
    nothing = np.full(bins, None)
    return pl.DataFrame(
        {
            "cell": [cell] * bins,
            "update": at * updates // bins,
            "epoch": at * 3 // bins,
            "samples": [8.0] * bins,
            "samples_kept": [2.0] * bins,
            "tokens_kept": 40 + rng.normal(0, 2, bins),
            "response_tokens": [320.0] * bins,
            "loss": 3 * np.exp(-4 * done) + 0.4 + rng.normal(0, 0.05, bins),
            "grad_norm": [1.0] * bins,
            **{
                name: (np.broadcast_to(np.asarray(value), bins) if quadrants else nothing)
                for name, value in known.items()
            },
        },
        schema_overrides={"update": pl.Int32, "epoch": pl.Int32} | dict.fromkeys(known, pl.Float64),
    )


def planes(cell: str, rows: int = 900, updates: int = 640, seed: int = 0) -> pl.DataFrame:
    """Rows of planes.parquet of a cell: perplexity and entropy correlate, and both fall."""
    rng = np.random.default_rng(seed)
    update = np.sort(rng.integers(0, updates, rows))
    entropy = rng.gamma(3.0, 0.4, rows) * (1 - 0.4 * update / updates)
    ppl = np.exp(0.2 + 1.2 * entropy * rng.gamma(2.0, 0.5, rows))
    kept = rng.random(rows) < 0.25
    return pl.DataFrame(
        {
            "cell": [cell] * rows,
            "update": update,
            "epoch": update * 3 // updates,
            "sample": rng.integers(0, 2000, rows),
            "ppl": ppl,
            "entropy": entropy,
            "quadrant": rng.integers(0, 5, rows),
            "kept": kept,
            "supplement": kept & (rng.random(rows) < 0.5),
        },
        schema_overrides={"update": pl.Int32, "epoch": pl.Int32, "quadrant": pl.Int8},
    )


def planted(cells: pl.DataFrame, models: Sequence[str] = ("base", "trained")) -> pl.DataFrame:
    """Rows of localisation.parquet of trained cells; the full data prune nothing."""
    rng = np.random.default_rng(3)
    rows = []
    for row in cells.unique("cell", keep="first", maintain_order=True).iter_rows(named=True):
        weight = json.loads(row["options"])["token"].get("lambda", 0.5)
        for model in models:
            for score in SCORES:
                one, two = rng.random(2)
                found: dict[str, Any] = {"precision": one, "recall": one, "auc": two, "share": None}
                if "pruned" in score:
                    found = {"precision": one, "recall": two, "auc": None, "share": 0.5}
                    if row["method"] == "full":
                        found |= {"precision": None, "recall": 0.0, "share": 0.0}
                if "kept samples w" in score:
                    found = {"precision": None, "recall": None, "auc": None, "share": one}
                rows.append({"cell": row["cell"], "model": model, "score": score, "lambda": weight} | found)
    return pl.DataFrame(rows, schema=LOCALISATION_SCHEMA)


def write_store(
    folder: Path,
    scores: pl.DataFrame,
    collected: pl.DataFrame | None = None,
    logged: bool = True,
    **details: pl.DataFrame,
) -> Path:
    """A store with steps of every trained cell and planes of those of Q-Tuning (unless nothing is `logged`).

    collected: cells.parquet, by default the cells that have scores. details: other files of the store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if collected is None:
        collected = scores.unique("cell", keep="first", maintain_order=True).select(list(CELL_SCHEMA))
    every, scored = [], []
    cells = collected.filter(pl.col("seed").is_not_null()) if logged else collected.clear()
    for number, row in enumerate(cells.iter_rows(named=True)):
        triage = row["method"] == "q-tuning"
        every.append(steps(row["cell"], quadrants=triage, seed=number))
        if triage:
            scored.append(planes(row["cell"], seed=number))
    files = {"scores": scores, "cells": collected}
    for name, parts in (("steps", every), ("planes", scored)):
        files[name] = pl.concat(parts) if parts else pl.DataFrame(schema=SCHEMAS[name])
    for name, schema in SCHEMAS.items():
        frame = files.get(name, pl.DataFrame(schema=schema))
        frame.select(list(schema)).cast(dict(schema)).write_parquet(folder / f"{name}.parquet")  # type: ignore[arg-type]
    return folder
