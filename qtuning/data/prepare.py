"""A train set made ready for one model: read, validated, rendered, tokenised, cut, counted, stored.

Writes `samples.parquet` (one row a sample) and, last, `report.json`.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtuning.data.report import describe_source, statistics, summarise, tokenizer_fingerprint
from qtuning.data.rows import Example, Reason, Refusal, parse
from qtuning.data.samples import REPORT, SAMPLES
from qtuning.data.sources import Row, read_rows
from qtuning.data.templates import TemplateRefusal, render
from qtuning.data.tokenise import Tokenised, load_tokenizer, tokenise
from qtuning.errors import UserError
from qtuning.experiment.schema import Cell, Template, TrainSet
from qtuning.files import atomic_path, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from transformers import PreTrainedTokenizerBase

BATCH = 1000  # texts handed to the tokenizer at once
LISTED = 1000  # bad rows that the report lists one by one
LIMIT_SEED = 0


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: where it is, and why. sample: 0-based row number in the source."""

    sample: int
    file: str
    line: int
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Candidate:
    """A valid row, and its place in the source."""

    sample: int
    file: str
    line: int
    example: Example


@dataclass(frozen=True)
class Usable:
    """A candidate with its tokens."""

    candidate: Candidate
    tokenised: Tokenised


def prepare(
    cell: Cell,
    model_folder: Path,
    out: Path,
    *,
    data_dir: Path | None = None,
    console: "Console | None" = None,
) -> None:
    """Prepare the train set of `cell` for the base model whose tokenizer lies in `model_folder`; write it to `out`.

    Only what `names.pair_id` covers is read from the cell. UserError if the source cannot be read, if more of its
    rows are unusable than `train_set.bad_rows` allows, or if no row is usable.
    """
    from rich.console import Console

    if cell.train_set is None or cell.training is None:
        raise ValueError("a zero-shot cell has no train set")
    train_set, template = cell.train_set, cell.model.template
    console = console or Console()
    out.mkdir(parents=True, exist_ok=True)
    (out / REPORT).unlink(missing_ok=True)
    tokenizer = load_tokenizer(model_folder)
    fingerprint = tokenizer_fingerprint(tokenizer)
    candidates, bad = validate(read_rows(train_set, data_dir=data_dir), train_set)
    read = len(candidates) + len(bad)
    refuse(train_set, read, bad)
    with _progress(console) as progress:
        usable, unusable = encode(candidates, tokenizer, template, cell.training.cutoff, progress)
    bad = sorted(bad + unusable, key=lambda row: row.sample)
    refuse(train_set, read, bad)
    used = limit(usable, cell.limit_train)
    report = {
        "train_set": train_set.name,
        "model": cell.model.name,
        "template": template,
        "cutoff": cell.training.cutoff,
        "source": describe_source(train_set, data_dir),
        "read": read,
        "bad": len(bad),
        "bad_by_reason": dict(Counter(str(row.reason) for row in bad).most_common()),
        "bad_rows": [asdict(row) for row in bad[:LISTED]],
        "usable": len(usable),
        "limit": cell.limit_train,
        **statistics([(row.candidate.example, row.tokenised) for row in used]),
        "tokenizer_fingerprint": fingerprint,
    }
    write_samples(out / SAMPLES, used)
    write_json(out / REPORT, report)
    summarise(report, console)


def validate(rows: Iterable[Row], train_set: TrainSet) -> tuple[list[Candidate], list[BadRow]]:
    """Sort rows into valid and bad ones. `sample` counts every row of the source, bad ones too."""
    candidates, bad = [], []
    for sample, row in enumerate(rows):
        result = Refusal(Reason(row.problem)) if row.problem is not None else parse(row.value, train_set)
        if isinstance(result, Example):
            candidates.append(Candidate(sample, row.file, row.line, result))
        else:
            bad.append(BadRow(sample, row.file, row.line, result.reason, result.detail))
    return candidates, bad


def encode(
    candidates: Sequence[Candidate],
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    cutoff: int,
    progress: "Progress | None" = None,
) -> tuple[list[Usable], list[BadRow]]:
    """Render and tokenise all candidates; those that the template or the cutoff leave no response are bad."""
    usable, bad = [], []
    task = None if progress is None else progress.add_task("tokenising", total=len(candidates))
    for start in range(0, len(candidates), BATCH):
        batch = candidates[start : start + BATCH]
        rendered, texts, marks = [], [], []
        for candidate in batch:
            try:
                texts.append(render(candidate.example, template, tokenizer))
                rendered.append(candidate)
                marks.append(_marks(candidate.example, texts[-1][1]))
            except TemplateRefusal as refusal:
                bad.append(_bad(candidate, Refusal(Reason.REFUSED_BY_TEMPLATE, str(refusal))))
        for candidate, result in zip(rendered, tokenise(texts, tokenizer, template, cutoff, marks), strict=True):
            if isinstance(result, Tokenised):
                usable.append(Usable(candidate, result))
            else:
                bad.append(_bad(candidate, result))
        if progress is not None and task is not None:
            progress.advance(task, len(batch))
    return usable, bad


