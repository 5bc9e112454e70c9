"""Small benchmark files of the exact formats of ARC, GSM8K, SQuAD v1.1, TriviaQA and MATH."""

import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from hub_server import Hub

from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.ids import ResultPaths
from qtuning.hub.fetch import prefetch
from qtuning.hub.repositories import repository_of_benchmark

Records = list[dict[str, Any]]


def publish(hub: Hub, benchmark: str, subsets: Mapping[str, Mapping[str, Records]]) -> None:
    """Put the splits of each subset on a hub as a new commit, the one that the benchmark is pinned to.

    As on the real one, every subset has a folder of Parquet files, and a card says which belong to it.
    """
    files: dict[str, bytes | str] = {}
    for subset, splits in subsets.items():
        for split, records in splits.items():
            file = io.BytesIO()
            pl.DataFrame(records).write_parquet(file)
            files[f"{subset}/{split}-00000-of-00001.parquet"] = file.getvalue()
    configs = [
        {
            "config_name": subset,
            "data_files": [{"split": split, "path": f"{subset}/{split}-*"} for split in splits],
        }
        for subset, splits in subsets.items()
    ]
    record = BENCHMARKS[benchmark]
    files["README.md"] = f"---\nconfigs: {json.dumps(configs)}\n---\n"
    hub.add("dataset", str(record.hub_id), files, commit=record.revision)


def fetch_benchmarks(results: Path, *names: str) -> Path:
    """Fetch benchmarks from the hub that is in use; the folder that says what was fetched."""
    found = [repository_of_benchmark(name) for name in names]
    prefetch([repository for repository in found if repository is not None], paths := ResultPaths(results))
    return paths.hub


def write_records(folder: Path, benchmark: str, split: str, records: Records) -> Path:
    path = folder / benchmark / f"{split}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return path


def arc(n: int, choices: int, offset: int = 0) -> Records:
    labels = list("ABCDE") if choices != 3 else ["1", "2", "3"]
    return [
        {
            "id": f"q{i}",
            "question": f"Which of these is number {i + offset}?",
            "choices": {
                "text": [f"thing {(i + j) * 7 % 23}" + "!" * j for j in range(choices)],
                "label": labels[:choices],
            },
            "answerKey": labels[i % choices],
        }
        for i in range(n)
    ]


def gsm8k(n: int, offset: int = 0) -> Records:
    return [
        {
            "question": f"Ann has {i + offset} plums and gets 1,000 more. How many?",
            "answer": f"{i + offset} + 1000 = <<{i + offset}+1000={i + offset + 1000}>>.\n#### 1,{i + offset:03d}",
        }
        for i in range(n)
    ]


def squad(n: int, offset: int = 0) -> Records:
    return [
        {
            "id": f"s{i}",
            "title": "Ships",
            "context": f"The Ship No. {i + offset} carries the red ropes.",
            "question": f"  What does ship {i + offset} carry?",
            "answers": {"text": ["the red ropes", "red ropes"], "answer_start": [19, 23]},
        }
        for i in range(n)
    ]


def triviaqa(n: int, offset: int = 0) -> Records:
    return [
        {
            "question_id": f"t{i}",
            "question": f"Who wrote book {i + offset}?",
            "answer": {
                "value": f"Smith-Jones {i + offset}",
                "aliases": [f"Smith-Jones {i + offset}", f"A. Smith Jones, {i + offset}"],
                "normalized_aliases": [f"smith jones {i + offset}"],
            },
        }
        for i in range(n)
    ]


def math(n: int, offset: int = 0) -> Records:
    return [
        {
            "problem": f"What is $\\frac{{{2 * (i + offset) + 1}}}{{2}}$ as a fraction?",
            "level": "Level 1",
            "type": "Algebra",
            "solution": f"It is $x$, which is $\\boxed{{\\frac{{{2 * (i + offset) + 1}}}{{2}}}}$.",
        }
        for i in range(n)
    ]


def write_all(folder: Path) -> Path:
    """Every benchmark: an evaluation split of 6 items and a training split of 8 other ones."""
    for split, n, offset in (("test", 6, 0), ("train", 8, 500)):
        write_records(folder, "arc_easy", split, arc(n, 4, offset))
        write_records(folder, "arc_challenge", split, arc(n, 3 if split == "test" else 5, offset))
        write_records(folder, "retention", split, arc(n, 4, offset + 50))
        write_records(folder, "gsm8k", split, gsm8k(n, offset))
        write_records(folder, "math", split, math(n, offset))
        split = "validation" if split == "test" else split
        write_records(folder, "squad", split, squad(n, offset))
        write_records(folder, "triviaqa", split, triviaqa(n, offset))
    return folder
