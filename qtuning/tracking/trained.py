"""What a mirror gets of a finished training, read from the cell's files."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.data.samples import SAMPLES
from qtuning.experiment.cell import Cell
from qtuning.files import read_json
from qtuning.tracking.mirror import Mirror

TEXT = "QTUNING_TRACKING_TEXT"
"""Environment variable: 0 keeps prompts, responses and answers on this machine."""

STEPS, ROWS, CHARACTERS = 5, 200, 400
"""Of the table `plane`: updates that it shows, rows, and characters of each prompt and response."""

PLANE = ("update", "epoch", "sample", "ppl", "entropy", "quadrant", "kept", "supplement", "response_tokens",
         "kept_tokens")  # fmt: skip


def send_training(mirror: Mirror, folder: Path, samples: Path, tokenizer: Path | None) -> None:
    """Send what the training in `folder` (results/cells/CELL) came to: summary, the table `plane`, the trace.

    samples, tokenizer: folders of the prepared train set and of the base model, for the texts of the table; without
    them, or where TEXT is 0, it has none.
    """
    with mirror.guarded():
        if not mirror.active or not (folder / "train.json").exists():
            return
        mirror.summary(training_summary(folder))
        if (trace := folder / "trace.parquet").exists():
            plane = plane_table(trace, samples, tokenizer)
            if plane is not None:
                mirror.table("plane", plane)
            mirror.artifact("trace", trace)


def records_of(folder: Path) -> list[dict[str, Any]]:
    """The metrics of all updates of a cell; none for one that is not trained."""
    metrics = folder / "metrics.jsonl"
    return [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()] if metrics.exists() else []


def training_summary(folder: Path) -> dict[str, Any]:
    """Values of a whole training: `status`, `updates`, `cost/*`, `mean/*` of every curve, `kept_over_asked/*`.

    What is asked is the share of all samples and of all response tokens of all epochs, as tables count it.
    """
    train, cell = read_json(folder / "train.json"), Cell.model_validate(read_json(folder / "cell.json"))
    values: dict[str, Any] = {key: train.get(key) for key in ("status", "reason", "updates")}
    values |= {"cost": train["cost"], "mean": run_means(records_of(folder))}
    pruning, cost, selection = cell.pruning, train["cost"], train.get("selection", {})
    if pruning is not None:
        shares = {"samples": pruning.sample_ratio, "tokens": pruning.sample_ratio * pruning.token_ratio}
        asked = {key: share * selection.get(f"{key}_available", 0) for key, share in shares.items()}
        values["kept_over_asked"] = {key: cost[f"{key}_kept"] / of for key, of in asked.items() if of}
    return values


def run_means(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of every curve over the updates that have a value, by its name without `selection/`."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for key, value in record.items():
            if key not in ("update", "epoch") and isinstance(value, int | float) and math.isfinite(value):
                found[key.removeprefix("selection/")].append(value)
    return {key: math.fsum(values) / len(values) for key, values in found.items()}


def plane_table(trace: Path, samples: Path, tokenizer: Path | None) -> pl.DataFrame | None:
    """At most ROWS scored samples of STEPS updates, first to last, with their texts; None where none was scored."""
    scored = pl.scan_parquet(trace).select(PLANE).filter(pl.col("ppl").is_not_null()).collect()
    if scored.is_empty():
        return None
    updates = scored["update"].unique().sort()
    places = sorted({round(k * (len(updates) - 1) / (STEPS - 1)) for k in range(STEPS)})
    shown = scored.filter(pl.col("update").is_in(updates.gather(places).to_list()))
    shown = shown.gather_every(-(-len(shown) // ROWS))
    if tokenizer is None or not (samples / SAMPLES).exists() or os.environ.get(TEXT) == "0":
        return shown
    from qtuning.data.tokenise import load_tokenizer

    decode = load_tokenizer(tokenizer).decode
    asked = pl.col("sample").is_in(shown["sample"].unique().to_list())
    stored = pl.scan_parquet(samples / SAMPLES).select("sample", "input_ids", "prompt_length").filter(asked).collect()
    texts = [
        (number, *(str(decode(part, skip_special_tokens=True))[:CHARACTERS] for part in (ids[:prompt], ids[prompt:])))
        for number, ids, prompt in stored.iter_rows()
    ]
    schema = {"sample": pl.Int64, "prompt": pl.String, "response": pl.String}
    return shown.join(pl.DataFrame(texts, schema=schema, orient="row"), on="sample", how="left")
