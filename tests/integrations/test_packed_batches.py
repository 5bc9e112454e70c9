"""Samples that share a row: TRL's padding-free collator and packing, transformers' flattening collator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trainers import (
    NOTHING_SPARED,
    Q_TUNING,
    RANDOM,
    WHOLE,
    by_row,
    dialogues,
    equal_then_different,
    expected_selections,
    labelled,
    make,
    masked_loss,
    survivors,
    weights,
    windows,
)
from transformers import DataCollatorWithFlattening

from qtuning.integrations.padded import cut, find_targets

FREE = {"padding_free": True, "max_length": None}
PACKED = {"packing": True, "max_length": 40, "per_device_train_batch_size": 2, "shuffle_dataset": True}
FLAT = {"data_collator": DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)}
WAYS = [
    pytest.param("trl", FREE, id="padding-free"),
    pytest.param("trl", PACKED, id="packing"),
    pytest.param("transformers", FLAT, id="flattening"),
]


def unpacked(batch: Any) -> dict[str, Tensor]:
    """The samples of a packed batch, padded on the right."""
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], batch["input_ids"].shape[1]]
    parts = [slice(*pair) for pair in zip(starts, ends, strict=True)]

    def padded(values: Tensor, padding: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([values[part] for part in parts], True, padding)

    ids, labels = padded(batch["input_ids"][0], 0), batch["labels"][0].clone()
    return {
        "input_ids": ids,
        "labels": padded(labels, -100),
        "attention_mask": padded(torch.ones_like(labels), 0),
    }


@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_the_whole_budget_trains_packed_the_same_weights_bit_for_bit(
    build: Callable[..., Any], tmp_path: Path, kind: str, way: dict[str, Any]
) -> None:
    trained = []
    for pruning in (None, WHOLE):
        model = build("llama", attention_dropout=0.2)
        make(kind, model, tmp_path, pruning, gradient_accumulation_steps=2, **way).train()
        trained.append(weights(model))
    assert torch.equal(*trained)


@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_packed_samples_are_scored_pruned_and_trained_as_if_each_were_alone(
    llama: Any, tmp_path: Path, kind: str, way: dict[str, Any]
) -> None:
    trainer = make(kind, llama, tmp_path, Q_TUNING, gradient_accumulation_steps=2, **way)
    batches, pruned, items = windows(trainer, 2)
    alone = [unpacked(batch) for batch in batches]
    expected = expected_selections(trainer, alone)
    assert [labels_in(unpacked(batch)) for batch in pruned] == [
        [[label for _, label in row] for row in survivors(*pair)] for pair in zip(alone, expected, strict=True)
    ]
    assert int(items) == sum(int(selection.tokens.sum()) for selection in expected)
    for before, batch in zip(batches, pruned, strict=True):
        assert batch["input_ids"].shape[1] < before["input_ids"].shape[1]
        assert before.keys() - {"qtuning_row"} == batch.keys()

    llama.train()
    for inputs in pruned:
        trainer.training_step(trainer.model, inputs, items)
    gradient = {name: parameter.grad.clone() for name, parameter in llama.named_parameters()}
    llama.zero_grad()
    masked_loss(llama, alone, [by_row(*pair) for pair in zip(alone, expected, strict=True)], int(items)).backward()
    for name, parameter in llama.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-4, atol=1e-6)


def labels_in(batch: Any) -> list[list[int]]:
    return [[label for _, label in row] for row in labelled(batch)]


@pytest.mark.parametrize(("kind", "way"), [WAYS[0], WAYS[2]])
def test_a_packed_micro_batch_may_lose_everything(llama: Any, tmp_path: Path, kind: str, way: dict[str, Any]) -> None:
    settings = {"train_sampling_strategy": "sequential", "gradient_accumulation_steps": 2, "max_steps": 1}
    trainer = make(kind, llama, tmp_path, NOTHING_SPARED, equal_then_different(8), **settings, **way)
    _, pruned, items = windows(trainer, 2)
    assert pruned[0]["labels"].tolist() == [[-100, -100]] and pruned[0]["position_ids"].tolist() == [[0, 1]]
    assert int(items) == sum(map(len, labels_in(unpacked(pruned[1])))) > 0
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0


def test_packing_is_trls_own_and_keeps_the_numbers_of_the_samples(llama: Any, tmp_path: Path) -> None:
    """Tokens name the sample here: number n consists of word 3 + n."""
    rows = [{"input_ids": [3 + n] * (n % 7 + 2), "labels": [-100] + [3 + n] * (n % 7 + 1)} for n in range(60)]
    data = Dataset.from_list(rows)
    plain = make("trl", llama, tmp_path, None, data, **PACKED).train_dataset
    trainer = make("trl", llama, tmp_path, RANDOM, data, **PACKED, num_train_epochs=1)
    ours = trainer.train_dataset
    assert plain[:]["input_ids"] == ours[:]["input_ids"] and plain[:]["seq_lengths"] == ours[:]["seq_lengths"]
    trainer.train()
    trace = pl.read_parquet(tmp_path / "qtuning" / "trace.parquet")
    assert trace["sample"].is_unique().all() and len(trace) > 20
    assert (trace["response_tokens"] == trace["sample"] % 7 + 1).all()


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6), min_size=1, max_size=5))
def test_a_cut_packed_batch_holds_the_kept_targets_and_what_comes_before_them(
    rows: list[list[tuple[bool, bool]]],
) -> None:
    """rows: of each sample and token, whether it has a label and whether that is kept."""
    flat = FLAT["data_collator"]
    ids = [[10 * n + column for column in range(len(row))] for n, row in enumerate(rows)]
    examples = [
        {"input_ids": each, "labels": [i if label else -100 for i, (label, _) in zip(each, row, strict=True)]}
        for each, row in zip(ids, rows, strict=True)
    ]
    batch = flat(examples)
    target_map = find_targets(batch)
    counts = [sum(label for label, _ in row[1:]) for row in rows]
    assert target_map.lengths.tolist() == [count for count in counts if count]
    assert target_map.samples.tolist() == [n for n, count in enumerate(counts) if count]
    kept = torch.tensor([[c > 0 and label and keep for row in rows for c, (label, keep) in enumerate(row)]])
    small = cut(batch, target_map, kept)
    if torch.equal(kept, target_map.targets):
        assert small is batch
        return
    left = []
    for each, row in zip(ids, rows, strict=True):
        stop = max((c + 1 for c, (label, keep) in enumerate(row) if c and label and keep), default=0)
        if stop:
            labels = [
                i if label and keep and c else -100 for c, (i, (label, keep)) in enumerate(zip(each, row, strict=True))
            ]
            left.append({"input_ids": each[:stop], "labels": labels[:stop]})
    if not left:
        assert small["labels"].tolist() == [[-100, -100]]
        return
    again = flat(left)
    assert small.keys() == again.keys()
    for key, value in again.items():
        assert torch.equal(small[key], value) if isinstance(value, Tensor) else small[key] == value, key


def test_evaluation_is_packed_as_without_pruning(llama: Any, tmp_path: Path) -> None:
    losses = [
        make("trl", llama, tmp_path, pruning, eval_dataset=dialogues(8, seed=1), **FREE).evaluate()["eval_loss"]
        for pruning in (None, Q_TUNING)
    ]
    assert losses[0] == losses[1]
