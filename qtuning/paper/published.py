"""The paper's tables 1 and 2 (arXiv 2509.23873), as far as we have their numbers, and how these were measured."""

import re
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.errors import UserError
from qtuning.paper import reference
from qtuning.paper.measured import Row
from qtuning.tables.labels import pruner_labels
from qtuning.tables.summary import Line

SCHEMA: dict[str, pl.DataType] = {
    "table": pl.Int64(),
    "train_set": pl.String(),
    "setting": pl.String(),
    "sample_ratio": pl.Float64(),
    "token_ratio": pl.Float64(),
    "model": pl.String(),
    "sample_pruner": pl.String(),
    "token_pruner": pl.String(),
    "benchmark": pl.String(),
    "score": pl.Float64(),
}
"""Columns of the published scores. setting: pruned, full or zero_shot; ratios and scores in per cent."""

LABEL = {
    "llama2-7b": "LLaMA2-7B",
    "llama3-8b": "LLaMA3-8B",
    "mistral-7b": "Mistral-7B",
    "smollm2-1.7b": "SmolLM2-1.7B",
}
"""The models of the paper, as it writes them."""

TRAIN_SAMPLES = {"wizardlm": 70_000, "mathinstruct": 262_039}
"""Rows of the train sets, as their pages on the hub give them."""

EPOCHS = 3
"""method.md, Hyper-parameters."""

NOT_PUBLISHED = (
    "LoRA rank, alpha and dropout, learning-rate schedule, warm-up, cutoff length, prompts, shots, generation lengths, "
    "number of seeds"
)
"""What the paper does not say, so that ours can only be a choice (method.md, Hyper-parameters)."""


def read_published(source: Path | pl.DataFrame | None = None) -> pl.DataFrame:
    """The published scores; by default those that the package ships. One row per number, columns as in SCHEMA.

    A file is read by reference.py, as strictly as for the audit. Raises UserError for what that refuses, and for a
    frame in which a column is missing or holds what is no number.
    """
    if isinstance(source, pl.DataFrame):
        return _checked(source)
    found = reference.read_published(reference.PAPER / "reference_scores.csv" if source is None else Path(source))
    rows = [
        published_row(row, found.train_sets[int(row.table)], benchmark, float(score))
        for row, scores in found.scores.items()
        for benchmark, score in scores.items()
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def published_row(row: Row, train_set: str, benchmark: str, score: float | None) -> dict[str, Any]:
    """A published number as a row of the frame. row: of a table of the paper."""
    return {
        "table": row.table,
        "train_set": train_set,
        "setting": row.setting,
        "sample_ratio": float(row.budget.samples),
        "token_ratio": float(row.budget.tokens),
        "model": row.model,
        "sample_pruner": row.sample_pruner,
        "token_pruner": row.token_pruner,
        "benchmark": benchmark,
        "score": score,
    }


def table_number(experiment: str) -> int | None:
    """1 or 2 for an edition of the paper's table (`table1`, `table1-mini`), else None."""
    match = re.fullmatch(r"table([12])(-.+)?", experiment)
    return int(match[1]) if match else None


def possible(score: float, items: int) -> bool:
    """Whether a score in per cent with two decimals can be the share of right answers among so many items.

    A share k / items must round to the score for some whole k, up or down; every score does with over 10,000 items.
    """
    nearest = round(score * items / 100)
    return any(abs(100 * count / items - score) <= 0.005 + 1e-9 for count in (nearest - 1, nearest, nearest + 1))


def impossible(scores: list[float], items: int) -> int:
    """How many of these scores no count of right answers among so many items gives."""
    return sum(not possible(score, items) for score in scores)


def place(line: Line) -> tuple[Any, ...]:
    """What identifies one of our rows among the published ones."""
    if line.reference:
        return (line.method,)
    return (line.sample_ratio, line.token_ratio, line.sample_pruner, line.token_pruner)


def published_place(row: dict[str, Any]) -> tuple[Any, ...]:
    """The same of a published row."""
    if row["setting"] != "pruned":
        return ({"full": "full", "zero_shot": "zero-shot"}[row["setting"]],)
    ratios = (round(row["sample_ratio"] / 100, 12), round(row["token_ratio"] / 100, 12))
    return (*ratios, row["sample_pruner"], row["token_pruner"])


def published_labels(row: dict[str, Any]) -> tuple[str, str]:
    """How tables call a published row: sample pruner and token pruner."""
    method = {"full": "full", "zero_shot": "zero-shot"}.get(row["setting"], "")
    if row["sample_pruner"] == "q-tuning":
        method = "q-tuning"
    return pruner_labels(Line("", method, row["sample_pruner"], row["token_pruner"], None, None, "", ""))


def _checked(frame: pl.DataFrame) -> pl.DataFrame:
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise UserError(f"published scores: column(s) {', '.join(missing)} missing")
    try:
        return frame.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
    except pl.exceptions.InvalidOperationError as error:
        raise UserError(f"published scores: {str(error).splitlines()[0]}") from None
