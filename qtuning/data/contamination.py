"""Contamination: which items of a benchmark share an n-gram with a train set (docs/contamination.md).

The method of Brown et al. 2020 (arXiv 2005.14165, appendix C): lower case, no punctuation, n = 13 words. A check writes
a report; the tables of an experiment quote the reports of its checks in a note.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field
from tqdm import tqdm

from qtuning.data.items import asked_items, local_files
from qtuning.data.overlap import Gram, Index, words
from qtuning.data.parse import parse_row
from qtuning.data.present import is_present
from qtuning.data.rows import Example
from qtuning.data.sources import describe_source, local_folder, read_rows
from qtuning.errors import UserError
from qtuning.experiment.benchmarks import BENCHMARKS, Protocol, label_of
from qtuning.experiment.cell import TrainSet
from qtuning.experiment.yaml_files import validate
from qtuning.files import canonical_json, file_digest, short_hash
from qtuning.manifest import read_sealed

if TYPE_CHECKING:
    import polars

    from qtuning.experiment.grid import Grid

BenchmarkSource = Literal["hub", "data-dir", "mini-world"]
NGRAM = 13
TOP_SOURCES = 5
EXCERPT = 160
"""Characters of a training sample that a report quotes."""


@dataclass(frozen=True)
class OverlapCheck:
    """A train set against benchmarks: what the name of its report is made from.

    draw: data seed by which `train_set` was drawn, if it has several draws.
    """

    train_set: TrainSet
    source: BenchmarkSource
    benchmarks: tuple[str, ...]
    ngram: int = NGRAM
    protocol: Protocol = "standard"
    draw: int = 0

    @property
    def name(self) -> str:
        """`TRAIN_SET-SOURCE-HASH`: name of the report, known before anything is read."""
        identity: dict[str, Any] = {
            "train_set": self.train_set.without_ratings().model_dump(
                mode="json", exclude={"label", "local", "bad_rows", "planted"}
            ),
            "source": self.source,
            "benchmarks": sorted(self.benchmarks),
            "ngram": self.ngram,
        }
        if self.protocol != "standard":
            identity["protocol"] = self.protocol
        return f"{self.train_set.name}-{self.source}-{short_hash(identity)}"

    def path(self, results: Path) -> Path:
        """Where the report lies."""
        return Path(results) / "contamination" / f"{self.name}.json"


def checks_of(grids: Iterable["Grid"]) -> dict[str, OverlapCheck]:
    """Every check that the tables of these experiments quote, by name; equal ones of different experiments are one.

    Of several draws of a train set (FileSource.draws) that of the experiment's first seed is checked.
    """
    found: dict[str, OverlapCheck] = {}
    for grid in grids:
        first: dict[str, tuple[TrainSet, int]] = {}
        for cell in grid.cells:
            if cell.train_set is not None and grid.evaluation is not None:
                asked = grid.evaluation
                assert cell.seeds is not None, "what is trained has seeds"
                train_set, draw = first.setdefault(cell.train_set.name, (cell.train_set, cell.seeds.data))
                check = OverlapCheck(train_set, asked.source, asked.benchmarks, protocol=asked.protocol, draw=draw)
                found.setdefault(check.name, check)
    return found


@dataclass
class _Tally:
    """What is gathered of one benchmark.

    texts: of each item, by part, the number of the text in the index. example: the closest pair of item and training
    sample so far, which share `closest` n-grams (a short text counts as one). top: the training samples that touch
    most items, the most first.
    """

    name: str
    digest: str
    texts: list[dict[str, int]] = field(default_factory=list)
    example: dict[str, Any] | None = None
    closest: int = 0
    top: list[dict[str, Any]] = field(default_factory=list)


# number of a text -> (place of the benchmark, item) of all that have it; equal texts (a SQuAD context) are one
Owners = dict[int, list[tuple[int, int]]]


def run_check(check: OverlapCheck, *, data_dir: Path | None, hub: Path | None = None) -> dict[str, Any]:
    """The report of one check: one pass over the train set. UserError where either side cannot be read.

    hub: see `read_rows`.

    Rows that are no sample (rows.Refusal) are counted, not compared: no model is trained on them.
    """
    index, tallies, owners = _index_benchmarks(check, data_dir, hub)
    read, unusable = 0, 0
    rows = read_rows(check.train_set, data_dir=data_dir, hub=hub)
    for row in tqdm(rows, desc=check.name, unit=" samples", mininterval=0.2, disable=None):
        read += 1
        example = parse_row(row, check.train_set)
        if not isinstance(example, Example):
            unusable += 1
            continue
        texts = [message.content for message in example.prompt] + [example.input, example.response]
        shared = index.scan([words(text) for text in texts if text])
        if shared:
            _record(shared, tallies, owners, row.line, shorten(example.prompt[-1].content, EXCERPT))
    if read == 0:
        raise UserError(f"train set {check.train_set.name}: its source has no rows")
    source = describe_source(check.train_set, data_dir, hub)
    source.pop("path", None)  # the same data on another machine is the same report
    covered = index.covered()  # by text, how many of its n-grams stand in the train set
    return {
        "train_set": check.train_set.name,
        "label": check.train_set.label,
        "train_source": source,
        "benchmark_source": check.source,
        "protocol": check.protocol,
        "ngram": check.ngram,
        "read": read,
        "unusable": unusable,
        "benchmarks": {tally.name: _result(tally, index, covered) for tally in tallies},
        **({"benchmark_files": files} if (files := _benchmark_digests(check, data_dir)) else {}),
    }


def is_of_present_files(report: Mapping[str, Any], check: OverlapCheck, data_dir: Path | None) -> bool:
    """Whether the report of a check is of the bytes that the user's files have now. UserError where one is missing."""
    files = report.get("benchmark_files", {})
    same = is_present(report["train_source"], check.train_set.source, data_dir)
    return same and bool(files == _benchmark_digests(check, data_dir))


