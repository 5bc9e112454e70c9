"""Prepares a train set for one model: reads, checks, renders, tokenises and cuts its rows, and stores the samples.

Writes `samples.parquet` (a row for each sample) and, last, `report.json` (docs/data.md). The rows pass through batch by
batch, so that a train set may be larger than memory (docs/scale.md).
"""

import random
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table
from tqdm import tqdm

from qtuning.data.bad_rows import BadRow, BadRows
from qtuning.data.chat import TODAY, TemplateRefusal, writes_date
from qtuning.data.limits import Wanted, check_ids, check_limits
from qtuning.data.parse import parse_row
from qtuning.data.planted import plant
from qtuning.data.present import is_of_present_data
from qtuning.data.ratings import Ratings, describe_ratings, open_ratings
from qtuning.data.remedies import count_remarks, most_frequent
from qtuning.data.rows import Example, Reason, Refusal, Row
from qtuning.data.samples import REPORT, SAMPLES, TOKENS, read_report, write_tokens
from qtuning.data.sources import describe_source, read_rows
from qtuning.data.templates import render, turn_of
from qtuning.data.tokenise import Tokenised, load_tokenizer, tokenise, tokenizer_fingerprint
from qtuning.data.write_samples import Candidate, SampleWriter, Usable
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Template, TrainSet
from qtuning.manifest import FILES, digests_of, write_sealed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1000  # rows that are read, and texts that the tokenizer gets, at once
LIMIT_SEED = 0


def prepare(
    cell: Cell, model_folder: Path, out: Path, *, data_dir: Path | None = None, hub: Path | None = None
) -> dict[str, Any]:
    """Prepare the train set of `cell` for the base model whose tokenizer lies in `model_folder`; write it to `out`.

    Only what `names.pair_id` covers is read from the cell. hub: see `read_rows`. Returns the report. UserError if the
    model has no room for the samples (limits.py), if the source cannot be read, if more of its rows are unusable than
    `train_set.bad_rows` allows, or if no row is usable.
    """
    assert cell.train_set is not None and cell.training is not None, "a zero-shot cell has no train set"
    train_set, template, limit = cell.train_set, cell.model.template, cell.limit_train
    out.mkdir(parents=True, exist_ok=True)
    if not ((out / REPORT).is_file() and _is_present(out, cell, data_dir)):
        for name in (REPORT, TOKENS):
            (out / name).unlink(missing_ok=True)
    check_limits(model_folder, Wanted(cutoff=cell.training.cutoff, templates=[template]))
    tokenizer = load_tokenizer(model_folder)
    fingerprint = tokenizer_fingerprint(tokenizer)  # before use, which leaves settings behind in the tokenizer
    source = Source(
        train_set,
        partial(read_rows, train_set, data_dir=data_dir, hub=hub),
        partial(tokenise_rows, tokenizer=tokenizer, template=template, cutoff=cell.training.cutoff),
    )
    read = source.count()  # refuses bad rows before the slow part
    ratings, bad = open_ratings(train_set, read, data_dir), BadRows(read)
    batches, numbers = source.usable(bad), array("q")
    if limit is not None or train_set.planted is not None:
        # which rows are usable must be known before some are drawn or spoilt, so those are tokenised once more
        for batch in batches:
            _rate(batch, ratings)
            numbers.extend(candidate.sample for candidate, _ in batch)
        batches = source.again(frozenset(draw_subset(numbers, limit)), bad)
    errors = "errors" in train_set.columns or train_set.planted is not None
    with SampleWriter.open(out / SAMPLES, errors) as writer:
        for batch in batches:
            writer.add(batch, _rate(batch, ratings))
        check_ids(model_folder, [writer.highest_id])
        statistics = writer.statistics()
    report = {
        "train_set": train_set.name,
        "model": cell.model.name,
        "template": template,
        "turn_end": turn_of(tokenizer, template).token,
        "date": TODAY.isoformat() if template == "chat" and writes_date(tokenizer) else None,
        "cutoff": cell.training.cutoff,
        "source": describe_source(train_set, data_dir, hub),
        "ratings": describe_ratings(train_set, data_dir),
        "read": read,
        "bad": bad.counts.total(),
        "bad_by_reason": {str(reason): count for reason, count in bad.counts.most_common()},
        "bad_rows": [asdict(row) for row in bad.listed],
        "remarks": most_frequent(source.remarks),
        "usable": len(numbers) or statistics["used"],
        "limit": limit,
        "planted": None if train_set.planted is None else writer.planted(),
        **statistics,
        "tokenizer_fingerprint": fingerprint,
    }
    write_tokens(out)
    write_sealed(out / REPORT, report | {FILES: digests_of(out, [out / SAMPLES, out / TOKENS])})
    return report


