"""Runs of ours beside the paper's: rows of the store as collecting leaves them, and a store of them in memory."""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qtuning.store.schema import ITEM_SCHEMA, SCHEMA
from qtuning.store.store import Store

Row = dict[str, Any]
Score = Callable[[int], float]

TABLE1 = ("arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa")
# what the published scores are shares of (docs/tables.md)
ITEMS = {"arc_easy": 567, "arc_challenge": 295, "gsm8k": 1319, "squad": 10_570, "triviaqa": 8837, "math": 5000}
METRICS = {"squad": "f1"}
SAMPLES, TOKENS = ("random", "longest", "infobatch", "entropy"), ("random", "ppl", "fastv", "sparsevlm")
OFFERED = {"wizardlm": 3 * 70_000.0, "mathinstruct": 3 * 262_039.0}
ANSWERED = 40
"""Items of each benchmark that the stores below hold answers to."""


def evaluation(**changes: Any) -> str:
    return json.dumps({"source": "hub", "limit": None, "fewshot": None} | changes)


def options(**sample: Any) -> str:
    return json.dumps({"sample": sample, "token": {}, "method": {}})


def rows_of(
    experiment: str,
    model: str,
    train_set: str,
    scores: Mapping[str, Score],
    seeds: Sequence[int],
    benchmarks: Sequence[str],
    budget: tuple[float, float] = (0.25, 0.5),
) -> list[Row]:
    """Headline rows of methods, with their scores at each seed on all benchmarks alike; `zero-shot` has no seed."""
    rows: list[Row] = []
    common = {"experiment": experiment, "title": experiment, "model": model, "evaluation": "evaluation"}
    common |= {"evaluation_config": evaluation(), "backend": "{}", "digest": "0"}
    for method, score in scores.items():
        sample, _, token = {"q-tuning": "q-tuning+q-tuning", "full": "full+none"}.get(method, method).partition("+")
        ratios = (1.0, 1.0) if method == "full" else budget
        for seed in (0,) if method == "zero-shot" else seeds:
            row: Row = dict.fromkeys(SCHEMA) | {"primary": "{}"} | common
            row |= {"method": method, "cell": f"{model}-{train_set}-{method}-{seed}-{ratios}"}
            row |= {"headline": True, "status": "done", "score": score(seed)}
            if method != "zero-shot":
                row |= {"train_set": train_set, "seed": str(seed), "options": options(), "training": ""}
                row |= {"sample_pruner": sample, "token_pruner": token}
                row |= {"sample_ratio": ratios[0], "token_ratio": ratios[1]}
                row |= {"samples_available": OFFERED.get(train_set)}
            for name in benchmarks:
                rows.append(row | {"benchmark": name, "items": ITEMS[name], "metric": METRICS.get(name, "acc")})
    return rows


def table1(
    gain: Score,
    seeds: Sequence[int] = (0, 1, 2),
    experiment: str = "table1",
    model: str = "llama2-7b",
    train_set: str = "wizardlm",
    best: str = "longest+ppl",
    samples: float = 0.125,
) -> list[Row]:
    """Q-Tuning, 16 baselines and full data; `gain(seed)` is Q-Tuning's over the best baseline (40)."""
    rng = np.random.default_rng(1)
    rows = []
    for seed in seeds:
        baselines = {f"{sample}+{token}": 30 + 0.2 * rng.normal() for sample in SAMPLES for token in TOKENS}
        scores = baselines | {best: 40.0, "full": 35 + 0.2 * rng.normal(), "q-tuning": 40.0 + gain(seed)}
        # the seeds differ by one point in every row; only pairing takes that out
        at_seed = {method: partial(operator.add, score) for method, score in scores.items()}
        rows += rows_of(experiment, model, train_set, at_seed, [seed], TABLE1, (samples, 0.5))
    return rows


def table2(
    scores: dict[str, Score], budget: tuple[float, float] = (0.25, 0.5), experiment: str = "table2"
) -> list[Row]:
    """SmolLM2-1.7B over four seeds."""
    return rows_of(experiment, "smollm2-1.7b", "mathinstruct", scores, range(4), ("gsm8k", "math"), budget)


def store_of(rows: list[Row]) -> Store:
    """A store in memory: answers whose means are the scores, an item as hard for all methods but for a little."""
    store = Store(Path("nowhere"))
    known = {(row["cell"], row["benchmark"]): row["score"] for row in rows if row["score"] is not None}
    items = []
    for (cell, benchmark), score in sorted(known.items()):
        rng = np.random.default_rng(list(f"{cell} {benchmark}".encode()))
        hard = np.linspace(-0.2, 0.2, ANSWERED) + 0.01 * rng.normal(size=ANSWERED)
        answers = score / 100 + hard - hard.mean()
        metric = METRICS.get(benchmark, "acc")
        place = {"cell": cell, "evaluation": "evaluation", "benchmark": benchmark, "metric": metric}
        items += [
            place | {"item": i, "item_hash": str(i), "cluster": str(i), "score": answer}
            for i, answer in enumerate(answers)
        ]
    # what the store reads from its files on first use
    vars(store).update(scores=pl.DataFrame(rows, schema=SCHEMA), items=pl.DataFrame(items, schema=ITEM_SCHEMA))
    return store
