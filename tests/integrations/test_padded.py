"""Padded batches, cut to what is kept."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import BatchEncoding

from qtuning.errors import UserError
from qtuning.integrations.padded import cut, find_targets

# a sample: for each of its tokens, whether it has a label and whether that is kept
samples = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=7)


def batch_of(rows: list[list[tuple[bool, bool]]], left: bool) -> tuple[dict[str, Any], Tensor]:
    """A padded batch, and the targets to keep. Every token of it is another number."""
    length = max(map(len, rows)) + 1
    shape = (len(rows), length)
    ids, labels = torch.zeros(shape, dtype=torch.int64), torch.full(shape, -100)
    mask, kept = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    for index, row in enumerate(rows):
        start = length - len(row) if left else 0
        for column, (target, keep) in enumerate(row, start):
            ids[index, column] = 1 + index * length + column
            mask[index, column] = 1
            labels[index, column] = ids[index, column] if target else -100
            kept[index, column] = target and keep and column > start
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "token_type_ids": ids + 1000}
    return batch | {"index": torch.arange(len(rows)) * 7, "names": [f"row {i}" for i in range(len(rows))]}, kept


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(samples, min_size=1, max_size=5), left=st.booleans())
def test_a_cut_batch_holds_the_kept_targets_and_what_comes_before_them(
    rows: list[list[tuple[bool, bool]]], left: bool
) -> None:
    batch, kept = batch_of(rows, left)
    target_map = find_targets(batch)
    assert target_map.lengths.tolist() == [n for n in (sum(t for t, _ in row[1:]) for row in rows) if n]
    assert (target_map.lengths + target_map.prompts).tolist() == [
        len(row) for row in rows if any(t for t, _ in row[1:])
    ]
    small = cut(BatchEncoding(batch), target_map, kept)
    assert isinstance(small, BatchEncoding)
    if torch.equal(kept, target_map.targets):
        assert all(small[key] is batch[key] for key in batch)
        return
    width = small["input_ids"].shape[1]
    if not bool(kept.any()):
        assert small["labels"].tolist() == [[-100] * width] and bool(small["attention_mask"].any())
        return
    mine = kept.any(dim=1).nonzero().flatten().tolist()
    assert width == int(kept.nonzero()[:, 1].max()) + 1
    for key in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(small[key], batch[key][mine, :width])
    assert torch.equal(small["labels"], batch["labels"].where(kept, -100)[mine, :width])
    assert small["index"].tolist() == [7 * row for row in mine] and small["names"] == [f"row {row}" for row in mine]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"pixel_values": torch.zeros(2, 3, 4, 4)}, "pixel_values"),
        ({"image_grid": torch.zeros(5, 3)}, "image_grid"),
        ({"position_ids": torch.tensor([[0, 1, 2, 0], [0, 1, 2, 3]])}, "several samples share a row"),
        ({"seq_idx": torch.zeros(2, 4)}, "several samples share a row"),
    ],
)
def test_what_cannot_be_cut_is_refused(extra: dict[str, Any], message: str) -> None:
    batch, _ = batch_of([[(True, True)] * 3] * 2, left=False)
    batch["attention_mask"] = torch.ones(2, 4)
    with pytest.raises(UserError, match=message):
        find_targets(batch | extra)
    with pytest.raises(UserError, match="labels"):
        find_targets({"input_ids": batch["input_ids"]})
