"""The items of a benchmark: from local files, checked one by one before a model is loaded, or from the hub.

Local files: FOLDER/BENCHMARK/{train,validation,test}.jsonl.gz, or any other kind of file that train sets are read from;
keys as on the hub.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from qtuning.data.containers import SUFFIXES, read_file
from qtuning.data.rows import Reason
from qtuning.errors import UserError
from qtuning.experiment.benchmarks import BENCHMARKS, Benchmark, Protocol, Split
from qtuning.files import canonical_json
from qtuning.hub.read import read_data_set
from qtuning.hub.repositories import repository_of_benchmark

if TYPE_CHECKING:
    from datasets import DatasetDict


def items_file(folder: Path, benchmark: str, split: Split | None = None) -> Path:
    """Where the items of a split lie below a folder of local files; default: the split that lm-eval asks.

    Where there is no file, the one that should be there.
    """
    name = split or BENCHMARKS[benchmark].split
    found = (path for suffix in SUFFIXES if (path := folder / benchmark / f"{name}{suffix}").is_file())
    return next(found, folder / benchmark / f"{name}.jsonl.gz")


def local_files(folder: Path | None, benchmarks: Iterable[str], protocol: Protocol) -> dict[str, Path]:
    """Benchmark -> the file of its asked split below a folder of local files; nothing without a folder."""
    if folder is None:
        return {}
    return {name: items_file(folder, name, BENCHMARKS[name].asked_split(protocol)) for name in benchmarks}


def read_items(
    folder: Path, benchmark: str, split: Split | None = None, more: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """All items of a split (default: that of lm-eval), reduced to the keys that are used, and to `more`.

    UserError names file and line of an unusable item.
    """
    path = items_file(Path(folder), benchmark, split)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, and {benchmark} needs it;"
            f" give a folder that has {benchmark}/{path.name} with --config data_dir=DIR"
        )
    schema = BENCHMARKS[benchmark].item
    items: list[dict[str, Any]] = []
    for row in read_file(path):
        try:
            if row.problem is not None or not isinstance(row.value, Mapping):
                what = " ".join(filter(None, [row.problem or Reason.NOT_AN_OBJECT, row.detail and f"({row.detail})"]))
                raise UserError(f"{path}: line {row.line}: {what}")
            if row.remarks:
                raise UserError(f"{path}: line {row.line}: {', '.join(row.remarks)}")
            # only what is asked for: all keys of an item are in its hash
            item = schema.model_validate(row.value).model_dump() | {key: row.value.get(key) for key in more}
            canonical_json(item).encode()
            items.append(item)
        except ValidationError as error:
            raise UserError(f"{path}: line {row.line}: {_first_problem(error)}") from None
        except UnicodeEncodeError:
            raise UserError(f"{path}: line {row.line}: holds half a surrogate pair, which is no text") from None
    if not items:
        raise UserError(f"{path}: holds no records; get the file anew")
    return items


def cluster_of(benchmark: str, item: Mapping[str, Any], item_hash: str, key: str | None = None) -> str:
    """What names the cluster of an item: items of one cluster are not independent (docs/results.md).

    A digest of the record's own key `cluster`, for SQuAD of the passage (or of what `key` names, for drawn items: the
    article); else the item alone, by its hash.
    """
    value = item.get(key or BENCHMARKS[benchmark].cluster)
    return item_hash if value is None else hashlib.sha256(str(value).encode()).hexdigest()


def asked_items(
    benchmark: str, protocol: Protocol, folder: Path | None, hub: Path | None = None, more: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The items that are asked under a protocol, in the order of their source. folder, hub, more: see `split_items`."""
    record = BENCHMARKS[benchmark]
    items = split_items(benchmark, record.asked_split(protocol), folder, hub, more)
    return [item for item in items if record.is_asked(item, protocol)]


def split_items(
    benchmark: str, split: Split, folder: Path | None, hub: Path | None = None, more: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """All items of a split: of the file below `folder`, checked, or of the hub (None).

    hub: where it says what was fetched from the hub (ResultPaths.hub). more: keys that an item of a file keeps beside
    those that are used; items of the hub have all that they came with.
    """
    if folder is not None:
        return read_items(folder, benchmark, split, more)
    return list(hub_items(BENCHMARKS[benchmark], hub)[split].to_list())


def hub_items(benchmark: Benchmark, hub: Path | None) -> "DatasetDict":
    """All splits of a benchmark as the hub has them: its subsets, if it has several, one after the other.

    UserError where it is not on the hub, or was not fetched.
    """
    give = f"give a folder that has {benchmark.name}/{benchmark.split}.jsonl.gz with --config data_dir=DIR"
    repository = repository_of_benchmark(benchmark.name)
    if repository is None:
        raise UserError(f"{benchmark.name}: is not on the Hugging Face hub; {give}, or write source: mini-world")
    from datasets import DatasetDict, concatenate_datasets

    try:
        subsets = [read_data_set(repository, hub, subset) for subset in benchmark.subsets or (None,)]
    except UserError as error:
        raise UserError(f"{benchmark.name}: {error}; or {give}") from None
    return DatasetDict({split: concatenate_datasets([subset[split] for subset in subsets]) for split in subsets[0]})


def _first_problem(error: ValidationError) -> str:
    """`answers.text: field required`."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_pattern_mismatch":
        message = "must end in '#### NUMBER'"
    return f"{key}: {message[0].lower()}{message[1:]}" if key else message