def _is_present(out: Path, cell: Cell, data_dir: Path | None) -> bool:
    """`is_of_present_data` of what was prepared; False where its report is damaged."""
    try:
        return is_of_present_data(read_report(out), cell, data_dir)
    except UserError as error:
        print(f"{error}; preparing now", file=sys.stderr)
        return False


@dataclass(frozen=True)
class Source:
    """A train set that is read as often as needed, in batches.

    rows: reads it. to_samples: makes samples of candidates, and says which are none. remarks: on the usable rows.
    """

    train_set: TrainSet
    rows: Callable[[], Iterator[Row]]
    to_samples: Callable[[Sequence[Candidate]], tuple[list[Usable], list[BadRow]]]
    remarks: Counter[str] = field(default_factory=Counter)

    def count(self) -> int:
        """How many rows there are. UserError if already too many of them are no examples."""
        found = BadRows(0)
        for candidates, bad in parse_batches(self.rows(), self.train_set):
            found.read += len(candidates) + len(bad)
            found.add(bad)
        found.check(self.train_set)
        return found.read

    def usable(self, bad: BadRows) -> Iterator[list[Usable]]:
        """All samples. The other rows go to `bad`; UserError at the end if they are too many."""
        with tqdm(total=bad.read, desc="tokenising", leave=False, disable=None) as progress:
            for candidates, unusable in parse_batches(self.rows(), self.train_set):
                usable, refused = self.to_samples(candidates)
                bad.add(sorted(unusable + refused, key=lambda row: row.sample))
                self.remarks.update(count_remarks(candidate.example for candidate, _ in usable))
                progress.update(len(candidates) + len(unusable))
                yield usable
        bad.check(self.train_set)

    def again(self, drawn: Collection[int], bad: BadRows) -> Iterator[list[Usable]]:
        """The samples of these numbers, with the flaws that `planted` of the train set asks for.

        bad: the unusable rows, which those come on top of that a flaw makes unusable.
        """
        candidates = read_candidates(self.rows(), self.train_set, drawn)
        if self.train_set.planted is not None:  # flaws are made of other samples, so all are in memory
            candidates = iter(plant_candidates(list(candidates), self.train_set))
        together = deepcopy(bad)
        while batch := list(islice(candidates, BATCH)):
            usable, refused = self.to_samples(batch)
            together.add(refused)
            yield usable
        together.check(self.train_set)


def _rate(batch: Sequence[Usable], ratings: Ratings) -> Any:
    return ratings.of({candidate.sample: candidate.row for candidate, _ in batch})


def parse_batches(rows: Iterator[Row], train_set: TrainSet) -> Iterator[tuple[list[Candidate], list[BadRow]]]:
    """Batch by batch, the rows of a train set that are examples, and those that are not."""
    numbered = enumerate(rows)
    while batch := list(islice(numbered, BATCH)):
        yield parse_rows(batch, train_set)


def read_candidates(rows: Iterator[Row], train_set: TrainSet, numbers: Collection[int]) -> Iterator[Candidate]:
    """The rows of these numbers, those that are examples."""
    return (each for batch, _ in parse_batches(rows, train_set) for each in batch if each.sample in numbers)


