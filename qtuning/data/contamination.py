"""Contamination: which items of a benchmark have an n-gram in common with a train set (docs/contamination.md).

The method of Brown et al. 2020 (arXiv 2005.14165, appendix C): lower case, no punctuation, n = 13 words.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heapreplace
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal

from qtuning.data.items import fetch_items, read_items, reading_from_hub
from qtuning.data.overlap import Index, Shared, words
from qtuning.data.report import describe_source
from qtuning.data.rows import Example, parse
from qtuning.data.sources import local_folder, read_rows
from qtuning.errors import UserError
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.schema import TrainSet
from qtuning.files import canonical_json, short_hash

if TYPE_CHECKING:
    from qtuning.experiment.grid import Grid

BenchmarkSource = Literal["hub", "data-dir", "mini-world"]
NGRAM = 13
TOP = 5
"""How many training samples a report names of each benchmark."""
EXCERPT = 160


@dataclass(frozen=True)
class Check:
    """A train set against benchmarks: what the name of its report is made from."""

    train_set: TrainSet
    source: BenchmarkSource
    benchmarks: tuple[str, ...]
    ngram: int = NGRAM

    @property
    def name(self) -> str:
        """`TRAIN_SET-SOURCE-HASH`: name of the report, known before anything is read."""
        identity = {
            "train_set": self.train_set.model_dump(mode="json", exclude={"label", "local", "bad_rows"}),
            "source": self.source,
            "benchmarks": sorted(self.benchmarks),
            "ngram": self.ngram,
        }
        return f"{self.train_set.name}-{self.source}-{short_hash(identity)}"

    def path(self, results: Path) -> Path:
        """Where the report lies."""
        return Path(results) / "contamination" / f"{self.name}.json"


def checks(grids: Iterable["Grid"]) -> dict[str, Check]:
    """Every check that the tables of these experiments quote, by name; equal ones of different experiments are one."""
    found: dict[str, Check] = {}
    for grid in grids:
        for cell in grid.cells:
            if cell.train_set is not None and grid.evaluation is not None:
                job = Check(cell.train_set, grid.evaluation.source, grid.evaluation.benchmarks)
                found.setdefault(job.name, job)
    return found


@dataclass
class _Benchmark:
    """What is gathered of one benchmark. texts: of each item, by part, the number of the text in the index."""

    name: str
    texts: list[dict[str, int]]
    digest: str
    example: dict[str, Any] | None = None
    example_shared: int = 0
    top: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)


def check(job: Check, *, data_dir: Path | None, progress: bool = False) -> dict[str, Any]:
    """The report of one check: one pass over the train set. UserError where either side cannot be read.

    Rows that are no sample (rows.Refusal) are counted, not compared: no model is trained on them.
    """
    index, benchmarks, owner = _indexed(job, data_dir)
    read, unusable = 0, 0
    for row in _watched(read_rows(job.train_set, data_dir=data_dir), progress, job.name):
        read += 1
        example = None if row.problem is not None else parse(row.value, job.train_set)
        if not isinstance(example, Example):
            unusable += 1
            continue
        texts = [message.content for message in example.prompt] + [example.input, example.response]
        shared = index.scan([words(text) for text in texts if text])
        if shared.texts:
            _record(shared, benchmarks, owner, row.line, shorten(example.prompt[-1].content, EXCERPT))
    if read == 0:
        raise UserError(f"train set {job.train_set.name}: its source has no rows")
    source = describe_source(job.train_set, data_dir)
    source.pop("path", None)  # the same data on another machine is the same report
    covered = index.covered()
    return {
        "train_set": job.train_set.name,
        "label": job.train_set.label,
        "train_source": source,
        "benchmark_source": job.source,
        "ngram": job.ngram,
        "read": read,
        "unusable": unusable,
        "benchmarks": {benchmark.name: _result(benchmark, index, covered) for benchmark in benchmarks},
    }


def _indexed(job: Check, data_dir: Path | None) -> tuple[Index, list[_Benchmark], dict[int, list[tuple[int, int]]]]:
    """The index of all benchmarks, and (benchmark, item) of every text; equal texts (a SQuAD context) are one."""
    index = Index(job.ngram)
    owner: dict[int, list[tuple[int, int]]] = {}
    known: dict[tuple[int, str, str], int] = {}
    benchmarks = []
    for place, (name, records) in enumerate(_records(job, data_dir)):
        benchmark = _Benchmark(name, [], hashlib.sha256(canonical_json(records).encode()).hexdigest())
        for item, record in enumerate(records):
            numbers = {}
            for part, key in BENCHMARKS[name].texts:
                text = words(record[key])
                joined = (place, part, " ".join(text))
                if joined not in known:
                    known[joined] = index.add(text, short=part == "question")
                    owner[known[joined]] = []
                numbers[part] = known[joined]
                owner[known[joined]].append((place, item))
            benchmark.texts.append(numbers)
        benchmarks.append(benchmark)
    return index, benchmarks, owner


def _records(job: Check, data_dir: Path | None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every benchmark with its evaluation items, in the order in which they are evaluated."""
    if job.source == "hub":
        for name in job.benchmarks:
            benchmark = BENCHMARKS[name]
            with reading_from_hub(benchmark):
                items = fetch_items(benchmark)[benchmark.split]
            yield name, items.select_columns([key for _, key in benchmark.texts]).to_list()
        return
    folder = local_folder(job.source, data_dir)
    if folder is None:
        raise UserError("benchmarks from local files: no folder given; add --data-dir DIR")
    for name in job.benchmarks:
        yield name, read_items(folder, name)


