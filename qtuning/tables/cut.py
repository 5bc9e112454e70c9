"""What tables say of prompts, answers and training responses that were cut: scores then say less than they seem to."""

import json
from collections.abc import Iterator
from typing import Any

import polars as pl

from qtuning.statistics.summary import Summary
from qtuning.tables.labels import benchmark_label

PROMPTS = "prompts did not fit evaluation.max_length = {max_length}, and lost their beginning"
ANSWERS = "answers had no end where the longest generation ends, and were cut"
RESPONSES = "did not fit training.cutoff, and lost their end"
COLUMNS = ("cut_prompts", "cut_answers")


def cut_notes(scores: pl.DataFrame) -> list[str]:
    """A sentence for each train set, benchmark and kind of cut. scores: rows of the store of one experiment."""
    done = scores.filter(pl.col("headline") & (pl.col("status") == "done"))
    return [*_trained(scores), *_notes(done, "cut_prompts", PROMPTS), *_notes(done, "cut_answers", ANSWERS)]


def cut_columns(summary: Summary) -> dict[tuple[Any, ...], dict[str, int]]:
    """(line, model, benchmark) -> COLUMNS, each the most of any seed; nothing where nothing was cut."""
    found: dict[tuple[Any, ...], dict[str, int]] = {}
    for (*place, _), row in summary.places.items():
        known = found.setdefault(tuple(place), dict.fromkeys(COLUMNS, 0))
        known.update({column: max(known[column], row.get(column) or 0) for column in COLUMNS})
    return found if any(count for counts in found.values() for count in counts.values()) else {}


def _trained(scores: pl.DataFrame) -> Iterator[str]:
    cut = scores.filter(pl.col("cut_responses").is_not_null())
    for (name, label), rows in cut.group_by("train_set", "train_set_label", maintain_order=True):
        shares = [f"{100 * share:.3g}%" for share in sorted(set(rows["cut_responses"]))]
        share = shares[0] if len(shares) == 1 else f"{shares[0]} to {shares[-1]}"
        yield f"Cut: {label or name}: {share} of the training responses {RESPONSES}."


def _notes(done: pl.DataFrame, column: str, text: str) -> Iterator[str]:
    """Of the cells that have some: how many of how many items, the smallest and the largest number."""
    for (benchmark,), rows in done.group_by("benchmark", maintain_order=True):
        found = rows.filter(pl.col(column).is_not_null())
        if found.is_empty():
            continue
        counts, config = found[column].to_list(), json.loads(found["evaluation_config"][0])
        count = f"{counts[0]:,}" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,}"
        where = "in every cell" if len(found) == len(rows) else f"in {len(found)} of {len(rows)} cells"
        what = text.format(max_length=config["max_length"])
        yield f"Cut: {benchmark_label(str(benchmark))}: {count} of {found['items'][0]:,} {what} ({where})."