def parse_rows(rows: Iterable[tuple[int, Row]], train_set: TrainSet) -> tuple[list[Candidate], list[BadRow]]:
    """The rows that are examples, and those that are not. rows: with their numbers in the source."""
    candidates, bad = [], []
    for sample, row in rows:
        result = parse_row(row, train_set)
        if isinstance(result, Example):
            candidates.append(Candidate(sample, row, result))
        else:
            bad.append(_bad(sample, row, result))
    return candidates, bad


def _bad(sample: int, row: Row, refusal: Refusal) -> BadRow:
    return BadRow(sample, row.file, row.line, refusal.reason, refusal.detail)


def tokenise_rows(
    candidates: Sequence[Candidate], tokenizer: "PreTrainedTokenizerBase", template: Template, cutoff: int
) -> tuple[list[Usable], list[BadRow]]:
    """Render and tokenise the candidates. Those that the template refuses, or left without a response, are bad."""
    usable, bad, rendered, texts, spans = [], [], [], [], []
    for candidate in candidates:
        try:
            texts.append(render(candidate.example, template, tokenizer))
            rendered.append(candidate)
            spans.append(_error_spans(candidate.example, texts[-1][1]))
        except TemplateRefusal as refusal:
            bad.append(_bad(candidate.sample, candidate.row, Refusal(Reason.REFUSED_BY_TEMPLATE, str(refusal))))
    for candidate, result in zip(rendered, tokenise(texts, tokenizer, template, cutoff, spans), strict=True):
        if isinstance(result, Tokenised):
            usable.append((candidate, result))
        else:
            bad.append(_bad(candidate.sample, candidate.row, result))
    return usable, bad


def plant_candidates(candidates: Sequence[Candidate], train_set: TrainSet) -> list[Candidate]:
    """The rows that are used, with the flaws that `planted` of the train set asks for."""
    if train_set.planted is None:
        return list(candidates)
    examples = plant([candidate.example for candidate in candidates], train_set.planted)
    return [replace(candidate, example=example) for candidate, example in zip(candidates, examples, strict=True)]


def _error_spans(example: Example, response: str) -> list[tuple[int, int]]:
    """The known errors, in characters of the rendered response."""
    if not example.errors:
        return []
    start = response.find(example.response)
    if start < 0:  # the chat template has stripped white space at either end
        stripped = example.response.lstrip()
        start = response.index(stripped.rstrip()) - (len(example.response) - len(stripped))
    return [(start + first, start + stop) for first, stop in example.errors]


def draw_subset(usable: Sequence[int], size: int | None) -> Sequence[int]:
    """A random subset of `size` samples in the order of the source; all if there are fewer. usable: their numbers.

    A smaller subset lies within a larger one. The draw ignores the seeds of the cell: all cells get the same samples.
    """
    if size is None or size >= len(usable):
        return usable
    order = list(range(len(usable)))
    random.Random(LIMIT_SEED).shuffle(order)
    return [usable[index] for index in sorted(order[:size])]


def print_summary(report: dict[str, Any], console: Console) -> None:
    """The report on one screen."""
    title = f"{report['train_set']} for {report['model']} ({report['template']} template)"
    table = Table("", Column(justify="right"), title=title, show_header=False)
    table.add_row("rows read", f"{report['read']:,}")
    for reason, count in report["bad_by_reason"].items():
        table.add_row(f"  unusable: {reason}", f"{count:,}")
    for remark, count in report["remarks"].items():
        table.add_row(f"  remark: {remark}", f"{count:,}")
    table.add_row("samples used", f"{report['used']:,}")
    table.add_row("  of them exact duplicates", f"{report['exact_duplicates']:,}")
    table.add_row(f"  of them cut at {report['cutoff']:,} tokens", f"{report['truncated_responses']:,}")
    for part in ("prompt", "response"):
        numbers = report[f"{part}_tokens"]
        spread = " / ".join(f"{numbers[key]:,.0f}" for key in ("min", "median", "p95", "max"))
        table.add_row(f"{part} tokens (min / median / p95 / max)", spread)
        table.add_row(f"{part} tokens in all", f"{numbers['total']:,}")
    console.print(table)
