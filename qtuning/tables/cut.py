"""What tables say of prompts and answers that were cut: a score of theirs says less of the model than it seems to."""

import json
from collections.abc import Iterator

import polars as pl

from qtuning.tables.labels import benchmark_label

PROMPTS = "prompts did not fit evaluation.max_length = {max_length}, and lost their beginning"
ANSWERS = "answers had no end where the longest generation ends, and were cut"


def cut_notes(scores: pl.DataFrame) -> list[str]:
    """A sentence for each benchmark and kind of cut. scores: rows of the store of one experiment."""
    done = scores.filter(pl.col("headline") & (pl.col("status") == "done"))
    return [*_notes(done, "cut_prompts", PROMPTS), *_notes(done, "cut_answers", ANSWERS)]


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