def _marks(example: Example, response: str) -> list[tuple[int, int]]:
    """The known errors in characters of the response as rendered; a chat template may have stripped it."""
    if not example.errors:
        return []
    start = response.find(example.response)
    if start < 0:
        stripped = example.response.lstrip()
        start = response.index(stripped.rstrip()) - (len(example.response) - len(stripped))
    return [(start + first, start + stop) for first, stop in example.errors]


def _bad(candidate: Candidate, refusal: Refusal) -> BadRow:
    return BadRow(candidate.sample, candidate.file, candidate.line, refusal.reason, refusal.detail)


def refuse(train_set: TrainSet, read: int, bad: Sequence[BadRow]) -> None:
    """UserError if there are no rows, none that is usable, or too large a share that is not."""
    if read == 0:
        raise UserError(f"train set {train_set.name}: its source has no rows")
    share = len(bad) / read
    if len(bad) < read and share <= train_set.bad_rows:
        return
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(row.reason for row in bad).most_common())
    first = "; ".join(
        f"{row.file}:{row.line} {row.reason}" + (f" ({row.detail})" if row.detail else "") for row in bad[:3]
    )
    if len(bad) == read:
        what = f"none of its {read} rows is usable"
        remedy = "compare `format` and `columns` of its YAML with the file"
        if all(row.reason == Reason.RESPONSE_CUT_AWAY for row in bad):
            remedy = "raise training.cutoff"
    else:
        allowed = f"{100 * train_set.bad_rows:.3g} % are allowed"
        what = f"{len(bad)} of {read} rows ({100 * share:.3g} %) are unusable, {allowed}"
        remedy = "mend the rows, or raise bad_rows in its YAML"
    raise UserError(f"train set {train_set.name}: {what}: {counts}; first: {first}; {remedy}")


def limit(usable: list[Usable], size: int | None) -> list[Usable]:
    """A random subset of `size` in the order of the source; all if there are fewer.

    Smaller subsets lie within larger ones. The draw does not depend on the cell's seeds: all train on the same samples.
    """
    if size is None or size >= len(usable):
        return usable
    order = list(range(len(usable)))
    random.Random(LIMIT_SEED).shuffle(order)
    return [usable[index] for index in sorted(order[:size])]


def instruction(example: Example) -> str:
    """The text that the -history baselines look at: the last user turn, as the row has it, without template.

    Of alpaca rows the instruction column alone, without `input`.
    """
    return example.prompt[-1].content


def character_entropy(text: str) -> float:
    """Shannon entropy of the frequencies of the characters (code points), in nats: -sum_c f_c log f_c."""
    shares = [count / len(text) for count in Counter(text).values()]
    return math.fsum(share * math.log(1 / share) for share in shares)


def write_samples(path: Path, used: Sequence[Usable]) -> None:
    """One row a sample: sample, line, id, kind, input_ids, prompt_length, instruction_characters, instruction_entropy.

    The last two are the number of characters of its `instruction` and their entropy. Where rows state `errors`, a last
    column of that name holds the places in input_ids of the tokens that are wrong.
    """
    import polars

    instructions = [instruction(row.candidate.example) for row in used]
    table = polars.DataFrame(
        {
            "sample": [row.candidate.sample for row in used],
            "line": [row.candidate.line for row in used],
            "id": [row.candidate.example.id for row in used],
            "kind": [row.candidate.example.kind for row in used],
            "input_ids": [row.tokenised.tokens for row in used],
            "prompt_length": [row.tokenised.prompt for row in used],
            "instruction_characters": [len(text) for text in instructions],
            "instruction_entropy": [character_entropy(text) for text in instructions],
        },
        schema={
            "sample": polars.Int64,
            "line": polars.Int64,
            "id": polars.String,
            "kind": polars.String,
            "input_ids": polars.List(polars.Int32),
            "prompt_length": polars.Int32,
            "instruction_characters": polars.Int64,
            "instruction_entropy": polars.Float64,
        },
    )
    if any(row.candidate.example.errors is not None for row in used):
        marked = polars.Series("errors", [list(row.tokenised.marked) for row in used], polars.List(polars.Int32))
        table = table.with_columns(marked)
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)


@contextmanager
def _progress(console: "Console") -> Iterator["Progress | None"]:
    """A progress bar on a terminal, nothing elsewhere."""
    from rich.progress import Progress

    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as progress:
        yield progress