def _benchmark_digests(check: OverlapCheck, data_dir: Path | None) -> dict[str, str]:
    """Benchmark -> SHA-256 of the user's file that its items are read from."""
    files = local_files(data_dir if check.source == "data-dir" else None, check.benchmarks, check.protocol)
    return {name: file_digest(file) for name, file in files.items()}


def _index_benchmarks(
    check: OverlapCheck, data_dir: Path | None, hub: Path | None
) -> tuple[Index, list[_Tally], Owners]:
    index, tallies, owners = Index(check.ngram), list[_Tally](), Owners()
    known: dict[tuple[int, str, str], int] = {}
    for place, name in enumerate(check.benchmarks):
        items = _items_of(check, name, data_dir, hub)
        tally = _Tally(name, hashlib.sha256(canonical_json(items).encode()).hexdigest())
        tallies.append(tally)
        for number, item in enumerate(items):
            tally.texts.append({})
            for part, key in BENCHMARKS[name].texts:
                text = words(item[key])
                identity = (place, part, " ".join(text))
                if identity not in known:
                    # only questions are looked for whole where they are short: a short answer stands anywhere
                    known[identity] = index.add(text, short=part == "question")
                tally.texts[-1][part] = known[identity]
                owners.setdefault(known[identity], []).append((place, number))
    return index, tallies, owners


def _items_of(check: OverlapCheck, name: str, data_dir: Path | None, hub: Path | None) -> list[dict[str, Any]]:
    folder = local_folder(check.source, data_dir)
    if check.source == "hub":
        keys = [key for _, key in BENCHMARKS[name].texts]
        return [{key: item[key] for key in keys} for item in asked_items(name, check.protocol, None, hub)]
    if folder is None:
        raise UserError("benchmarks from local files: no folder given; add --data-dir DIR")
    return asked_items(name, check.protocol, folder)


