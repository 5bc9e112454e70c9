"""Prepares a train set for one model: reads, checks, renders, tokenises and cuts its rows, and stores the samples.

Writes `samples.parquet` (a row for each sample) and, last, `report.json` (docs/data.md).
"""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from tqdm import tqdm

from qtuning.data.chat import TODAY, TemplateRefusal, writes_date
from qtuning.data.limits import Wanted, check_ids, check_limits
from qtuning.data.parse import parse_row
from qtuning.data.planted import plant
from qtuning.data.ratings import describe_ratings, read_ratings
from qtuning.data.remedies import count_remarks, remedy_of
from qtuning.data.rows import Example, Reason, Refusal, Row
from qtuning.data.samples import REPORT, SAMPLES
from qtuning.data.sources import describe_source, read_rows
from qtuning.data.templates import render, turn_of
from qtuning.data.tokenise import Tokenised, load_tokenizer, tokenise, tokenizer_fingerprint
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, RatingColumn, Template, TrainSet
from qtuning.files import atomic_path, canonical_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1000  # texts that the tokenizer gets at once
LISTED = 1000  # bad rows that the report lists
LIMIT_SEED = 0


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why. sample: number of the row in the source, from 0."""

    sample: int
    file: str
    line: int
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Candidate:
    """A row that is an example. sample: its number in the source, from 0, bad rows counted."""

    sample: int
    row: Row
    example: Example

    def bad(self, refusal: Refusal) -> BadRow:
        """The same row, if template or cutoff leave no sample of it."""
        return BadRow(self.sample, self.row.file, self.row.line, refusal.reason, refusal.detail)


Usable = tuple[Candidate, Tokenised]
Ratings = dict[RatingColumn, dict[int, float]]


def prepare(
    cell: Cell, model_folder: Path, out: Path, *, data_dir: Path | None = None, hub: Path | None = None
) -> dict[str, Any]:
    """Prepare the train set of `cell` for the base model whose tokenizer lies in `model_folder`; write it to `out`.

    Only what `names.pair_id` covers is read from the cell. hub: see `read_rows`. Returns the report. UserError if the
    model has no room for the samples (limits.py), if the source cannot be read, if more of its rows are unusable than
    `train_set.bad_rows` allows, or if no row is usable.
    """
    assert cell.train_set is not None and cell.training is not None, "a zero-shot cell has no train set"
    train_set, template = cell.train_set, cell.model.template
    out.mkdir(parents=True, exist_ok=True)
    (out / REPORT).unlink(missing_ok=True)
    check_limits(model_folder, Wanted(cutoff=cell.training.cutoff, templates=[template]))
    tokenizer = load_tokenizer(model_folder)
    fingerprint = tokenizer_fingerprint(tokenizer)  # before use, which leaves settings behind in the tokenizer
    candidates, bad = parse_rows(read_rows(train_set, data_dir=data_dir, hub=hub), train_set)
    read = len(candidates) + len(bad)
    check_bad_rows(train_set, read, bad)  # before the slow part
    usable, unusable = tokenise_rows(candidates, tokenizer, template, cell.training.cutoff)
    bad = sorted(bad + unusable, key=lambda row: row.sample)
    check_bad_rows(train_set, read, bad)
    remarks = count_remarks(candidate.example for candidate, _ in usable)
    rows = {candidate.sample: candidate.row for candidate, _ in usable}
    ratings = read_ratings(train_set, rows, read, data_dir)
    used = draw_subset(usable, cell.limit_train)
    if train_set.planted is not None:  # in the same rows that the set has without flaws
        flawed = plant_candidates([candidate for candidate, _ in used], train_set)
        used, refused = tokenise_rows(flawed, tokenizer, template, cell.training.cutoff)
        check_bad_rows(train_set, read, [*bad, *refused])
    check_ids(model_folder, (max(sample.tokens) for _, sample in used))
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
        "bad": len(bad),
        "bad_by_reason": dict(Counter(str(row.reason) for row in bad).most_common()),
        "bad_rows": [asdict(row) for row in bad[:LISTED]],
        "remarks": remarks,
        "usable": len(usable),
        "limit": cell.limit_train,
        "planted": None if train_set.planted is None else _planted(used),
        **_statistics(used, ratings),
        "tokenizer_fingerprint": fingerprint,
    }
    write_samples(out / SAMPLES, used, ratings)
    write_json(out / REPORT, report)
    return report


def parse_rows(rows: Iterable[Row], train_set: TrainSet) -> tuple[list[Candidate], list[BadRow]]:
    """The rows that are examples, and those that are not."""
    candidates, bad = [], []
    for sample, row in enumerate(rows):
        result = parse_row(row, train_set)
        if isinstance(result, Example):
            candidates.append(Candidate(sample, row, result))
        else:
            bad.append(BadRow(sample, row.file, row.line, result.reason, result.detail))
    return candidates, bad


def tokenise_rows(
    candidates: Sequence[Candidate], tokenizer: "PreTrainedTokenizerBase", template: Template, cutoff: int
) -> tuple[list[Usable], list[BadRow]]:
    """Render and tokenise the candidates. Those that the template refuses, or left without a response, are bad."""
    usable, bad = [], []
    with tqdm(total=len(candidates), desc="tokenising", leave=False, disable=None) as progress:
        for start in range(0, len(candidates), BATCH):
            rendered, texts, spans = [], [], []
            for candidate in candidates[start : start + BATCH]:
                try:
                    texts.append(render(candidate.example, template, tokenizer))
                    rendered.append(candidate)
                    spans.append(_error_spans(candidate.example, texts[-1][1]))
                except TemplateRefusal as refusal:
                    bad.append(candidate.bad(Refusal(Reason.REFUSED_BY_TEMPLATE, str(refusal))))
            for candidate, result in zip(rendered, tokenise(texts, tokenizer, template, cutoff, spans), strict=True):
                if isinstance(result, Tokenised):
                    usable.append((candidate, result))
                else:
                    bad.append(candidate.bad(result))
            progress.update(len(candidates[start : start + BATCH]))
    return usable, bad


def plant_candidates(candidates: Sequence[Candidate], train_set: TrainSet) -> list[Candidate]:
    """The rows that are used, with the flaws that `planted` of the train set asks for."""
    if train_set.planted is None:
        return list(candidates)
    examples = plant([candidate.example for candidate in candidates], train_set.planted)
    return [replace(candidate, example=example) for candidate, example in zip(candidates, examples, strict=True)]


def _planted(used: Sequence[Usable]) -> dict[str, int]:
    """How many samples there are of each kind, and how many of the clean ones have a slip."""
    examples = [candidate.example for candidate, _ in used]
    slips = sum(example.kind == "clean" and bool(example.errors) for example in examples)
    return dict(Counter(str(example.kind) for example in examples)) | {"slips": slips}


def _error_spans(example: Example, response: str) -> list[tuple[int, int]]:
    """The known errors, in characters of the rendered response."""
    if not example.errors:
        return []
    start = response.find(example.response)
    if start < 0:  # the chat template has stripped white space at either end
        stripped = example.response.lstrip()
        start = response.index(stripped.rstrip()) - (len(example.response) - len(stripped))
    return [(start + first, start + stop) for first, stop in example.errors]


def check_bad_rows(train_set: TrainSet, read: int, bad: Sequence[BadRow]) -> None:
    """UserError if there are no rows, if none is usable, or if too large a share is not."""
    if read == 0:
        raise UserError(f"train set {train_set.name}: its source has no rows")
    share = len(bad) / read
    if len(bad) < read and share <= train_set.bad_rows:
        return
    reasons = Counter(row.reason for row in bad)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    first = "; ".join(
        f"{row.file}:{row.line} {row.reason}" + (f" ({row.detail})" if row.detail else "") for row in bad[:3]
    )
    remedy = remedy_of(reasons.most_common(1)[0][0])
    if len(bad) < read:
        allowed = f"{100 * train_set.bad_rows:.3g} % are allowed"
        what = f"{len(bad)} of {read} rows ({100 * share:.3g} %) are unusable, {allowed}"
        remedy += ", or raise bad_rows"
    else:
        what = f"none of its {read} rows is usable"
    raise UserError(f"train set {train_set.name}: {what}: {counts}; first: {first}; {remedy}")


def draw_subset(usable: list[Usable], size: int | None) -> list[Usable]:
    """A random subset of `size` samples in the order of the source; all if there are fewer.

    A smaller subset lies within a larger one. The draw ignores the seeds of the cell: all cells get the same samples.
    """
    if size is None or size >= len(usable):
        return usable
    order = list(range(len(usable)))
    random.Random(LIMIT_SEED).shuffle(order)
    return [usable[index] for index in sorted(order[:size])]


def instruction(example: Example) -> str:
    """The text that the `-history` baselines look at: the last user turn, as the row has it.

    For alpaca rows that is the instruction column alone, without `input`.
    """
    return example.prompt[-1].content


def character_entropy(text: str) -> float:
    """Shannon entropy of the characters (code points) in nats: -sum_c f_c log f_c, with frequencies f_c."""
    # fsum is exact, so the order of the characters does not matter, and equal frequencies have equal entropies
    shares = [count / len(text) for count in Counter(text).values()]
    return math.fsum(share * math.log(1 / share) for share in shares)


def write_samples(path: Path, used: Sequence[Usable], ratings: Ratings) -> None:
    """Store a row for each sample.

    instruction_characters, instruction_entropy: length and character entropy of its `instruction`. errors: only if the
    train set states errors, the places in input_ids of the tokens that are wrong. ratings: columns that it gives.
    """
    import polars

    candidates, tokenised = [candidate for candidate, _ in used], [tokens for _, tokens in used]
    instructions = [instruction(candidate.example) for candidate in candidates]
    tokens_type = polars.List(polars.Int32)
    columns = [
        polars.Series("sample", [candidate.sample for candidate in candidates], polars.Int64),
        polars.Series("line", [candidate.row.line for candidate in candidates], polars.Int64),
        polars.Series("id", [candidate.example.id for candidate in candidates], polars.String),
        polars.Series("kind", [candidate.example.kind for candidate in candidates], polars.String),
        polars.Series("input_ids", [sample.tokens for sample in tokenised], tokens_type),
        polars.Series("prompt_length", [sample.prompt for sample in tokenised], polars.Int32),
        polars.Series("instruction_characters", [len(text) for text in instructions], polars.Int64),
        polars.Series("instruction_entropy", [character_entropy(text) for text in instructions], polars.Float64),
    ]
    if any(candidate.example.errors is not None for candidate in candidates):
        columns.append(polars.Series("errors", [list(sample.marked) for sample in tokenised], tokens_type))
    for name, values in ratings.items():
        columns.append(polars.Series(name, [values[candidate.sample] for candidate in candidates], polars.Float64))
    with atomic_path(path) as temporary:
        polars.DataFrame(columns).write_parquet(temporary)


def _statistics(used: Sequence[Usable], ratings: Ratings) -> dict[str, Any]:
    contents = [_content(candidate.example) for candidate, _ in used]
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content.encode() + b"\n")
    for name, values in ratings.items():
        digest.update(canonical_json([name, [values[candidate.sample] for candidate, _ in used]]).encode() + b"\n")
    prompts = [tokenised.prompt for _, tokenised in used]
    return {
        "used": len(used),
        "prompt_tokens": _distribution(prompts),
        "response_tokens": _distribution([len(tokenised.tokens) - tokenised.prompt for _, tokenised in used]),
        "truncated_responses": sum(tokenised.truncated for _, tokenised in used),
        "exact_duplicates": len(contents) - len(set(contents)),
        "data_fingerprint": digest.hexdigest(),
    }


def _content(example: Example) -> str:
    """The texts of an example: not its id or kind, and not how the file spelled it."""
    turns = [[message.role, message.content] for message in example.prompt]
    return canonical_json({"prompt": turns, "input": example.input, "response": example.response})


def _distribution(values: Sequence[int]) -> dict[str, float]:
    """min, median and 95th percentile (both interpolated), max, total."""
    array = np.asarray(values, dtype=np.int64)
    return {
        "min": int(array.min()),
        "median": float(np.median(array)),
        "p95": float(np.percentile(array, 95)),
        "max": int(array.max()),
        "total": int(array.sum()),
    }


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
