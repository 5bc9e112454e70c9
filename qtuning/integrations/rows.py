"""The numbers of samples, carried from the user's data set through all that a trainer does to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from numbers import Integral
from typing import Any

import numpy as np
import torch

from qtuning.integrations.padded import IGNORED
from qtuning.train.token_scores import EACH, LEAST, order_to_show

ROW = "qtuning_row"
NUMBERS = (ROW, "index", "idx")
"""Columns that may hold the number of a sample, the first that is there."""


def column_of(dataset: Any) -> str | None:
    """The column that numbers the samples, if there is one that holds integers; None of a stream."""
    features = (getattr(dataset, "features", None) or {}) if hasattr(dataset, "__len__") else {}
    return next((name for name in NUMBERS if "int" in str(getattr(features.get(name), "dtype", ""))), None)


def with_numbers(dataset: Any) -> Any:
    """A `datasets.Dataset` with a column of its row numbers, unless it has one. Anything else stays as it is.

    So does a data set with a format or a transform, which would not show the column.
    """
    plain = hasattr(dataset, "add_column") and hasattr(dataset, "__len__") and dataset.format["type"] is None
    if not plain or column_of(dataset) is not None:
        return dataset
    return dataset.add_column(ROW, np.arange(len(dataset)))


def pack_with_numbers(dataset: Any, column: str, args: Any) -> Any:
    """What TRL packs of a prepared data set, with the numbers of the samples of each row in the column ROW.

    args: SFTConfig. Packing knows columns with a value for each token only, so each token gets its sample's number.
    """
    from trl.data_utils import pack_dataset

    each, settings = "qtuning_row_of_token", {"num_proc": args.dataset_num_proc}
    dataset = dataset.map(lambda row: {each: [row[column]] * len(row["input_ids"])}, **settings)
    dataset = dataset.select_columns(["input_ids", "labels", each])
    packed = pack_dataset(dataset, args.max_length, args.packing_strategy, settings)

    def firsts(row: Mapping[str, Any]) -> dict[str, list[int]]:
        starts = [0, *accumulate(row["seq_lengths"])][:-1]
        return {ROW: [row[each][start] for start in starts]}

    packed = packed.map(firsts, remove_columns=[each], **settings)
    return packed.shuffle(seed=args.seed) if args.shuffle_dataset else packed


@dataclass(frozen=True)
class NumberedCollator:
    """A collator whose batches also have ROW, [samples] int64: the numbers of their samples, where all have one.

    collator: the user's, which does not see the columns `hidden`.
    """

    collator: Callable[[list[Any]], Any]
    hidden: tuple[str, ...]

    def __call__(self, examples: list[Any]) -> Any:
        if not all(isinstance(example, Mapping) for example in examples):
            return self.collator(examples)
        seen = [{key: value for key, value in row.items() if key not in self.hidden} for row in examples]
        batch = self.collator(seen)
        if len(batch.get("input_ids", ())) < len(examples):
            # laid end to end, where a sample without tokens leaves no trace
            examples = [row for row in examples if len(row["input_ids"])]
        numbers = [_numbers_in(row) for row in examples]
        if all(numbers):
            batch[ROW] = torch.tensor([number for row in numbers for number in row])
        return batch


def _numbers_in(example: Mapping[str, Any]) -> list[int]:
    """The numbers of the samples in an example: one, those of a packed row, or none."""
    for key in NUMBERS:
        value = example.get(key)
        value = value.tolist() if isinstance(value, torch.Tensor | np.ndarray | np.generic) else value
        if isinstance(value, Integral) and not isinstance(value, bool):
            return [int(value)]
        if isinstance(value, list) and key == ROW:
            return value
    return []


def draw_shown_rows(dataset: Any, count: int) -> frozenset[int]:
    """Numbers of the samples whose token scores are kept (train/token_scores.py); none where they are not known.

    dataset: as the trainer prepared it, tokenised and perhaps packed. count: samples before that.
    """
    shown: list[int] = []
    if column_of(dataset) is None or "input_ids" not in dataset.column_names:
        return frozenset()
    left = max(LEAST, EACH * count)
    for position in order_to_show(len(dataset)):
        row = dataset[position]
        labels: Sequence[int] = row.get("labels", row["input_ids"])
        lengths = row.get("seq_lengths") or [len(labels)]
        ends = [*accumulate(lengths)]
        for number, end, length in zip(_numbers_in(row), ends, lengths, strict=True):
            left -= sum(int(label) != IGNORED for label in labels[end - length + 1 : end])
            if left < 0:
                return frozenset(shown)
            shown.append(number)
    return frozenset(shown)