def _watched(rows: Iterable[Any], shown: bool, name: str) -> Iterable[Any]:
    """A progress bar; a stream does not tell its length."""
    if not shown:
        return rows
    from tqdm import tqdm

    return tqdm(rows, desc=name, unit=" samples", mininterval=0.2)


def _record(
    shared: Shared,
    benchmarks: Sequence[_Benchmark],
    owner: dict[int, list[tuple[int, int]]],
    line: int,
    excerpt: str,
) -> None:
    """Keep a training sample if it is among those that touch the most items, or the closest to one item so far."""
    touched: dict[int, set[int]] = {}
    for number in sorted(shared.texts):
        for place, item in owner[number]:
            touched.setdefault(place, set()).add(item)
        place, item = owner[number][0]
        benchmark, count = benchmarks[place], shared.counts.get(number, 1)
        if count > benchmark.example_shared:
            part = next(part for part, text in benchmark.texts[item].items() if text == number)
            benchmark.example_shared = count
            benchmark.example = {
                "item": item,
                "part": part,
                "line": line,
                "sample": excerpt,
                "shared": " ".join(shared.grams[number]),
                "ngrams_shared": shared.counts.get(number, 0),
            }
    for place, items in touched.items():
        top, entry = benchmarks[place].top, {"line": line, "items": len(items), "sample": excerpt}
        # at equal counts the earlier line stays: the heap drops the smallest (count, -line)
        candidate = (len(items), -line, entry)
        if len(top) < TOP:
            heappush(top, candidate)
        elif candidate[:2] > top[0][:2]:
            heapreplace(top, candidate)


def _result(benchmark: _Benchmark, index: Index, covered: Sequence[int]) -> dict[str, Any]:
    """Counts of one benchmark."""
    by_part = dict.fromkeys((part for part, _ in BENCHMARKS[benchmark.name].texts), 0)
    counts = dict.fromkeys(("contaminated", "copied", "short", "short_found"), 0)
    coverage = []
    for texts in benchmark.texts:
        sizes = [index.sizes[number] for number in texts.values()]
        hit = [part for part, number in texts.items() if covered[number] or number in index.found]
        counts["short"] += not any(sizes)
        counts["short_found"] += bool(hit) and not any(sizes)
        counts["contaminated"] += bool(hit)
        counts["copied"] += any(
            number in index.found or 0 < index.sizes[number] <= 2 * index.single[number] for number in texts.values()
        )
        for part in hit:
            by_part[part] += 1
        if hit and any(sizes):
            coverage.append(sum(covered[number] for number in texts.values()) / sum(sizes))
    items = len(benchmark.texts)
    return {
        "items": items,
        "digest": benchmark.digest,
        **counts,
        "share": round(counts["contaminated"] / items, 6),
        "by_part": by_part,
        "coverage_of_contaminated": round(sum(coverage) / len(coverage), 4) if coverage else None,
        "example": benchmark.example,
        "top_sources": [entry for _, _, entry in sorted(benchmark.top, key=lambda kept: (-kept[0], -kept[1]))],
    }