def _record(
    shared: dict[int, tuple[int, Gram]], tallies: Sequence[_Tally], owners: Owners, line: int, excerpt: str
) -> None:
    """Keep a training sample if it is among those that touch the most items, or the closest to one item so far."""
    touched: dict[int, set[int]] = {}
    for text, (count, gram) in sorted(shared.items()):
        for place, item in owners[text]:
            touched.setdefault(place, set()).add(item)
        place, item = owners[text][0]
        tally = tallies[place]
        if max(count, 1) > tally.closest:
            tally.closest = max(count, 1)
            tally.example = {
                "item": item,
                "part": next(part for part, number in tally.texts[item].items() if number == text),
                "line": line,
                "sample": excerpt,
                "shared": " ".join(gram),
                "ngrams_shared": count,
            }
    for place, items in touched.items():
        top = [*tallies[place].top, {"line": line, "items": len(items), "sample": excerpt}]
        # the sort is stable: at equal counts the earlier line stays
        tallies[place].top = sorted(top, key=lambda entry: -entry["items"])[:TOP_SOURCES]


def _result(tally: _Tally, index: Index, covered: Sequence[int]) -> dict[str, Any]:
    items = [texts.values() for texts in tally.texts]
    sizes = [sum(index.sizes[number] for number in numbers) for numbers in items]
    # of each item, the parts that stand in the train set
    hits = [
        [part for part, number in texts.items() if covered[number] or number in index.found] for texts in tally.texts
    ]
    # texts of which one sample has at least half
    half = {number for number, size in enumerate(index.sizes) if 0 < size <= 2 * index.single[number]} | index.found
    together = list(zip(items, sizes, hits, strict=True))
    coverage = [sum(covered[number] for number in numbers) / size for numbers, size, hit in together if hit and size]
    contaminated = sum(map(bool, hits))
    return {
        "items": len(items),
        "digest": tally.digest,
        "contaminated": contaminated,
        "copied": sum(not half.isdisjoint(numbers) for numbers in items),
        "short": sizes.count(0),
        "short_found": sum(bool(hit) and not size for _, size, hit in together),
        "share": round(contaminated / len(items), 6),
        "by_part": {part: sum(part in hit for hit in hits) for part, _ in BENCHMARKS[tally.name].texts},
        "coverage_of_contaminated": round(sum(coverage) / len(coverage), 4) if coverage else None,
        "example": tally.example,
        "top_sources": tally.top,
    }


def print_report(report: dict[str, Any], seconds: float, path: Path) -> None:
    """The counts of one train set, an example of each benchmark, and where the report is."""
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=160)
    title = f"{report['label']}: {report['read']:,} rows, {report['ngram']}-grams, {seconds:.1f} s"
    counts = ("Items", "Contaminated", "Share", "Half in one sample", "Coverage", "Short", "Short, found")
    columns: list[Column | str] = ["Benchmark", *(Column(header, justify="right") for header in counts), "Overlap in"]
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, result in report["benchmarks"].items():
        coverage = result["coverage_of_contaminated"]
        table.add_row(
            label_of(name),
            f"{result['items']:,}",
            f"{result['contaminated']:,}",
            f"{100 * result['share']:.2f}%",
            f"{result['copied']:,}",
            "" if coverage is None else f"{100 * coverage:.0f}%",
            f"{result['short']:,}",
            f"{result['short_found']:,}",
            ", ".join(f"{part} {count:,}" for part, count in result["by_part"].items() if count),
        )
    console.print(table)
    for name, result in report["benchmarks"].items():
        if (example := result["example"]) is not None:
            text = f"{label_of(name)} item {example['item']} ({example['part']}), line {example['line']}: "
            console.print(Text(text, style="bold").append(example["shared"], style="not bold"))
    console.print(f"{path}\n", markup=False, highlight=False, style="dim")


class _Overlap(BaseModel):
    items: Annotated[int, Field(gt=0)]
    contaminated: Annotated[int, Field(ge=0)]
    short: Annotated[int, Field(ge=0)]

    def __str__(self) -> str:
        """`12 of 791 (1.5%; 8 shorter, compared whole)`."""
        remarks = [f"{100 * self.contaminated / self.items:.1f}%"] if self.contaminated else []
        remarks += [f"{self.short:,} shorter, compared whole"] if self.short else []
        return f"{self.contaminated:,} of {self.items:,}" + (f" ({'; '.join(remarks)})" if remarks else "")


class _Report(BaseModel):
    """What a note needs of a report. It may come with a store from another machine, so it is read strictly."""

    train_set: str
    benchmark_source: str
    ngram: Annotated[int, Field(gt=0)]
    protocol: Protocol = "standard"
    benchmarks: dict[str, _Overlap]

    def overlaps(self, benchmarks: Sequence[str]) -> str:
        """`GSM8K 0 of 791, MATH not checked`."""
        return ", ".join(f"{label_of(name)} {self.benchmarks.get(name, 'not checked')}" for name in benchmarks)


def _read_report(path: Path) -> _Report:
    found = read_sealed(path, "delete it: the overlap is counted again")
    return validate(_Report, json.dumps(found).encode(), str(path))


def notes_of_checks(store: Path, checks: Iterable[OverlapCheck]) -> list[str]:
    """One line for each check that an experiment asks for (`checks_of`), of its own report.

    store: folder that has `contamination/`. `Contamination: items that share a 13-gram with MathInstruct: GSM8K 0 of
    791, MATH 50 of 5,000 (1.0%).`, or that it was not checked.
    """
    notes = []
    for check in checks:
        report = _read_report(check.path(store)) if check.path(store).is_file() else None
        notes.append(_note(report, check.train_set.name, check.train_set.label, check.benchmarks, check.protocol))
    return notes


def notes_from_store(store: Path, scores: "polars.DataFrame") -> list[str]:
    """One line for each train set of an experiment, where its configuration is not at hand. scores: its rows.

    The store does not say which check the experiment asks for: it is taken to be that of this train set with 13-grams
    which covers most of the experiment's benchmarks. Several such that differ (another copy of the data, another
    configuration of the train set) are named, not quoted.
    """
    config = json.loads(scores["evaluation_config"][0])
    asked, protocol = config["benchmarks"], config.get("protocol", "standard")
    wanted = (config["source"], NGRAM, protocol)
    known = {path.stem: _read_report(path) for path in sorted((Path(store) / "contamination").glob("*.json"))}
    notes = []
    for name, label in scores.select("train_set", "train_set_label").drop_nulls().unique(maintain_order=True).rows():
        covered = {
            stem: len(report.benchmarks.keys() & set(asked))
            for stem, report in known.items()
            if (report.train_set, report.benchmark_source, report.ngram, report.protocol) == (name, *wanted)
        }
        best = [stem for stem, count in covered.items() if count == max(covered.values())]
        if len({known[stem].overlaps(asked) for stem in best}) > 1:
            notes.append(
                f"Contamination: several reports on {label} that differ ({', '.join(best)}); `qtuning tables` knows "
                "which."
            )
        else:
            notes.append(_note(known[best[0]] if best else None, name, label, asked, protocol))
    return notes


def _note(report: _Report | None, train_set: str, label: str, benchmarks: Sequence[str], protocol: Protocol) -> str:
    if report is not None:
        counts = report.overlaps(benchmarks)
        return f"Contamination: items that share a {report.ngram}-gram with {label}: {counts}."
    names = ", ".join(map(label_of, benchmarks))
    option = "" if protocol == "standard" else f" --protocol {protocol}"
    return f"Contamination: not checked ({label} against {names}); run `qtuning contamination {train_set}{option}`."
